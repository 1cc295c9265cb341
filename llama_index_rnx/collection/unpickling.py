"""Read only plain points from embedded Qdrant's files. It knows no nodes and opens no files.

Embedded Qdrant keeps every point as a pickle, and a pickle can name any function to be called. So
while a folder is opened its pickles are read by an unpickler that knows Qdrant's own data classes
and nothing else: an index that somebody else made can be damaged, but it cannot run anything.
"""

from __future__ import annotations

import io
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from pydantic import BaseModel
from qdrant_client.http.models import models
from qdrant_client.local import persistence

_persistence: Any = persistence  # the module that reads and writes points
_lock = threading.RLock()


class UnsafePickleError(ValueError):
    """A stored point that is damaged, or more than data."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        kind = getattr(models, name, None) if module == models.__name__ else None
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            raise UnsafePickleError(
                f"a point in it names {module}.{name}, which is no data of Qdrant's"
            )
        return kind


def restricted_loads(data: bytes) -> Any:
    """Return a stored point.

    Raises:
        UnsafePickleError: it is damaged, or would call something.
    """
    try:
        return _PlainUnpickler(io.BytesIO(data)).load()
    except UnsafePickleError:
        raise
    # A damaged pickle may raise anything.
    except Exception as error:
        raise UnsafePickleError(f"a point in it is damaged ({type(error).__name__})") from error


@contextmanager
def restricted_unpickling() -> Iterator[None]:
    """Make embedded Qdrant read its points by `restricted_loads` inside the block."""
    with _lock:
        original = _persistence.pickle
        _persistence.pickle = SimpleNamespace(dumps=pickle.dumps, loads=restricted_loads)
        try:
            yield
        finally:
            _persistence.pickle = original
