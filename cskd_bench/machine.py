"""The machine without its accelerators: processor, system, and a name for it that names nobody."""

import hashlib
import platform
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

FLAGS: Final = (  # of a processor, by which libraries choose their kernels
    *("fma", "f16c", "avx", "avx2", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni"),
    *("amx_tile", "amx_bf16", "amx_int8", "asimd", "asimdhp", "sve", "sve2", "bf16", "i8mm"),
)
_INFORMATION: Final = Path("/proc/cpuinfo")
_IDENTITY: Final = Path("/etc/machine-id")
_MEMORY: Final = Path("/proc/meminfo")
_GROUPS: Final = Path("/proc/self/cgroup")
_LIMITS: Final = Path("/sys/fs/cgroup")  # of groups of processes: a container's, a Slurm job's
_SALT: Final = "cskd-bench record"


def processor() -> str:
    """Name the processor: Linux tells it in a file, elsewhere the platform module does."""
    return _told("model name") or platform.processor() or platform.machine()


def processor_model() -> str:
    """Name the processor with its family and model, which a virtual machine's name leaves out."""
    numbers = [f"{key.removeprefix('cpu ')} {_told(key)}" for key in ("cpu family", "model") if _told(key)]
    return ", ".join([processor(), *numbers])


def processor_flags() -> tuple[str, ...]:
    """Return which of FLAGS the processor has; none where the system does not tell."""
    has = (_told("flags") or _told("Features")).split()
    return tuple(flag for flag in FLAGS if flag in has)


def system() -> str:
    """Name the operating system and its kernel."""
    return f"{platform.system()} {platform.release()} {platform.machine()}"


def host() -> str:
    """Return 8 hex digits that are the same whenever this machine is asked, and name neither it nor its owner."""
    try:
        name = _IDENTITY.read_text(encoding="utf-8").strip()
    except OSError:
        name = ""
    return hashlib.sha256(f"{_SALT}\n{name or platform.node()}".encode()).hexdigest()[:8]


def available_memory() -> int | None:
    """Return the bytes that this process may still use of the machine and of its group's limits; None: not told."""
    try:
        lines = _MEMORY.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    left = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return min([*left, *_left_in_groups()], default=None)


def _left_in_groups() -> Iterator[int]:
    """Yield what the limits of this process's groups, and of the groups around them, leave; read files count as free.

    Both versions of Linux's control groups; a container may see no more than the root of its own.
    """
    try:
        entries = [line.split(":", 2) for line in _GROUPS.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return
    for _, controllers, path in entries:
        if controllers == "memory":
            root, limit, used, files = "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        elif not controllers:
            root, limit, used, files = "", "memory.max", "memory.current", "inactive_file"
        else:
            continue
        own = _LIMITS / root / path.strip("/")
        for folder in (own, *own.parents):
            with suppress(OSError, ValueError, KeyError):  # no limit here ("max"), or no such folder
                most, held = (int((folder / name).read_text(encoding="utf-8")) for name in (limit, used))
                about = (line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines())
                yield max(0, most - held + int(dict(about)[files]))
            if folder == _LIMITS / root:
                break


def _told(key: str) -> str:
    """Return what Linux tells of the first processor under a key; empty where it does not."""
    try:
        lines = _INFORMATION.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    found = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in found if name.strip() == key), "")
