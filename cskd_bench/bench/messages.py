"""The last words of a log: what a running cell said."""

from datetime import datetime
from pathlib import Path
from typing import Final

from cskd_bench.names import on_one_line

TAIL: Final = 8192  # bytes at the end of a log that are looked at


def last_lines(log: Path, since: datetime | None = None) -> list[str]:
    """Return the last lines of a log; none where it is not there, or was not written to since a time."""
    try:
        with log.open("rb") as file:
            size, written = file.seek(0, 2), log.stat().st_mtime
            file.seek(max(0, size - TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return text.splitlines() if since is None or written >= since.timestamp() - 1 else []


def last_message(log: Path, cell: str, since: datetime | None = None) -> str:
    """Return a cell's last message, without the cell's name before it; empty where there is none."""
    lines = [on_one_line(line) for line in last_lines(log, since) if line.strip()]
    return lines[-1].removeprefix(f"{cell}: ") if lines else ""
