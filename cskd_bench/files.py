"""The two writers of what must be whole: a file, and a folder. Each is there under its name at once, or not at all."""

import contextlib
import errno
import fcntl
import os
import platform
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

from cskd_bench.errors import UserError
from cskd_bench.names import real_path

NO_LOCKS: Final = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # what a file system without locks answers
_NO_LINKS: Final = (  # what one without hard links answers for a file that was just written beside
    errno.EPERM,
    errno.EACCES,
    errno.EINVAL,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EMLINK,
    errno.EXDEV,
)
_STALE: Final = 60.0  # seconds after which nobody is believed to be still giving a file its name
_LOOK: Final = 0.02  # seconds between two looks at another process's claim

UNFINISHED: Final = ".writing-"  # how the name of a folder begins until it is whole


def write_file(path: Path, content: bytes | Callable[[Path], object], *, replace: bool = True) -> None:
    """Write a file, flush it to disk and give it its name; a link keeps pointing where it does.

    `content` is bytes, or a function that writes the file whose name it is given and raises OSError where it cannot.
    With `replace=False` a file that is there already stays, and FileExistsError says so; of two processes one wins.
    UserError where the file cannot be written; nothing of it is left then.
    """
    try:
        named = _write(path, content, replace)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    if not named:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def _write(path: Path, content: bytes | Callable[[Path], object], replace: bool) -> bool:
    """Write a file under another name, and then give it its own; False where that is taken and may not be replaced."""
    target = real_path(path) if replace else path
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            temporary.write_bytes(content)
        else:
            content(temporary)
        sync(temporary)
        return _rename(temporary, target) if replace else _name_new(temporary, target)
    finally:
        with contextlib.suppress(OSError):  # where the folder itself cannot be looked at, there is nothing to remove
            temporary.unlink(missing_ok=True)


def refuse_unwritable(folder: Path) -> None:
    """Write a small file into a folder as a record is written, read it back and remove it.

    Where the folder is not there yet, the one above it that is there is tried, and nothing is made. UserError where one
    of these fails, so that it fails before a training and not after it.
    """
    place = real_path(folder)
    there = next(parent for parent in (place, *place.parents) if parent.exists() or parent.is_symlink())
    if not there.is_dir():
        raise UserError(f"{folder}: cannot be made: {there} is no folder; move it away, or name another folder")
    probe = there / f".probe-{os.getpid()}-{secrets.token_hex(4)}"
    content = probe.name.encode()
    try:
        written = _write(probe, content, replace=False) and probe.read_bytes() == content
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written: {error.strerror or error}; make room or give permission there, or name "
            "another folder"
        ) from error
    if not written:
        raise UserError(f"{folder}: a file written there is not read back as it was; name another folder")


def make_folder(folder: Path) -> None:
    """Make a folder that can be written to, with those above it; UserError where that fails."""
    refuse_unwritable(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made: {error.strerror}") from error


def _rename(temporary: Path, target: Path) -> bool:
    """Give a file another one's name. NFS may ask twice: the second time, what was renamed at first is not found."""
    ours = temporary.stat()
    try:
        temporary.replace(target)
    except FileNotFoundError:
        if not os.path.samestat(ours, target.stat()):
            raise
    return True


def _name_new(temporary: Path, target: Path) -> bool:
    """Give a file a name unless one has it: by a hard link, or under a claim where the file system has no links."""
    try:
        target.hardlink_to(temporary)  # fails where the name exists, unlike renaming
        return True
    except OSError as error:
        if _is_linked(temporary, target):  # NFS asked twice: the second time, the name was there
            return True
        if isinstance(error, FileExistsError):
            return False
        if error.errno not in _NO_LINKS:
            raise
    with _claim(target, temporary) as free:
        return free and _rename(temporary, target)


def _is_linked(temporary: Path, target: Path) -> bool:
    """Whether both names are of one file. Its number of links tells less: NFS may remember the one from before."""
    try:
        return target.samefile(temporary)
    except OSError:
        return False


@contextmanager
def _claim(target: Path, temporary: Path) -> Iterator[bool]:
    """Wait until no other process is giving `target` its name; yield whether the name is free, to this process alone.

    A claim is a file that only one process can make: `.NAME.claim`, which says whose it is. One whose process is gone
    is not removed, which two could do, the second with the first one's new claim. `.NAME.claim1` is claimed beside it,
    and who succeeds removes both. A process that sleeps for a minute between its last look and its renaming loses its
    claim and does not notice.
    """
    stale: list[Path] = []
    began = temporary.stat().st_mtime - time.monotonic()  # by the file system's own clock
    while True:
        claim = target.with_name(f".{target.name}.claim{len(stale) or ''}")
        try:
            descriptor = os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            break
        except FileExistsError:
            if target.exists():
                yield False
                return
            if _is_stale(claim, began + time.monotonic()):
                stale.append(claim)
                continue
            stale.clear()
            time.sleep(_LOOK)
    try:
        with contextlib.suppress(OSError), os.fdopen(descriptor, "wb") as file:
            file.write(f"{this_machine()} {os.getpid()}\n".encode())  # on a full disk, its age alone will tell
        yield not target.exists()
    except BaseException:
        stale.clear()  # the name is still free
        raise
    finally:
        for done in (*stale, claim):
            with contextlib.suppress(OSError):
                done.unlink(missing_ok=True)


def _is_stale(claim: Path, now: float) -> bool:
    """Whether a claim's process has ended on this machine, or the claim is a minute old."""
    try:
        if now - claim.stat().st_mtime > _STALE:
            return True
        machine, _, process = claim.read_text(encoding="utf-8", errors="replace").rpartition(" ")
    except (FileNotFoundError, PermissionError):  # given up, or another person's
        return False
    return machine == this_machine() and process.endswith("\n") and not is_running(int(process))


def is_running(process: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another person's
        return True
    return True


@cache
def this_machine() -> str:
    """Name the machine, its start and what counts its processes: containers of one name have numbers of their own."""
    with contextlib.suppress(OSError):
        start = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{platform.node()} {start} {Path('/proc/self/ns/pid').stat().st_ino}"
    return platform.node()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, which stays, until the block ends; other processes wait.

    On a file system without locks nobody waits. UserError where the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise UserError(f"{path}: cannot be locked: {error.strerror}") from error
        yield


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
