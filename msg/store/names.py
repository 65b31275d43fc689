"""The name of a destination as the name of a directory, and back.

A plain name is its own directory name. Anything else is percent-encoded byte by byte,
upper case too (disks that ignore case would fold two queues into one), with hex digits in
lower case. What would be longer than 200 bytes is cut and ends in `~` and its SHA-256; the
true name then stands in the first record of every segment.
"""

import hashlib
import re

DIRECTORY_BYTES_MAX = 200

_PLAIN = re.compile(r"[a-z0-9][a-z0-9_.-]{0,127}")
_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_.-")
_FIRST = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789")
_ENCODED = re.compile(r"(?:[a-z0-9]|%[0-9a-f]{2})(?:[a-z0-9_.-]|%[0-9a-f]{2})*")
_CUT = re.compile(r"[a-z0-9_.%-]{1,135}~[0-9a-f]{64}")
# names that Windows gives to devices, with any extension: a copied data directory must open
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?")


def directory_of(name: str) -> str:
    """The directory that holds destination `name`: one for each, and never outside its parent."""
    if not name:
        raise ValueError("a destination has a name")
    if _PLAIN.fullmatch(name) and not name.endswith(".") and not _DEVICE.fullmatch(name):
        return name
    raw = name.encode()
    keep_first = raw[0] in _FIRST and not _DEVICE.fullmatch(name)
    parts = [chr(raw[0]) if keep_first else f"%{raw[0]:02x}"]
    parts += [chr(byte) if byte in _SAFE else f"%{byte:02x}" for byte in raw[1:]]
    if parts[-1] == ".":  # Windows drops a dot at the end
        parts[-1] = "%2e"
    encoded = "".join(parts)
    if len(encoded) <= DIRECTORY_BYTES_MAX:
        return encoded
    digest = hashlib.sha256(raw).hexdigest()
    return f"{encoded[: DIRECTORY_BYTES_MAX - 65]}~{digest}"


def name_of(directory: str) -> str | None:
    """The name behind a directory; None when it was cut, or is not one that we make."""
    if not _ENCODED.fullmatch(directory):
        return None
    raw = bytearray()
    at = 0
    while at < len(directory):
        if directory[at] == "%":
            raw.append(int(directory[at + 1 : at + 3], 16))
            at += 3
        else:
            raw.append(ord(directory[at]))
            at += 1
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        return None
    return name if directory_of(name) == directory else None


def is_cut(directory: str) -> bool:
    """Whether the true name is too long for a directory and must be read from a segment."""
    return _CUT.fullmatch(directory) is not None
