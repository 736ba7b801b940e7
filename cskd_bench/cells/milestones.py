"""Milestones of a pretraining: weights from the middle of the run that stay, each in a folder like a finished run's."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cskd_bench.errors import UserError
from cskd_bench.files import UNFINISHED, write_folder
from cskd_bench.models.run_summary import RunSummary, write_run
from cskd_bench.models.weights import plain_state, save_tensors
from cskd_bench.record import sha256_file


@dataclass(frozen=True)
class Milestones:
    """Keeps weights in `folder`/epoch_NNNN, with `about` in run.json, so that all that read a run read them."""

    folder: Path
    about: RunSummary

    def keep(self, epoch: int, student: Any, average: Any | None) -> None:
        """Write raw and averaged weights, all of it or nothing; UserError where the disk is full."""
        final = self.folder / f"epoch_{epoch:04d}"
        for leftover in self.folder.glob(f"{UNFINISHED}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        hashes = {}
        try:
            with write_folder(final) as temporary:
                for name, module in (("model", student), ("ema", average)):
                    if module is not None:
                        save_tensors(temporary / f"{name}.safetensors", plain_state(module))
                        hashes[name] = sha256_file(temporary / f"{name}.safetensors")
                write_run(temporary, self.about.model_copy(update={"sha256": hashes, "milestone": epoch}))
        except (OSError, UserError) as error:
            raise UserError(
                f"{final}: the milestone could not be written ({error}); earlier checkpoints are untouched: make room, "
                "and the same command continues"
            ) from error
