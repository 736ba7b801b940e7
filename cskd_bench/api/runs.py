"""Finished runs, and downstream tasks on them, without the command line."""

from pathlib import Path

from cskd_bench.engine.distributed import joined_ranks
from cskd_bench.errors import UserError
from cskd_bench.models.checkpoints import Loaded, load_checkpoint
from cskd_bench.models.weights import Weights
from cskd_bench.record import Record
from cskd_bench.task import TaskSpec, load_task
from cskd_bench.transfer.placing import place_tasks
from cskd_bench.transfer.run import transfer


def load_run(folder: str | Path, *, model: str = "", weights: Weights = "raw", image_size: int | None = None) -> Loaded:
    """Load a finished run, or a weights file of the timm model named `model`: `student`, `classes`, its configuration.

    `timm:NAME` and `hf-hub:USER/REPO` are timm's pretrained weights, which are downloaded once. `weights` is "raw",
    "ema", or "initial" for the weights that a run began with.

    `student.predict` maps views (B, 3, S, S) in [0, 1] to logits (B, K); S is `image_size`, by default the run's own.
    UserError for an unfinished run, a missing file, and weights of another model.
    """
    return load_checkpoint(Path(folder), model=model, weights=weights, image_size=image_size)


def run_task(
    task: str | Path | TaskSpec,
    checkpoint: str | Path,
    *,
    protocol: str = "",
    seed: int = 0,
    results: str | Path = "results",
    work: str | Path = "runs/transfer",
    data_dir: str | Path | None = None,
    model: str = "",
    weights: Weights = "raw",
    keep_weights: bool = True,
    workers: int = 4,
) -> Record:
    """Run one protocol of a task on a checkpoint and return its record, which is written into `results`/records.

    `task` is a name of `cskd-bench tasks list`, a TOML file or a TaskSpec; `protocol` may be left out where the task
    has one. `data_dir` is the folder of its images; by default data.root, under $CSKD_BENCH_DATA. A finished cell is
    not run again. A fine-tuned student stays as a run folder, `work`/<record id>, unless `keep_weights` is False. Under
    torchrun every rank makes the call. UserError for a task or checkpoint that cannot be used; Interrupted where it was
    asked to stop.
    """
    spec = task if isinstance(task, TaskSpec) else load_task(str(task))
    with joined_ranks() as ranks:
        if data_dir is not None:
            asked, folder = spec, str(data_dir)
            spec = ranks.on_main(lambda: _place(asked, folder))
        return transfer(
            spec,
            protocol or _only_protocol(spec),
            Path(checkpoint),
            seed,
            results=Path(results),
            work=Path(work),
            ranks=ranks,
            model=model,
            weights=weights,
            keep_weights=keep_weights,
            workers=workers,
        )


def _place(spec: TaskSpec, data_dir: str) -> TaskSpec:
    """Return the task with its images in a folder; UserError where they are not there."""
    (placed,) = place_tasks([spec], data_dir)
    if placed.problem:
        raise UserError(placed.problem)
    return placed.spec


def _only_protocol(spec: TaskSpec) -> str:
    if len(spec.protocols) != 1:
        raise UserError(f"task {spec.name}: has protocols {', '.join(spec.protocols)}; name one with protocol=")
    return str(spec.protocols[0])
