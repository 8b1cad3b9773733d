"""Choices that depend on nothing but a name: the same on every machine, in every order, and whatever else there is."""

from __future__ import annotations

import hashlib


def digest(name: str, size: int = 6) -> bytes:
    """`size` bytes that look random. Another size gives other bytes, not a part of them."""
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=size).digest()


def draw(name: str) -> float:
    """A number in [0, 1)."""
    return int.from_bytes(digest(name), "big") / 2**48
