"""Unpack archives safely, beside what is there: their content appears whole or not at all."""

import contextlib
import os
import secrets
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from cskd_bench.data.layouts import PACKED, DataPlace
from cskd_bench.errors import UserError
from cskd_bench.files import UNFINISHED
from cskd_bench.task import TaskData


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Yield an empty folder inside `folder`, which is made where it is missing; afterwards what is left of it goes.

    UserError where `folder` cannot be written.
    """
    made = not folder.exists()
    temporary = folder / f"{UNFINISHED}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); name a folder that can be with --data-dir"
        ) from error
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):  # it holds something
                folder.rmdir()


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar into a folder; UserError where it is damaged, does not fit, or would write outside of the folder."""
    options: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if path.is_absolute() or ".." in path.parts or not (member.isfile() or member.isdir()):
                    raise UserError(
                        f"{archive}: not unpacked: {member.name!r} would lie outside of its folder, or is a link; "
                        "get the archive again from its authors"
                    )
                tar.extract(member, folder, **options)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        raise UserError(f"{archive}: not a whole archive ({reason}); remove it and get it again") from error
    except OSError as error:
        raise UserError(f"{archive}: cannot be unpacked ({error.strerror or error})") from error


def move_in(staged: Path, folder: Path) -> None:
    """Give every entry of `staged` its name in `folder`, unless another process was first."""
    for entry in sorted(staged.iterdir()):
        try:
            entry.rename(folder / entry.name)
        except OSError as error:
            if not (folder / entry.name).exists():
                raise UserError(f"{folder / entry.name}: cannot be written ({error.strerror})") from error


def unpack_found(data: TaskData, found: DataPlace) -> None:
    """Unpack a data set's archives into the layout that is read; UserError where a part is missing or damaged."""
    layout, place = PACKED[data.dataset], found.archives[0].parent
    inner = found.root / layout.inner
    loose = [name for name in layout.loose if not (inner / name).is_file()]
    lacking = [path.name for path in (*found.archives, *(place / name for name in loose)) if not path.is_file()]
    if lacking:
        raise UserError(f"{place}: {', '.join(lacking)} missing next to {found.archives[0].name}; {data.by_hand}")
    with staging(found.root) as temporary:
        content = temporary / "content"
        unpacked = content / layout.inner if layout.bare else content
        unpacked.mkdir(parents=True)
        for archive in found.archives:
            unpack(archive, unpacked)
        if not (content / layout.sign).is_dir():
            raise UserError(f"{found.archives[0]}: holds no {layout.sign}/: not the archive of {data.dataset}")
        for name in loose:
            shutil.copy(place / name, unpacked / name)
        if layout.bare and inner.is_dir():
            move_in(unpacked, inner)
        else:
            move_in(content, found.root)
