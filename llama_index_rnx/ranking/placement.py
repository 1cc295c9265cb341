"""The device and the precision of a model: from the names that users give, or as it suits the
machine. It knows no model.
"""

from __future__ import annotations

import torch

from llama_index_rnx.errors import SettingsError

# The precisions of a model's weights, by the names that users give.
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def resolve_dtype(name: str) -> torch.dtype:
    """Return the dtype of this name.

    Raises:
        SettingsError: it is not one of `DTYPES`.

    Example:
        >>> resolve_dtype("bfloat16")
        torch.bfloat16
    """
    dtype = DTYPES.get(name)
    if dtype is None:
        raise SettingsError(
            f"dtype={name!r} was given; 'float32', 'bfloat16' and 'float16' are allowed."
        )
    return dtype


def resolve_device(name: str) -> str:
    """Return the name of a device after a try to use it.

    Raises:
        SettingsError: torch knows no such device, or this machine has none.
    """
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(
            f"device={name!r} was given and is not there ({error}); 'cpu' always is."
        ) from error
    return name


def fast_cpu_dtype() -> torch.dtype:
    """Return bfloat16 where the processor multiplies it by itself, else float32."""
    # Torch offers no public question for this, and older versions not even this one.
    is_native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if is_native else torch.float32
