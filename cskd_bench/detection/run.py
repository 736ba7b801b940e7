"""Detection, as a protocol: MMEngine's Runner trains, CocoMetric scores."""

import contextlib
import copy
import io
import json
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from cskd_bench.cells.cell import Outcome
from cskd_bench.data.notes import join_notes
from cskd_bench.detection import operators
from cskd_bench.detection.cell import DetectionCell
from cskd_bench.detection.checks import check_splits
from cskd_bench.detection.facts import facts_of
from cskd_bench.detection.fitting import has_masks, is_keyed
from cskd_bench.detection.folder import epochs_done, lost_curve, mend_pointer, read_curve
from cskd_bench.detection.pictures import draw_pictures
from cskd_bench.detection.score import average_precision, read_predictions
from cskd_bench.detection.settings import check_half, config_file, openable, place, read_config
from cskd_bench.detection.splits import describe_splits, is_made, open_splits
from cskd_bench.detection.start import LISTS, share_lists, usable_splits
from cskd_bench.detection.watched_loader import WatchedLoader
from cskd_bench.device import rounds_to_tf32
from cskd_bench.engine.provenance import DETECTION_PACKAGES, now
from cskd_bench.errors import UserError
from cskd_bench.files import write_file
from cskd_bench.task import TaskSpec


def run(cell: DetectionCell) -> Outcome:
    """Train and score a detector on a cell's student.

    An interrupted run goes on from its last whole epoch, as if it had not been interrupted. Raises Interrupted when
    asked to stop, and UserError for images that cannot be read, a configuration that MMDetection cannot build, and a
    loss that is not finite.
    """
    config = copy.deepcopy(cell.config)  # which prepares the import of MMDetection
    from cskd_bench.detection.runner_device import runner_on

    check_half(cell.spec.detect.precision, cell.ranks.device)
    with runner_on(cell.ranks.device):
        return _run(cell, config)


def _run(cell: DetectionCell, config: Any) -> Outcome:
    spec, folder, ranks = cell.spec, cell.folder, cell.ranks
    (train, left_out), (test, unscored) = ranks.on_main(lambda: usable_splits(spec.data, cell.train, cell.test, folder))
    first_epoch = ranks.on_main(lambda: mend_pointer(folder))
    place(config, train, test, folder, ranks=ranks, workers=cell.workers, precision=spec.detect.precision)
    share_lists(config, train, test, cell.work / LISTS, ranks)
    runner = _built(cell, config)
    began = time.perf_counter()
    started, resumptions = ranks.on_main(lambda: _note_start(folder, first_epoch))
    epochs_here = config.train_cfg.max_epochs - first_epoch
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its tables at every evaluation
        _train(cell, runner)  # scores after the last epoch
        if not epochs_here:
            runner.val()
    seconds = time.perf_counter() - began
    scored = len(runner.val_dataloader.dataset)

    def gather() -> Outcome:
        metrics: dict[str, float] = {}
        for kind in ("bbox", "segm") if has_masks(config) else ("bbox",):
            metrics |= average_precision(test.annotations, folder / f"predictions.{kind}.json", kind)
        pictures = draw_pictures(test, folder / "predictions.bbox.json", spec.detect.pictures)
        return Outcome(
            metrics=metrics,
            curve=_curve(folder),
            seconds=seconds,
            images_per_second=len(runner.train_dataloader.dataset) * epochs_here / seconds,
            started=started,
            resumptions=resumptions,
            tf32=rounds_to_tf32(ranks.device),
            scored=scored,
            note=join_notes(_note(cell, scored, left_out, unscored, first_epoch), _note_wild(folder)),
            config={"mmengine": cell.comparable},
            packages=DETECTION_PACKAGES,
            pictures={f"truth_and_predictions_{number}": jpeg for number, jpeg in enumerate(pictures, 1)},
        )

    return ranks.on_main(gather)


def size(spec: TaskSpec, seed: int, work: Path) -> tuple[int, int]:
    """Return (0, images of test): what MMDetection trains is not counted here."""
    return 0, len(facts_of(open_splits(spec.data, work)[1]).names)


def imports() -> tuple[str, ...]:
    """Return the modules that every detection cell loads; none where MMDetection is not installed."""
    if not operators.detection_ready().startswith("ready"):
        return ()
    return ("cskd_bench.detection.preloaded",)


def look(spec: TaskSpec) -> str:
    """Open a task's splits, check their annotations, and say what is in them; what is made on the spot goes again."""
    with tempfile.TemporaryDirectory() as folder:
        train, test = open_splits(spec.data, Path(folder))
        if not is_made(spec.data):
            check_splits(spec, train, test, _stated_config(spec))
        return describe_splits(train, test)


def _stated_config(spec: TaskSpec) -> Any:
    """Return the task's configuration as its file gives it, whatever the student; None without MMDetection."""
    if not operators.detection_ready().startswith("ready"):
        return None
    operators.install()
    return read_config(config_file(spec.detect.config))


def _built(cell: DetectionCell, config: Any) -> Any:
    """Build the Runner; UserError where a configuration of the user's own says what MMDetection does not know."""
    named = cell.spec.detect.config
    try:
        runner = build_runner(cell, config)
        for loop in (runner.train_loop, runner.val_loop):  # built when first asked for, data and metrics with them
            loop.dataloader = WatchedLoader(loop.dataloader, lambda: cell.stop.requested)
        return runner
    except (TypeError, KeyError, ValueError, AttributeError, AssertionError) as error:
        if isinstance(error, UserError) or not named.endswith(".py"):
            raise
        raise UserError(f"{named}: MMDetection cannot build it: {error}") from error


def build_runner(cell: DetectionCell, config: Any) -> Any:
    """Build mmengine's Runner around a detector whose backbone is the cell's student."""
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.runner import Runner

    from cskd_bench.detection import components
    from cskd_bench.detection.runner_device import PeakLogs, keep_fp32

    os.environ.setdefault("LOCAL_RANK", str(cell.ranks.device.index or 0))  # MMEngine reads it, also where we say
    register_all_modules(init_default_scope=True)
    components.register()
    components.seed_everything(config.randomness.seed)
    described = copy.deepcopy(config.model)
    described.backbone.vit = cell.model.student.model  # not in the configuration, which mmengine writes down as text
    detector = MODELS.build(described)
    keep_fp32(detector)
    return Runner(
        model=detector,
        work_dir=config.work_dir,
        train_dataloader=config.train_dataloader,
        val_dataloader=config.val_dataloader,
        train_cfg=config.train_cfg,
        val_cfg=config.val_cfg,
        optim_wrapper=config.optim_wrapper,
        param_scheduler=config.param_scheduler,
        val_evaluator=config.val_evaluator,
        default_hooks=config.default_hooks,
        custom_hooks=[*_hooks(config), components.WatchSteps(partial(_heed, cell))],
        resume=config.resume,
        launcher="pytorch" if cell.ranks.world > 1 else "none",
        env_cfg=config.env_cfg,
        log_level=config.log_level,
        log_processor=PeakLogs(),
        randomness=config.randomness,
        experiment_name=Path(config.work_dir).name,
        default_scope="mmdet",
        cfg=openable(config, cell.model),
    )


def _hooks(config: Any) -> list[Any]:
    """Return a configuration's own hooks, and the one that keeps the curve where it lacks it."""
    hooks = list(config.get("custom_hooks", []))
    return hooks if any(hook.type == "EpochLines" for hook in hooks) else [*hooks, {"type": "EpochLines"}]


def _heed(cell: DetectionCell, where: str, what: str) -> None:
    """Interrupted where a rank was asked to stop: whole epochs are kept; UserError for `what` is not finite."""
    fault = None
    if what:
        rate = cell.config.optim_wrapper.optimizer.lr
        fault = UserError(f"{cell.name}: {what} is not finite in {where}; lower detect.lr, which is {rate:g}")
    cell.stop.kept |= epochs_done(cell.folder) > 0
    cell.heed_stop(fault)


def _train(cell: DetectionCell, runner: Any) -> None:
    """Train to the end; UserError for a learning rate whose steps no weight can hold."""
    try:
        runner.train()
    except RuntimeError as error:
        if "without overflow" not in str(error):
            raise
        raise UserError(
            f"{cell.name}: a step is larger than any weight; lower detect.lr, which is "
            f"{cell.config.optim_wrapper.optimizer.lr:g}"
        ) from error


def _note_wild(folder: Path) -> str:
    """Say how many predictions are not finite, and so do not count; empty where none is."""
    _, wild = read_predictions(folder / "predictions.bbox.json")
    return f"{wild:,} predicted boxes are not finite and do not count" if wild else ""


def _note_start(folder: Path, epochs_done: int) -> tuple[str, int]:
    """Keep when the first process began and how often another went on from a whole epoch, and return both."""
    path = folder / "starts.json"
    started, resumptions = json.loads(path.read_text(encoding="utf-8")) if epochs_done and path.exists() else (now(), 0)
    resumptions += bool(epochs_done)
    write_file(path, json.dumps([started, resumptions]).encode())
    return started, resumptions


def _curve(folder: Path) -> list[dict[str, float]]:
    """Return one entry per epoch: mean training loss and, where it was scored, box AP; UserError where it is lost."""
    noted = read_curve(folder)
    if noted is None:
        raise lost_curve(folder)
    return [noted[epoch] for epoch in sorted(noted, key=int)]


def _note(cell: DetectionCell, scored: int, left_out: list[str], unscored: list[str], resumed_from: int) -> str:
    """Return what a reader must know beside the score; the description says where a task is only a smoke test."""
    spec = cell.spec
    parts = [f"{spec.description or spec.name}, scored on {scored} images"]
    if left_out or unscored:
        parts.append(f"{len(left_out)} training and {len(unscored)} validation images left out as unreadable")
    if spec.detect.precision != "fp32" and cell.ranks.device.type != "cuda":
        parts.append("computed in fp32: no CUDA device")
    if not is_keyed(cell.config):
        parts.append("without KeyedCocoDataset and EpochSampler: a resumed run is not bit-identical to a whole one")
    if resumed_from:
        parts.append(f"resumed after epoch {resumed_from}; seconds count from there")
    return "; ".join(parts)
