"""The connection of a collection to its engine, whatever engine that is. It knows no nodes and no
vectors.
"""

from __future__ import annotations

import atexit
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from qdrant_client import QdrantClient

from llama_index_rnx.errors import StorageError

Location = str | Path | QdrantClient | Sequence[str]
MEMORY = ":memory:"
T = TypeVar("T")

# The connections that were opened here, and not by the user.
_owned: weakref.WeakSet[Connection] = weakref.WeakSet()


class Connection(ABC):
    """One engine.

    Attributes:
        where: its place, for messages.
        embedded: whether Qdrant runs in this process.
        read_only: whether nothing can be written.
        has_payload_indexes: whether the engine finds points by a field without reading all.
    """

    where: str
    embedded = True
    read_only = False
    has_payload_indexes = True

    def __init__(self, where: str, owned: bool = True) -> None:
        self.where = where
        self._users: weakref.WeakSet[object] = weakref.WeakSet()
        self._is_owned = owned
        if owned:
            _owned.add(self)

    @abstractmethod
    def call(self, action: Callable[[Any], T]) -> T:
        """Run an action with a client: a `QdrantClient`, or an `EdgeClient`, which has those of its
        methods that a collection calls. Every call of Qdrant goes through here.

        An action may run twice, as Qdrant's upserts and deletions may.

        Raises:
            ConnectionFailedError: no server answers, or one refuses.
            StorageError: an engine in this process cannot read or write its files.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the engine; nothing happens to one that is closed."""

    def check_version(self) -> None:  # noqa: B027
        """Raise ConnectionFailedError for an engine that is too old."""

    def acquire(self, user: object) -> None:
        """Count a user: the last one to release an engine that was opened here closes it."""
        self._users.add(user)

    def release(self, user: object) -> None:
        """Forget a user, and close the engine after the last one."""
        self._users.discard(user)
        if self._is_owned and not self._users:
            self.close()

    def optimize(self, name: str) -> bool:
        """Do what makes the searches of a collection fast, and return whether there was something
        to do. Servers do it by themselves, and local mode has no such thing.
        """
        return False

    def dump(self, name: str) -> Any:
        """Return a copy of a collection that ends with this process; None for one that does not
        exist, and for other engines, which can be opened again.
        """
        return None

    def restore(self, name: str, dumped: Any) -> None:
        """Put what `dump` returned into this engine."""
        raise NotImplementedError


@atexit.register
def _close_owned() -> None:
    """Close what nobody closed, before Python takes its modules apart."""
    for connection in list(_owned):
        # What cannot be closed is whole all the same: the next process replays its log.
        with suppress(StorageError):
            connection.close()
