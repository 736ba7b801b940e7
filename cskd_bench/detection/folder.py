"""A detection run's folder: whole epochs to go on from, the learning curve, and the weights that scored best."""

import json
import re
from pathlib import Path
from typing import Final

from cskd_bench.errors import UserError
from cskd_bench.files import write_file

BEST: Final = "best.pth"  # the weights of the epoch with the highest box AP
POINTER: Final = "last_checkpoint"  # MMEngine's file with the name of the last whole epoch
_EPOCH: Final = re.compile(r"epoch_([0-9]+)\.pth")

Curve = dict[str, dict[str, float]]  # by epoch


def epochs_done(folder: Path) -> int:
    """Return how many epochs earlier processes have finished, by the last whole epoch's file."""
    try:
        named = Path((folder / POINTER).read_text(encoding="utf-8").strip())
    except OSError:
        return 0
    found = _EPOCH.fullmatch(named.name)
    return int(found[1]) if found and named.is_file() else 0


def mend_pointer(folder: Path) -> int:
    """Let MMEngine's pointer name a file that is there, and return how many epochs are done.

    A process that was killed while it wrote the pointer leaves it empty; in a folder that was moved, or whose last file
    was removed, it names what is not there. The newest file is taken then: a file is whole before the pointer names it.
    """
    if not (folder / POINTER).is_file() or epochs_done(folder):
        return epochs_done(folder)
    numbers = [int(found[1]) for file in folder.glob("epoch_*.pth") if (found := _EPOCH.fullmatch(file.name))]
    if not numbers:
        (folder / POINTER).unlink()
        return 0
    write_file(folder / POINTER, str(folder.resolve() / f"epoch_{max(numbers)}.pth").encode())
    return max(numbers)


def read_curve(folder: Path) -> Curve | None:
    """Return the learning curve by epoch; None where it is missing or damaged."""
    try:
        curve = json.loads((folder / "curve.json").read_text(encoding="utf-8"))
        assert isinstance(curve, dict)
        return {str(int(epoch)): {name: float(value) for name, value in curve[epoch].items()} for epoch in curve}
    except (OSError, ValueError, TypeError, AttributeError, AssertionError):
        return None


def write_curve(folder: Path, curve: Curve) -> None:
    """Write the learning curve."""
    write_file(folder / "curve.json", json.dumps(curve).encode())


def lost_curve(folder: Path) -> UserError:
    """Say that a curve is damaged and kept nowhere else."""
    return UserError(f"{folder / 'curve.json'}: missing or damaged; remove {folder} to train again")
