"""Inputs as people really have them: each is made, given to `transfer` and to `doctor`, and what they say is compared.

The modules `labels`, `images`, `annotations` and `places` beside tests/inputs/test_inputs.py list them, a gate each;
docs/inputs.md is written from the same lists by `python tests/test_inputs_page.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tomlkit

from cskd_bench.cli import main

REFUSED = "refused"


@dataclass(frozen=True)
class Input:
    """One kind of input. `make` writes a data set into an empty folder; `settings` are `--set` words of its task.

    `said` is a part of the sentence that a person reads; `done` is what happens then. `noted` is a part of the note
    that the record of a run carries, where the input is used. `detects` is for data in COCO's format.
    """

    kind: str
    make: Callable[[Path], None]
    said: str = ""
    done: str = REFUSED
    noted: str = ""
    settings: tuple[str, ...] = ()
    protocol: str = "knn"
    detects: bool = False

    def __str__(self) -> str:
        return self.kind.replace(" ", "_")

    @property
    def refused(self) -> bool:
        return self.done == REFUSED


TASK = {
    "version": 1,
    "protocols": ["linear", "knn", "kshot", "evaluate"],
    "metric": "top1",
    "image_size": 32,
    "data": {"dataset": "folder", "train": "train", "test": "test", "num_classes": 3, "eval_crop": 1.0},
    "kshot": {"shots": [1]},
}


def transfer(given: Input, root: Path, checkpoint: Path, *words: str) -> int:
    """Run `transfer` on an input's folder and return its exit code; records lie in results beside it."""
    arguments = ["--checkpoint", str(checkpoint), "--model", "test_vit", "--workers", "0", *_task(given, root), *words]
    places = ["--runs", str(root.parent / "runs"), "--results", str(root.parent / "results")]
    return main(["transfer", "--protocol", "detect" if given.detects else given.protocol, *arguments, *places])


def doctor(given: Input, root: Path) -> int:
    """Let the doctor look at an input's folder for the same task and return its exit code."""
    return main(["doctor", *_task(given, root), "--runs", str(root.parent / "runs")])


def _task(given: Input, root: Path) -> list[str]:
    if given.detects:
        words = ["--task", "own_detection", "--set", 'detect.config="digits"', "--set", "detect.epochs=1"]
    else:
        file = root.parent / "task.toml"
        file.write_text(tomlkit.dumps(TASK))
        words = ["--task", str(file)]
    for setting in given.settings:
        words += ["--set", setting]
    return [*words, "--data-dir", str(root)]
