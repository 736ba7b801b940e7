"""Processes, signals and full disks."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def parent_of(process: int) -> int:
    """Return the parent of a process that runs, 0 for one that has ended."""
    with suppress(OSError):
        state, parent = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[:2]
        return 0 if state == "Z" else int(parent)
    return 0


def send(process: int, number: int) -> bool:
    """Send a signal, and say whether the process was there."""
    with suppress(ProcessLookupError):
        os.kill(process, number)
        return True
    return False


@contextmanager
def filled(ballast: Path) -> Iterator[None]:
    """Take all room of a file system until the block ends."""
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[Path]:
    """Mount a tmpfs of a size, and take it away when the block ends."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
