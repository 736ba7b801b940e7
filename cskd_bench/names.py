"""Names and times as text: a name on disk need not be UTF-8, and Python then holds it in surrogates."""

import os
from pathlib import Path


def name_bytes(name: str) -> bytes:
    """Return a name as it is on disk; UTF-8 for what came from a text instead."""
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogatepass")


def readable(name: str) -> str:
    r"""Return a name that every text may hold: bytes that are not UTF-8 become `\xe9`; other names stay as they are."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return name_bytes(name).decode("utf-8", "backslashreplace")
    return name


def on_one_line(text: str) -> str:
    r"""Return text with line breaks and other controls as escapes: a folder's name may hold a line break."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in readable(text))


def real_path(path: str | os.PathLike[str]) -> Path:
    """Return an absolute path with its links followed; a link that leads back to itself stays, and cannot be opened."""
    return Path(os.path.realpath(path))


def clock(seconds: float) -> str:
    """Write seconds as hours, minutes and seconds."""
    hours, rest = divmod(max(0, round(seconds)), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"
