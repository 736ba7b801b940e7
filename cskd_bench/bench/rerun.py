"""Run a record's cell again, from its own command, and hold the outcome to the record."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console

from cskd_bench.bench.local import Local
from cskd_bench.bench.plan import Cells, PretrainCell, TransferCell
from cskd_bench.bench.resources import Resources
from cskd_bench.bench.runner import Share, run_plan
from cskd_bench.bench.state import Found
from cskd_bench.bench.work import Places
from cskd_bench.config import PretrainConfig, load_config
from cskd_bench.errors import UserError
from cskd_bench.models.teachers import is_another_teacher, teacher_identity
from cskd_bench.record import Record, read_records
from cskd_bench.report import words
from cskd_bench.report.compare import compare
from cskd_bench.report.examples import read_examples
from cskd_bench.report.selection import replicate_of, select
from cskd_bench.report.statistics import second_run
from cskd_bench.schema import validate
from cskd_bench.task import load_task
from cskd_bench.task_groups import expand_tasks
from cskd_bench.task_identity import former_settings
from cskd_bench.transfer.teaching import state_teacher

Interval = tuple[float, float]
Verdict = Literal["confirmed", "compatible", "not confirmed"]


@dataclass(frozen=True)
class Chain:
    """A record and the record of the pretraining that made its checkpoint; the two are one for a pretraining."""

    record: Record
    pretraining: Record

    @property
    def from_bank(self) -> bool:
        """Whether the student learnt from a bank's labels."""
        return self.pretraining.labels_from == "bank"

    @property
    def threads(self) -> int:
        """The CPU threads that the record ran with, 0 where it does not say; sums may round by them."""
        return self.record.hardware.threads


def find_chain(folder: Path, name: str) -> Chain:
    """Find a record by its id, the start of it, or its file; UserError where no or several records match."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of records")
    records = [record for _, record in read_records(folder) if isinstance(record, Record)]
    wanted = Path(name).name.removesuffix(".json")
    found = [record for record in records if record.id == wanted] or [r for r in records if r.id.startswith(wanted)]
    if len(found) != 1:
        several = f"; {len(found)} begin so, among them {found[0].id} and {found[1].id}" if found else ""
        raise UserError(f"{folder}: no one record is named {wanted!r}{several}")
    return chain_of(found[0], records)


def chain_of(record: Record, records: Iterable[Record]) -> Chain:
    """Join a record with its pretraining's; UserError where none of `records` made the checkpoint that it scores."""
    if record.protocol == "pretrain":
        return Chain(record, record)
    if record.checkpoint.weights != "raw":
        raise UserError(f"{record.id}: scores {record.checkpoint.weights} weights; its command is: {record.command}")
    if "preprocessing" in record.config:
        raise UserError(f"{record.id}: was made with its own preprocessing; its command is: {record.command}")
    for maker in records:
        if maker.protocol == "pretrain" and maker.checkpoint.sha256 == record.checkpoint.sha256:
            return Chain(record, maker)
    raise UserError(
        f"{record.id}: its folder has no record of the pretraining of its checkpoint ({record.checkpoint.run}); "
        f"with that checkpoint, its command is: {record.command}"
    )


def pretraining_again(record: Record, file: Path, settings: Sequence[str], method: str = "") -> PretrainCell:
    """Return the cell of a pretraining's record.

    Its settings are the record's own, whatever its command's file says by now; of the file and the command's
    settings are only the places of data and teacher weights. UserError where this release cannot read them, and
    where the teacher's weights are others.
    """
    kept = {key: record.config[key] for key in PretrainConfig.model_fields if key in record.config}
    kept["data"] = {key: value for key, value in kept["data"].items() if key != "identity"}
    kept["teacher"] = kept.get("teacher", {}) | {"weights": ""}
    try:
        here = load_config(file, settings, method)
        kept["data"]["root"], kept["teacher"]["weights"] = here.data.root, here.teacher.weights
    except UserError:
        if "@" in record.method.teacher:  # only the file says where its weights lie
            raise
    config = validate(PretrainConfig, kept, record.id)
    if config.recipe_fingerprint() != record.recipe:
        then = record.code.commit or f"release {record.code.version}"
        raise UserError(f"{record.id}: its settings mean another recipe in this release; it was made by {then}")
    if is_another_teacher(config.teacher, record.method.teacher):
        now = teacher_identity(config.teacher)
        raise UserError(f"{record.id}: its teacher was {record.method.teacher}, the weights here are {now}")
    return PretrainCell(config, record.command)


def transfer_again(
    record: Record, run: str, tasks: Sequence[str], settings: Sequence[str], tasks_dir: Path | None
) -> TransferCell:
    """Return the cell of a transfer's record on the checkpoint of `run`; UserError where its task has changed.

    What the record means by keys that it does not hold is asked for by name: the command is of a release that had
    other defaults.
    """
    settings = [*former_settings(record.config["task"]), *settings]
    for name in expand_tasks(list(tasks), tasks_dir):
        task = load_task(name, tasks_dir, settings)
        if task.name == record.task.name:
            break
    else:
        raise UserError(f"{record.id}: its command does not name its task: {record.command}")
    task = state_teacher(task, record.protocol)
    then, now = _tuning_teacher(record.config["task"]), _tuning_teacher(task.identity(record.protocol))
    if now and now != then:
        raise UserError(f"{record.id}: the teacher of its fine-tuning was {then or 'none'}, the weights here are {now}")
    if task.fingerprint(record.protocol) != record.task.fingerprint:
        raise UserError(
            f"{record.id}: task {task.name} is another one today: version {task.version}, then {record.task.version}; "
            f"the record's commit is {record.code.commit or 'not known'}"
        )
    return TransferCell(task, record.protocol, run, record.seed, name, tuple(settings), record.command)


def _tuning_teacher(task: Mapping[str, Any]) -> str:
    """Return what a task's identity calls the weights of its fine-tuning's teacher; empty without such weights."""
    return str(((task.get("finetune") or {}).get("teacher") or {}).get("weights", ""))


def run_again(chain: Chain, cells: Cells, output: Path, console: Console) -> Chain | None:
    """Run a chain's cells in a folder of their own and return their records; None where interrupted.

    Labels come from a bank built there where they did then. What is finished in the folder is not run again.
    UserError names the log of what failed.
    """
    places = Places(output / "runs", output / "results")
    banks = output / "banks" if chain.from_bank else None
    share = Share(1, Resources(chain.threads))
    outcome = run_plan(cells, places, Local(1), share, console=console, banks=banks, plan="rerun")
    if outcome.interrupted:
        return None
    if outcome.failures:
        name, error = next(iter(outcome.failures.items()))
        raise UserError(f"{name}: {error} (messages are in {places.runs / 'logs'})")
    found = Found(places)
    records = [found.record(cell) for cell in cells.all()]
    pretraining, record = records[0], records[-1]
    assert pretraining is not None and record is not None
    return Chain(record, pretraining)


@dataclass(frozen=True)
class Again:
    """How a second run compares with its record. Scores are fractions."""

    metric: str
    recorded: float
    again: float
    differs: str  # what was not the same before the run: images, teacher; empty where all was
    alike: bool  # whether hardware and versions are the record's, so that the same bits are to be expected
    same_weights: bool | None  # of the checkpoint; None where no SHA-256 was kept
    same_predictions: tuple[int, int] | None  # how many of how many; None without both side files
    mean: Interval | None  # the 95 % interval that the report states for the cell
    tolerance: float | None  # what 95 % of second runs differ by at most, judged by the column's other runs
    others: int  # of which there are so many

    @property
    def same_bits(self) -> bool:
        """Whether score, weights and predictions are the record's, as far as both runs kept them."""
        predictions = self.same_predictions is None or self.same_predictions[0] == self.same_predictions[1]
        return self.again == self.recorded and self.same_weights is not False and predictions

    @property
    def verdict(self) -> Verdict:
        """Say what the second run shows of the record.

        Confirmed: the same bits. Compatible: other bits on other hardware or versions, or on hardware that the record
        does not name, and a score that differs by no more than second runs do. Neither where images or teacher differ.
        """
        if self.differs:
            return "not confirmed"
        if self.same_bits:
            return "confirmed"
        change = abs(self.again - self.recorded)
        close = change == 0 or (self.tolerance is not None and change <= self.tolerance)
        return "compatible" if close and not self.alike else "not confirmed"


def compare_again(chain: Chain, records: Path, again: Chain, records_again: Path) -> Again:
    """Hold a second run's records to the first ones.

    How much second runs differ is judged without the record in question: a wrong one would widen its own bounds.
    """
    record, second = chain.record, again.record
    found = compare(records, select(records, include_dirty=True))
    column: list[list[float]] = []
    mean = None
    for table in found.tables:
        own = next((cell for cell in table.cells.values() if record.id in {r.id for r in cell.records}), None)
        if own is not None:
            mean = own.interval
            cells = [cell for cell in table.cells.values() if cell.setting == own.setting]
            column = [
                [score for seed, score in cell.scores.items() if cell is not own or seed != replicate_of(record)]
                for cell in cells
            ]
    hashes = record.checkpoint.sha256, second.checkpoint.sha256
    return Again(
        metric=record.task.metric,
        recorded=record.value,
        again=second.metrics[record.task.metric],
        differs=" and ".join(_differing(chain, again)),
        alike=_alike(record, second) and _alike(chain.pretraining, again.pretraining),
        same_weights=hashes[0] == hashes[1] if all(hashes) else None,
        same_predictions=_same_predictions(record, records, second, records_again),
        mean=mean,
        tolerance=second_run(column),
        others=sum(map(len, column)),
    )


def _differing(chain: Chain, again: Chain) -> Iterator[str]:
    if chain.record.examples != again.record.examples or _other_images(chain.record, again.record):
        yield "the images"
    if _other_images(chain.pretraining, again.pretraining):
        yield "the images of the pretraining"
    if chain.pretraining.method.teacher != again.pretraining.method.teacher:
        yield "the teacher"


def _alike(then: Record, now: Record) -> bool:
    """Say whether two runs were made on hardware that is known and rounds alike, with the same versions."""
    hardware = then.hardware.known and then.hardware.arithmetic == now.hardware.arithmetic
    return hardware and then.versions == now.versions


def _other_images(then: Record, now: Record) -> bool:
    return "" not in (then.images, now.images) and then.images != now.images


def show(again: Again, console: Console) -> None:
    """Say how a second run compares with its record."""
    change = words.points(again.again - again.recorded)
    recorded, now = f"{100 * again.recorded:.2f}", f"{100 * again.again:.2f}"
    lines = [f"{again.metric}: recorded {recorded} %, run again {now} %, a difference of {change} points"]
    if again.differs:
        lines.append(f"not those of the record: {again.differs}")
    if again.same_weights is not None:
        lines.append(f"weights of the checkpoint: {'the same' if again.same_weights else 'another'} SHA-256")
    if again.same_predictions is not None:
        lines.append("predictions: {:,} of {:,} are the same".format(*again.same_predictions))
    if again.mean is not None:
        inside = "inside" if again.mean[0] <= again.again <= again.mean[1] else "outside"
        lines.append(f"95 % interval of the cell's mean, as reported: {words.interval(again.mean)} %; {inside}")
    known = "those" if again.alike else "not those, or not known to be those,"
    lines.append(f"hardware and versions: {known} of the record")
    if again.tolerance is not None:
        bound = f"{100 * again.tolerance:.2f} points, by the column's other {again.others} runs"
        lines.append(f"95 % of second runs differ by at most {bound}")
    lines.append(_conclusion(again))
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _conclusion(again: Again) -> str:
    if again.verdict != "compatible":
        return f"the record is {again.verdict}"
    if again.tolerance is None:
        return "the record is compatible: the same score from other bits"
    return f"the record is compatible: within {100 * again.tolerance:.2f} points, which 95 % of second runs stay within"


def _same_predictions(record: Record, records: Path, again: Record, records_again: Path) -> tuple[int, int] | None:
    if record.per_example is None or again.per_example is None:
        return None
    try:
        then, now = read_examples(records, record), read_examples(records_again, again)
    except ValueError as error:
        raise UserError(f"{record.id}: {error}") from error
    if len(then.predicted) != len(now.predicted):
        return None
    return int(np.count_nonzero(then.predicted == now.predicted)), len(then.predicted)
