"""The manifest of a records folder: the SHA-256 of every file in it, as `sha256sum -c MANIFEST` reads it."""

import re
from pathlib import Path
from typing import Final

from cskd_bench.errors import UserError
from cskd_bench.files import write_file
from cskd_bench.record import sha256_file

MANIFEST: Final = "MANIFEST"
_LINE: Final = re.compile(r"([0-9a-f]{64})  (.+)")


def files_in(folder: Path) -> list[Path]:
    """Return the records and side files of a folder in the order of their names, without its manifest."""
    return sorted(path for path in folder.glob("[!.]*") if path.is_file() and path.name != MANIFEST)


def write_manifest(folder: Path) -> int:
    """List every record and side file of a folder in its manifest, and return how many there are.

    UserError for a missing folder, and for a file that an earlier manifest lists with other content: records are
    never changed.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of records")
    now = {path.name: sha256_file(path) for path in files_in(folder)}
    before = read_manifest(folder) or {}
    changed = [name for name, digest in now.items() if before.get(name, digest) != digest]
    if changed:
        raise UserError(
            f"{folder / changed[0]}: has changed since it was listed in {MANIFEST}; put the file back as it was, or "
            f"delete {MANIFEST} to list what is there now"
        )
    write_file(folder / MANIFEST, "".join(f"{digest}  {name}\n" for name, digest in now.items()).encode())
    return len(now)


def read_manifest(folder: Path) -> dict[str, str] | None:
    """Return the SHA-256 of each file that a folder's manifest lists; None without one.

    UserError where a line of it cannot be read.
    """
    path = folder / MANIFEST
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    listed = {}
    for number, line in enumerate(lines, 1):
        found = _LINE.fullmatch(line)
        if not found:
            raise UserError(f"{path}: line {number} is not a SHA-256, two spaces and a name; write it again")
        listed[found[2]] = found[1]
    return listed


def manifest_problems(folder: Path) -> list[tuple[str, str]]:
    """Return every file that is not as a folder's manifest lists it, with the reason; nothing without a manifest."""
    listed = read_manifest(folder)
    if listed is None:
        return []
    there = {path.name: path for path in files_in(folder)}
    problems = []
    for name in sorted(listed.keys() | there.keys()):
        if name not in there:
            problems.append((name, f"{MANIFEST} lists it, and it is not there"))
        elif name not in listed:
            problems.append((name, f"{MANIFEST} does not list it: cskd-bench records manifest adds what is new"))
        elif sha256_file(there[name]) != listed[name]:
            problems.append((name, f"it has changed since {MANIFEST} was written"))
    return problems
