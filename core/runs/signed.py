"""A SHA-256 inside of the bytes that it covers: a file that is damaged anywhere is told.

The bytes hold `sha256:` and 64 hexadecimal digits: the digest of all bytes, with 64 zeros in its
place.
"""

import hashlib
import re

UNSIGNED = "sha256:" + "0" * 64
SIGNATURE = re.compile(rb"sha256:([0-9a-f]{64})")


def sign(content: bytes) -> bytes:
    """Return the content with its digest in place of the first UNSIGNED."""
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return content.replace(UNSIGNED.encode(), digest.encode(), 1)


def is_whole(content: bytes, end: int | None = None) -> bool:
    """Return True if the first digest before `end` is that of all other bytes."""
    found = SIGNATURE.search(content, 0, len(content) if end is None else end)
    if not found:
        return False
    digest = hashlib.sha256(content[: found.start(1)])
    digest.update(b"0" * 64)
    digest.update(content[found.end(1) :])
    return digest.hexdigest().encode() == found[1]
