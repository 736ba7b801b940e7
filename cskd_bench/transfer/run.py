"""One downstream cell from checkpoint to record, whatever its protocol."""

import glob
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cskd_bench.cells.cell import Cell
from cskd_bench.cells.locks import run_lock
from cskd_bench.cells.opening import main_first
from cskd_bench.cells.recording import Beginning, Subject, begin, keep
from cskd_bench.cells.results import finished_record
from cskd_bench.data.notes import join_notes, tell_folder_note
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.provenance import command_line
from cskd_bench.errors import UserError
from cskd_bench.files import make_folder, refuse_unwritable
from cskd_bench.models.checkpoints import load_checkpoint
from cskd_bench.models.preprocessing import Preprocessing
from cskd_bench.models.weights import Weights
from cskd_bench.record import Record, TaskRef, read_record
from cskd_bench.schema import fingerprint
from cskd_bench.stopping import Stop, stop_signals
from cskd_bench.task import TaskSpec
from cskd_bench.transfer.cell import PREPROCESSING, ImageCell, ScoringCell
from cskd_bench.transfer.kept import clear_folder
from cskd_bench.transfer.precision import state_precision
from cskd_bench.transfer.protocols import PROTOCOLS, procedure
from cskd_bench.transfer.teaching import check_student, state_teacher

WEIGHTS: Final = "weights"  # the key of what tells a model of no run of ours from any other, in records
PIXELS: Final = "pixels"  # the key of a checkpoint's own mean and std, in records
LOG = logging.getLogger(__name__)


def open_cell(
    spec: TaskSpec,
    protocol: str,
    checkpoint: Path,
    seed: int,
    *,
    work: Path,
    ranks: Ranks,
    model: str = "",
    weights: Weights = "raw",
    preprocessing: Preprocessing | None = None,
    keep_weights: bool = False,
    workers: int = 4,
    stop: Stop | None = None,
) -> Cell:
    """Load a cell's checkpoint, at the task's resolution; UserError for a protocol that the task has not.

    UserError also for preprocessing that the protocol leaves to the task, and for a teacher's weights that are missing
    or a student that cannot learn from it. A task's own `run.workers` overrules `workers`, and a precision that is not
    stated is this device's.
    """
    kind = procedure(spec, protocol).cell
    spec = state_teacher(state_precision(spec, protocol, ranks.device), protocol)
    workers = spec.run.workers if "workers" in spec.run.model_fields_set else workers
    if preprocessing:
        _check_preprocessing(kind, protocol, preprocessing)
    loaded = load_checkpoint(
        checkpoint, model=model, weights=weights, image_size=spec.image_size, preprocessing=preprocessing
    )
    check_student(spec, protocol, loaded.student.has_distillation_token, f"the checkpoint {loaded.checkpoint.run}")
    return kind(spec, protocol, seed, loaded, work, ranks, workers, stop or Stop(), keep_weights)


def _check_preprocessing(kind: type[Cell], protocol: str, asked: Preprocessing) -> None:
    """UserError for a mean or std where images are prepared elsewhere, and for a crop where the task's is compared."""
    if not issubclass(kind, ImageCell):
        raise UserError(f"--mean, --std, --crop and --interpolation are not for protocol {protocol}; leave them out")
    if not issubclass(kind, ScoringCell) and (asked.crop is not None or asked.interpolation is not None):
        raise UserError(
            f"--crop and --interpolation are for protocol evaluate; {protocol} crops as the task says, alike for all "
            "checkpoints: add --protocol evaluate, or change the task with --set data.eval_crop=..."
        )


def transfer(
    spec: TaskSpec,
    protocol: str,
    checkpoint: Path,
    seed: int,
    *,
    results: Path,
    work: Path,
    ranks: Ranks,
    model: str = "",
    weights: Weights = "raw",
    preprocessing: Preprocessing | None = None,
    keep_weights: bool = False,
    workers: int = 4,
    command: str | None = None,
    stop: Stop | None = None,
) -> Record:
    """Run one protocol of a task on a checkpoint and write its record; a finished cell is not run again.

    `command` is what the record names instead of this process's own; `stop` is a request that may have come before.
    With `keep_weights` a fine-tuned student stays as a run folder, `work`/<record id>.

    Of two processes at the same cell, one waits and reads the other's record. Interrupted when asked to stop: what
    fine-tuning and detection have trained, and features, are kept. UserError for data that the task cannot be scored
    on (missing, of other or too few classes, with test images in train), and for a finished cell whose images are
    others now.
    """
    with stop_signals(stop) as asked:

        def load() -> Cell:
            return open_cell(
                spec,
                protocol,
                checkpoint,
                seed,
                work=work,
                ranks=ranks,
                model=model,
                weights=weights,
                preprocessing=preprocessing,
                keep_weights=keep_weights,
                workers=workers,
                stop=asked,
            )

        cell = ranks.together(load)
        main_first(ranks, lambda: cell.name)  # what it depends on may be missing, or long to read
        LOG.info("opened %s: %s", checkpoint, _tell_model(cell))
        ranks.same("cell", {"record": cell.name})
        records = results / "records"
        record = ranks.on_main(lambda: _finished(cell, records))
        if record is not None:
            LOG.info("%s: is finished, nothing is computed", records / f"{record.id}.json")
            return record
        with run_lock(work / "locks" / cell.name, ranks, asked):
            record = ranks.on_main(lambda: _finished(cell, records))
            return record or _run(cell, records, command)


def _run(cell: Cell, records: Path, command: str | None) -> Record:
    """Check a cell's data, run its protocol, and keep what it came to."""
    ranks = cell.ranks
    beginning = begin(ranks)
    folder_note = main_first(ranks, cell.folder_note)
    checked = ranks.together(cell.check)
    ranks.on_main(lambda: tell_folder_note(cell.spec.data, folder_note))
    note = join_notes(checked, folder_note)
    if LOG.isEnabledFor(logging.INFO):
        LOG.info("opened the images of %s: %s", cell.spec.name, cell.describe_images())
    subject = ranks.on_main(lambda: _subject(cell, beginning, command or command_line()))
    ranks.on_main(lambda: refuse_unwritable(records))
    ranks.on_main(lambda: make_folder(cell.folder))
    outcome = procedure(cell.spec, cell.protocol).run(cell)

    def finish() -> Record:
        record = keep(subject, outcome.of_images(cell.number_images()).noted(note), ranks, records)
        LOG.info("kept %s", records / f"{record.id}.json")
        if not cell.keeps_folder:
            clear_folder(cell.folder)
        return record

    return ranks.on_main(finish)


def _tell_model(cell: Cell) -> str:
    """Name a cell's model, its method and its weights."""
    loaded = cell.model
    return f"{loaded.model.name}, {loaded.method.label}, weights {loaded.checkpoint.sha256[:8]}"


def _subject(cell: Cell, beginning: Beginning, command: str) -> Subject:
    """Say what a cell's record is about; its images are named as they are now, before anything is computed."""
    spec, loaded = cell.spec, cell.model
    return Subject(
        id=cell.name,
        task=TaskRef(
            name=spec.name,
            version=spec.version,
            fingerprint=spec.fingerprint(cell.protocol),
            metric=spec.metric,
            group=spec.group,
            published_as=spec.published_as,
        ),
        protocol=cell.protocol,
        method=loaded.method,
        model=loaded.model,
        checkpoint=loaded.checkpoint,
        seed=cell.seed,
        recipe=fingerprint(cell.recipe),
        config={
            "task": spec.identity(),
            "data": {"identity": cell.images()},
            "pretrain": loaded.pretrain_identity(),
            **loaded.tuning_identity(),
            **{key: value for key, value in cell.settings().items() if key == PREPROCESSING},
            **({PIXELS: loaded.pixels} if loaded.pixels else {}),
            **({} if loaded.pretrain_config else {WEIGHTS: loaded.weights_identity()}),
        },
        beginning=beginning,
        command=command,
    )


def find_record(cell: Cell, records: Path) -> Path | None:
    """Return the file of a finished cell's record, None where there is none.

    A name holds the whole task. So a record may have another one and be of this cell: made when settings that the
    protocol does not use were others.
    """
    path = records / f"{cell.name}.json"
    if path.exists():
        return path
    alike = glob.escape(cell.name.rpartition("-")[0])
    return next((found for found in sorted(records.glob(f"{alike}-????????.json")) if _is_of(found, cell)), None)


def _is_of(path: Path, cell: Cell) -> bool:
    """Whether a record was made from all that a cell's score depends on."""
    try:
        record = read_record(path)
    except UserError:
        return False
    checkpoint, ours = record.checkpoint, cell.model.checkpoint
    return (
        record.recipe == fingerprint(cell.recipe)
        and record.task.fingerprint == cell.spec.fingerprint(cell.protocol)
        and (checkpoint.sha256, checkpoint.weights, record.seed) == (ours.sha256, ours.weights, cell.seed)
        and (record.model, record.method.kind) == (cell.model.model, cell.model.method.kind)
        and record.config.get(PIXELS, {}) == cell.model.pixels
        and (cell.model.pretrain_config is not None or record.config.get(WEIGHTS) == cell.model.weights_identity())
    )


def _finished(cell: Cell, records: Path) -> Record | None:
    """Return the record of a cell that is finished, None for another."""
    path = find_record(cell, records)
    if path is None:
        return None
    try:
        images = cell.images()
    except UserError:
        images = ""
    return finished_record(path, images, cell.spec.data.root or cell.spec.data.dataset)


def expand(
    specs: Sequence[TaskSpec], protocols: Sequence[str], seeds: Sequence[int]
) -> list[tuple[TaskSpec, str, int]]:
    """Return every (task, protocol, seed) in the order of running; no protocols: all of each task."""
    for spec in specs:
        for protocol in protocols:
            procedure(spec, protocol)
    return [(spec, protocol, seed) for spec in specs for protocol in protocols or spec.protocols for seed in seeds]


def describe(cell: Cell, results: Path) -> str:
    """Say in one line what a cell will do, with its data opened, and whether its record is there.

    UserError for a teacher that does not fit the task.
    """
    said = f"{cell.spec.name} {cell.protocol} seed {cell.seed}"
    if isinstance(cell, ImageCell):
        cell.check_teacher()
    try:
        images, name = cell.describe_images(), cell.name
    except UserError as error:
        return f"{said}: not ready: {error}"
    kept = find_record(cell, results / "records")
    state = "done" if kept else "to do"
    return f"{said}: {state}; {images}, {cell.spec.metric}; record {kept.stem if kept else name}"


def size_of_cell(spec: TaskSpec, protocol: str, seed: int, work: Path) -> tuple[int, int]:
    """Return (steps, images) of a cell, 0 steps where nothing is trained by steps; UserError for missing data."""
    return procedure(spec, protocol).size(spec, seed, work)


def look_at_data(spec: TaskSpec) -> str:
    """Open and check a task's images, and say how many there are; UserError as the task's own protocols raise it."""
    return PROTOCOLS[spec.protocols[0]].look(spec)
