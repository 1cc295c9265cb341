"""How much one server accepts. It imports nothing, so that a help page can name its defaults."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much one server accepts.

    body: bytes of a request, after it was inflated.
    bodies: bytes of all requests that are being received, wait or are at work.
    at_once: requests that are being received, wait or are at work.
    seconds: for receiving a request, and again for its ranking.
    idle: seconds within a request's body without a byte.
    text: characters of a document that are read; the rest is cut off.
    characters, pixels: of all texts and all images of a request, as they are read.
    """

    body: int = 64 * 2**20
    bodies: int = 512 * 2**20
    at_once: int = 32
    seconds: float = 60.0
    idle: float = 10.0
    text: int = 50_000
    characters: int = 8_000_000
    pixels: int = 1_000_000_000
