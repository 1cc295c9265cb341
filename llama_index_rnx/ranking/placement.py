"""The device and the precision of a model: from the names that users give, or as it suits the
machine. It imports torch only when it is asked, and knows no model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_index_rnx.errors import SettingsError

if TYPE_CHECKING:
    import torch

# The precisions of a model's weights, by the names that users and torch give them.
DTYPES = ("float32", "bfloat16", "float16")


def resolve_dtype(name: str) -> torch.dtype:
    """Return the dtype of this name.

    Raises:
        SettingsError: it is not one of `DTYPES`.

    Example:
        >>> resolve_dtype("bfloat16")
        torch.bfloat16
    """
    import torch

    if name not in DTYPES:
        raise SettingsError(
            f"dtype={name!r} was given; 'float32', 'bfloat16' and 'float16' are allowed."
        )
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def resolve_device(name: str) -> str:
    """Return the name of a device after a try to use it.

    Raises:
        SettingsError: torch knows no such device, or this machine has none.
    """
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(
            f"device={name!r} was given and is not there ({error}); 'cpu' always is."
        ) from error
    return name


def fast_cpu_dtype() -> torch.dtype:
    """Return bfloat16 where the processor multiplies it by itself, else float32."""
    import torch

    # Torch offers no public question for this, and older versions not even this one.
    is_native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if is_native else torch.float32
