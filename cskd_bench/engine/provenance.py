"""Where a number comes from: code, versions, command."""

import hashlib
import importlib.metadata
import platform
import re
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cskd_bench
from cskd_bench.commit import commit_of
from cskd_bench.names import readable
from cskd_bench.record import CodeRef
from cskd_bench.schema import fingerprint

PACKAGES = ("torch", "torchvision", "timm", "numpy", "scikit-learn", "pillow")
DETECTION_PACKAGES = ("mmdet", "mmengine", "mmcv", "mmcv-lite", "pycocotools")


def code_ref() -> CodeRef:
    """Name the commit that runs and whether its code was changed; unknown code has no commit and counts as changed."""
    found = commit_of(Path(cskd_bench.__file__).resolve().parent.parent)
    return CodeRef(version=cskd_bench.__version__, commit=found.commit, dirty=found.dirty)


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Return the versions of the packages that decide numbers."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def lock() -> str:
    """Name the packages installed: by constraints.txt's content where the code lies beside it and each is as it says.

    Else by a hash of all names and versions. `constraints@` or `installed@`, then 16 hex digits.
    """
    installed = _installed()
    file = Path(cskd_bench.__file__).resolve().parent.parent / "constraints.txt"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    asked = [_pin(line) for line in text.splitlines() if "==" in line and not line.startswith("#")]
    if asked and all(installed.get(name, version) == version for name, version in asked):
        return f"constraints@{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return f"installed@{fingerprint(installed)}"


def _installed() -> dict[str, str]:
    """Return the version of every installed package, without the local part that names a build (`+cpu`)."""
    found = ((item.name, item.version) for item in importlib.metadata.distributions() if item.name)
    return {_plain(name): version.partition("+")[0] for name, version in found}


def _pin(line: str) -> tuple[str, str]:
    name, _, version = line.partition("==")
    return _plain(name), version.partition(";")[0].strip().partition("+")[0]


def _plain(name: str) -> str:
    """Return the one spelling of a package's name."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def command_line() -> str:
    """Return the command as it could be typed again, without this machine's folders."""
    return readable(shlex.join(["cskd-bench", *map(_without_folders, sys.argv[1:])]))


def _without_folders(word: str) -> str:
    """Keep the last part of an absolute path, also of one that is a setting's value."""
    key, equals, value = word.rpartition("=")
    bare = value.strip("\"'")
    return f"{key}{equals}{Path(bare).name}" if Path(bare).is_absolute() else word


def now() -> str:
    """Return the time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def difference(then: dict[str, Any], now: dict[str, Any], prefix: str = "") -> str:
    """Say in words where two nested settings differ; empty when they agree."""
    parts = []
    for key in sorted(then.keys() | now.keys()):
        old, new = then.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            parts.append(difference(old, new, f"{prefix}{key}."))
        elif old != new and not _same_sequence(old, new):
            parts.append(f"{prefix}{key} was {old!r}, is {new!r}")
    return "; ".join(part for part in parts if part)


def _same_sequence(old: Any, new: Any) -> bool:
    both = isinstance(old, list | tuple) and isinstance(new, list | tuple)
    return both and list(old) == list(new)
