"""The two writers of what must be whole: a file, and a folder. Each is there under its name at once, or not at all."""

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cskd_bench.errors import UserError
from cskd_bench.names import real_path

NO_LOCKS: Final = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # what a file system without locks answers
_NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)

UNFINISHED: Final = ".writing-"  # how the name of a folder begins until it is whole


def write_file(path: Path, content: bytes | Callable[[Path], object], *, replace: bool = True) -> None:
    """Write a file, flush it to disk and give it its name; a link keeps pointing where it does.

    `content` is bytes, or a function that writes the file whose name it is given and raises OSError where it cannot.
    With `replace=False` a file that is there already stays, and FileExistsError says so; of two processes one wins.
    UserError where the file cannot be written; nothing of it is left then.
    """
    target = real_path(path) if replace else path
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            temporary.write_bytes(content)
        else:
            content(temporary)
        sync(temporary)
        named = _name_new(temporary, target) if not replace else bool(temporary.replace(target))
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # where the folder itself cannot be looked at, there is nothing to remove
            temporary.unlink(missing_ok=True)
    if not named:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def refuse_unwritable(folder: Path) -> None:
    """UserError where a folder that is written to later could not be made, or written to; nothing is made."""
    place = real_path(folder)
    there = next(parent for parent in (place, *place.parents) if parent.exists() or parent.is_symlink())
    if not there.is_dir():
        raise UserError(f"{folder}: cannot be made: {there} is no folder")
    if not os.access(there, os.W_OK):
        raise UserError(f"{folder}: cannot be written: {there} forbids it")


def _name_new(temporary: Path, target: Path) -> bool:
    """Give a file a name unless one has it: by a hard link, or under a lock where the file system has no links."""
    try:
        target.hardlink_to(temporary)  # fails where the name exists, unlike renaming
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    with target.with_name(f".{target.name}.lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        try:
            if target.exists():
                return False
            temporary.rename(target)
            return True
        finally:
            Path(lock.name).unlink(missing_ok=True)


@contextmanager
def write_folder(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield a folder to fill; when the block ends well, it is flushed to disk and renamed to `path`.

    With `replace=False` a folder that is there by then stays, and ours goes. When the block ends with an error, or
    the folder cannot be renamed, nothing is left and the error goes on.
    """
    temporary = path.with_name(f"{UNFINISHED}{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for inside in sorted(temporary.rglob("*")):
            sync(inside)
        if replace and path.exists():
            shutil.rmtree(path)
        try:
            temporary.rename(path)
        except OSError:  # another process was first
            if replace or not path.exists():
                raise
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync(path: Path) -> None:
    """Flush a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
