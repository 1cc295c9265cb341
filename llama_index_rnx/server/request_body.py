"""Bodies of requests: inflated while they arrive, and counted, so that all of them together cannot
fill the memory. It knows no HTTP headers.
"""

from __future__ import annotations

import zlib

from llama_index_rnx.server.errors import RETRY_SOON, RequestError

GZIP = {"gzip", "x-gzip"}
# Values of zlib's `wbits`.
_WITH_GZIP_HEADER = 31
_WITH_ZLIB_HEADER = 15
_BARE = -15
# The low half of the first byte of a zlib stream.
_ZLIB_METHOD = 8


class Budget:
    """The number of bytes that all requests of a server may hold together."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0

    def take(self, count: int) -> None:
        """Take `count` bytes.

        Raises:
            RequestError: fewer are left (503).
        """
        if self.used + count > self.total:
            message = "too many bytes of other requests are held already; try again in a moment."
            raise RequestError(503, message, RETRY_SOON)
        self.used += count

    def release(self, count: int) -> None:
        """Give `count` bytes back."""
        self.used -= count


class Inflater:
    """Decodes the bytes of a body as they arrive, into at most `limit` bytes.

    Example:
        >>> import gzip
        >>> inflater = Inflater("gzip", limit=100)
        >>> inflater.feed(gzip.compress(b"Bees make honey."))
        b'Bees make honey.'
        >>> inflater.finish()
    """

    def __init__(self, encoding: str, limit: int) -> None:
        """
        Raises:
            RequestError: the content encoding is not known here (415).
        """
        self._encoding = encoding
        self._limit = limit
        self._size = 0
        if encoding not in GZIP | {"", "identity", "deflate"}:
            message = (
                "the content-encoding is not known here; allowed are gzip, deflate and identity."
            )
            raise RequestError(415, message)
        self._plain = encoding in ("", "identity")
        self._stream = zlib.decompressobj(_WITH_GZIP_HEADER) if encoding in GZIP else None

    def feed(self, data: bytes) -> bytes:
        """Return these bytes decoded.

        Raises:
            RequestError: there are more than `limit` bytes by now (413), or the stream is damaged
                (400).
        """
        inflated = data if self._plain else self._inflate(data)
        self._size += len(inflated)
        if self._size > self._limit:
            raise too_large(self._limit)
        return inflated

    def finish(self) -> None:
        """
        Raises:
            RequestError: the end of the stream is missing (400).
        """
        if self._stream is not None and not self._stream.eof:
            raise RequestError(400, f"the body ends before its {self._encoding} stream does.")

    def _inflate(self, data: bytes) -> bytes:
        if not data:
            return b""

        # Some clients send `deflate` with zlib's header, as the standard says, others without it.
        if self._stream is None:
            wbits = _WITH_ZLIB_HEADER if data[0] & 15 == _ZLIB_METHOD else _BARE
            self._stream = zlib.decompressobj(wbits)

        # One byte more than allowed is enough to see that it is too much: no bomb is ever unpacked.
        try:
            inflated = self._stream.decompress(data, self._limit - self._size + 1)
        except zlib.error as error:
            raise RequestError(400, f"the body is no {self._encoding} stream.") from error

        if self._stream.unused_data:
            raise RequestError(400, f"the body goes on behind its {self._encoding} stream.")
        return inflated


def too_large(limit: int) -> RequestError:
    """Return the answer to a body of more than `limit` bytes."""
    return RequestError(
        413, f"the request has more than {limit} bytes; send fewer or smaller images."
    )
