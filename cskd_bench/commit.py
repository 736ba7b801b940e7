"""Which commit this code is of, and whether it was changed; needs the standard library alone."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

CODE: Final = ("cskd_bench", "tasks", "configs", "pyproject.toml", "constraints.txt")
FILE: Final = "cskd_bench/commit.json"  # written by whoever takes code out of its checkout


class Commit(NamedTuple):
    """A commit and whether the code differs from it; code that is not known has no commit and is dirty."""

    commit: str
    dirty: bool


UNKNOWN: Final = Commit("", True)


def commit_of(root: Path) -> Commit:
    """Return the commit of the code in `root`: from git in a checkout, else from the file, else unknown."""
    if (root / ".git").exists():
        return _from_git(root)
    try:
        found = json.loads((root / FILE).read_bytes())
        commit, dirty = found["commit"], found["dirty"]
    except (OSError, ValueError, KeyError, TypeError):
        return UNKNOWN
    return Commit(commit, dirty) if commit and isinstance(commit, str) and isinstance(dirty, bool) else UNKNOWN


def as_json(found: Commit) -> str:
    """Return the content of the file."""
    return json.dumps(found._asdict()) + "\n"


def _from_git(root: Path) -> Commit:
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no", "--", *CODE)
    return UNKNOWN if not commit or changes is None else Commit(commit, bool(changes))


def _git(root: Path, *arguments: str) -> str | None:
    """Return what git says; None where it fails."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


if __name__ == "__main__":
    print(as_json(commit_of(Path(sys.argv[1]))), end="")
