"""Bodies of requests: inflated while they arrive, and counted, so that no sum of them fills the
memory.
"""

from __future__ import annotations

import zlib

from llama_index_rnx.server.limits import RETRY_SOON, RequestError

GZIP = {"gzip", "x-gzip"}
_WITH_GZIP_HEADER, _WITH_ZLIB_HEADER, _BARE = 31, 15, -15  # zlib's `wbits`
_ZLIB_METHOD = 8  # the low half of a zlib stream's first byte


class Budget:
    """Bytes that all requests of a server hold together."""

    def __init__(self, total: int) -> None:
        self.total, self.used = total, 0

    def take(self, count: int) -> None:
        """Raises Refused (503) when so many more are too many."""
        if self.used + count > self.total:
            message = "too many bytes of other requests are held already; try again in a moment."
            raise RequestError(503, message, RETRY_SOON)
        self.used += count

    def give_back(self, count: int) -> None:
        self.used -= count


class Inflater:
    """Turns the bytes that arrive into the bytes that were meant, at most `limit` of them.

    Example:
        >>> import gzip
        >>> inflater = Inflater("gzip", limit=100)
        >>> inflater.feed(gzip.compress(b"Bees make honey."))
        b'Bees make honey.'
        >>> inflater.finish()
    """

    def __init__(self, encoding: str, limit: int) -> None:
        """Raises Refused (415) for an encoding that is not known here."""
        self._encoding, self._limit, self._size = encoding, limit, 0
        if encoding not in GZIP | {"", "identity", "deflate"}:
            message = (
                "the content-encoding is not known here; allowed are gzip, deflate and identity."
            )
            raise RequestError(415, message)
        self._plain = encoding in ("", "identity")
        self._stream = zlib.decompressobj(_WITH_GZIP_HEADER) if encoding in GZIP else None

    def feed(self, data: bytes) -> bytes:
        """What these bytes stand for. Raises Refused (413, 400) as soon as it is too much, or is
        damaged.
        """
        inflated = data if self._plain else self._inflate(data)
        self._size += len(inflated)
        if self._size > self._limit:
            raise too_large(self._limit)
        return inflated

    def finish(self) -> None:
        """Raises Refused (400) when the end of the stream is missing."""
        if self._stream is not None and not self._stream.eof:
            raise RequestError(400, f"the body ends before its {self._encoding} stream does.")

    def _inflate(self, data: bytes) -> bytes:
        if not data:
            return b""

        # Some clients send `deflate` with zlib's header, as the standard says, others without.
        if self._stream is None:
            wbits = _WITH_ZLIB_HEADER if data[0] & 15 == _ZLIB_METHOD else _BARE
            self._stream = zlib.decompressobj(wbits)

        # One byte more than allowed is enough to see that it is too much: a bomb is never unpacked.
        try:
            inflated = self._stream.decompress(data, self._limit - self._size + 1)
        except zlib.error as error:
            raise RequestError(400, f"the body is no {self._encoding} stream.") from error

        if self._stream.unused_data:
            raise RequestError(400, f"the body goes on behind its {self._encoding} stream.")
        return inflated


def too_large(limit: int) -> RequestError:
    return RequestError(
        413, f"the request has more than {limit} bytes; send fewer or smaller images."
    )
