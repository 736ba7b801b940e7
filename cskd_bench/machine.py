"""The machine without its accelerators: processor, system, and a name for it that names nobody."""

import hashlib
import platform
from pathlib import Path
from typing import Final

FLAGS: Final = (  # of a processor, by which libraries choose their kernels
    *("fma", "f16c", "avx", "avx2", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni"),
    *("amx_tile", "amx_bf16", "amx_int8", "asimd", "asimdhp", "sve", "sve2", "bf16", "i8mm"),
)
_INFORMATION: Final = Path("/proc/cpuinfo")
_IDENTITY: Final = Path("/etc/machine-id")
_MEMORY: Final = Path("/proc/meminfo")
_LIMIT: Final = Path("/sys/fs/cgroup")
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


def _told(key: str) -> str:
    """Return what Linux tells of the first processor under a key; empty where it does not."""
    try:
        lines = _INFORMATION.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    found = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in found if name.strip() == key), "")


def free_memory() -> int:
    """Return the bytes of memory that a process may still take; 0 where the system does not tell.

    That is what Linux calls available, or what is left of a container's limit.
    """
    free = _number(_MEMORY, "MemAvailable:") * 1024
    limit, used = _number(_LIMIT / "memory.max"), _number(_LIMIT / "memory.current")
    return min(free, max(limit - used, 0)) if limit else free


def _number(file: Path, key: str = "") -> int:
    """Return the number in a file of the system, or behind a key of it; 0 where there is none."""
    try:
        words = file.read_text(encoding="utf-8").split()
    except OSError:
        return 0
    place = words.index(key) + 1 if key in words else 0 if not key else len(words)
    return int(words[place]) if place < len(words) and words[place].isdecimal() else 0
