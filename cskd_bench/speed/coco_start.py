"""One process of `speed --part coco`: starts a detection run up to its first batch."""

import contextlib
import io
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from cskd_bench.cells.opening import main_first
from cskd_bench.detection import operators
from cskd_bench.detection.checks import check_splits
from cskd_bench.detection.facts import facts_of
from cskd_bench.detection.fitting import StudentFacts
from cskd_bench.detection.settings import complete, place
from cskd_bench.detection.splits import describe_splits, open_splits, splits_identity
from cskd_bench.detection.start import LISTS, share_lists, usable_splits
from cskd_bench.engine.distributed import Ranks, joined_ranks
from cskd_bench.task import TaskSpec, load_task

_STUDENT: Final = StudentFacts(width=192, patch_size=16, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def main() -> None:
    """Start a run on the folders that the command line names, and print what each rank took as the last line."""
    root, work = map(Path, sys.argv[1:])
    with joined_ranks() as ranks:
        spec = load_task("coco", None, [f"data.root={json.dumps(str(root))}"])
        load_libraries()
        ranks.settle()
        found = ranks.gather(_measure(lambda: start(spec, work, ranks)))
        if ranks.is_main:
            print(json.dumps(found), flush=True)


def load_libraries() -> None:
    """Load what every detection run loads, and register it."""
    operators.install()
    from mmdet.utils import register_all_modules

    from cskd_bench.detection import components

    register_all_modules(init_default_scope=True)
    components.register()


def start(spec: TaskSpec, work: Path, ranks: Ranks) -> None:
    """Do what a detection cell does from its opening to its first batch, but for the detector and decoding."""
    from mmengine.evaluator import Evaluator
    from mmengine.runner import Runner

    train, test = main_first(ranks, lambda: open_splits(spec.data, work))
    config = complete(spec.detect, _STUDENT, facts_of(train).classes, 0)

    def look() -> None:
        check_splits(spec, train, test, config)
        describe_splits(train, test)
        splits_identity(train, test)

    ranks.on_main(look)
    (train, _), (test, _) = ranks.on_main(lambda: usable_splits(spec.data, train, test, work, decode=False))
    place(config, train, test, work, ranks=ranks, workers=0, precision=spec.detect.precision)
    share_lists(config, train, test, work / LISTS, ranks)
    loader = Runner.build_dataloader(config.train_dataloader, seed=0)
    Runner.build_dataloader(config.val_dataloader, seed=0)
    Evaluator(config.val_evaluator)
    next(iter(loader.batch_sampler))


def _measure(work: Callable[[], Any]) -> dict[str, float]:
    """Return wall and processor seconds of some work, and the process's peak of memory in bytes."""
    wall, cpu = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        work()
    taken = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    unit = 1 if sys.platform == "darwin" else 1024
    return {**taken, "peak": float(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)}


if __name__ == "__main__":
    main()
