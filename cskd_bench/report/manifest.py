"""The manifest of a records folder: the SHA-256 of every file in it, as `sha256sum -c MANIFEST` reads it."""

import re
from pathlib import Path
from typing import Final

from cskd_bench.errors import UserError
from cskd_bench.files import write_file
from cskd_bench.record import sha256_file

MANIFEST: Final = "MANIFEST"
_MEND: Final = "put it back as it was, or delete it and run `cskd-bench records manifest`"
_LINE: Final = re.compile(r"([0-9a-f]{64})  (.+)")


def files_in(folder: Path) -> list[Path]:
    """Return the records and side files of a folder in the order of their names, without its manifest."""
    return sorted(path for path in folder.glob("[!.]*") if path.is_file() and path.name != MANIFEST)


def write_manifest(folder: Path) -> int:
    """List every record and side file of a folder in its manifest, and return how many there are.

    UserError for a missing folder, for a name that a line cannot hold, and for a file that an earlier manifest lists
    and that has other content now or is gone: records are never changed, and none is dropped.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of records")
    files = files_in(folder)
    for path in files:
        if not path.name.isprintable():  # a line break, or a byte that is not text
            raise UserError(f"{folder}: {MANIFEST} cannot list the file {path.name!r}; remove it or rename it")
    now = {path.name: sha256_file(path) for path in files}
    for name, digest in (read_manifest(folder) or {}).items():
        if now.get(name) != digest:
            what = "has changed" if name in now else "is missing"
            raise UserError(
                f"{folder / name}: {what} since it was listed in {MANIFEST}; put the file back as it was, or delete "
                f"{MANIFEST} to list what is there now"
            )
    write_file(folder / MANIFEST, "".join(f"{digest}  {name}\n" for name, digest in now.items()).encode())
    return len(now)


def read_manifest(folder: Path) -> dict[str, str] | None:
    """Return the SHA-256 of each file that a folder's manifest lists; None without one.

    UserError where a line of it cannot be read, and where a name stands twice.
    """
    path = folder / MANIFEST
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    listed = {}
    for number, line in enumerate(lines if lines != [""] else [], 1):
        found = _LINE.fullmatch(line)
        if not found or "/" in found[2]:
            raise UserError(f"{path}: line {number} is not a SHA-256, two spaces and a name; {_MEND}")
        if found[2] in listed:
            raise UserError(f"{path}: line {number} lists {found[2]} once more; {_MEND}")
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
