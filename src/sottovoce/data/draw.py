"""Random-looking choices from a hash of a name: the same on every machine and in any order."""

from __future__ import annotations

import hashlib


def digest(name: str, size: int = 6) -> bytes:
    """Hash of the name in `size` bytes. A smaller size is not a prefix of a larger one."""
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=size).digest()


def draw(name: str) -> float:
    """A number in [0, 1) from the hash of the name."""
    return int.from_bytes(digest(name), "big") / 2**48
