"""What cells cost: as finished ones like them did, else by their FLOPs at the rate of finished ones of their kind."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from statistics import mean
from typing import Final, NamedTuple, TypeVar

from cskd_bench.bench.plan import BenchCell, Cells, PretrainCell
from cskd_bench.bench.state import Found
from cskd_bench.bench.work import Places
from cskd_bench.config import PretrainConfig
from cskd_bench.data.view_plan import ViewPlan
from cskd_bench.engine.estimate import training_images
from cskd_bench.engine.flops import RunFlops, alone_flops, run_flops
from cskd_bench.record import Record
from cskd_bench.schema import fingerprint
from cskd_bench.transfer.cell import ImageCell
from cskd_bench.transfer.protocols import procedure
from cskd_bench.transfer.run import size_of_cell

LEAST_SHARE: Final = 0.1  # of a cell that must have been done at a stretch to say how long the whole takes

T = TypeVar("T")


class Expected(NamedTuple):
    """Seconds that a whole cell takes, None where nothing says it; `about`: by FLOPs or cells of other sizes."""

    seconds: float | None = None
    about: bool = False


class Taken(NamedTuple):
    """A finished cell of the plan, and the seconds that it took."""

    cell: BenchCell
    seconds: float


class Costs:
    """Estimates for the cells of one plan; what is looked up, such as sizes of data sets, is looked up once.

    `done` are the records of finished cells by their names, `banked` the names of cells that read a label bank.
    """

    def __init__(
        self, cells: Cells, found: Found, done: Mapping[str, Record], places: Places, banked: Collection[str] = ()
    ) -> None:
        self._found, self._places, self._banked = found, places, banked
        self._configs = {cell.name: cell.config for cell in cells.all() if isinstance(cell, PretrainCell)}
        self._taken = [Taken(cell, done[cell.name].cost.seconds) for cell in cells.all() if cell.name in done]
        self._here: defaultdict[object, list[float]] = defaultdict(list)  # seconds in this bench, by exact likeness
        self._known: dict[object, object] = {}
        self._expected: dict[str, Expected] = {}
        self._rates: dict[str, tuple[float, float]] = {}  # of kinds: seconds a FLOP, and seconds a cell
        self._left: dict[str, float] = {}

    def config(self, cell: BenchCell) -> PretrainConfig:
        """Return the settings of a cell's pretraining."""
        return cell.config if isinstance(cell, PretrainCell) else self._configs[cell.run]

    def expect(self, cell: BenchCell) -> Expected:
        """Return what a whole cell takes: like finished ones of its kind and student, else about by FLOPs."""
        if cell.name not in self._expected:
            self._expected[cell.name] = self._estimate(cell)
        return self._expected[cell.name]

    def longest(self, cell: BenchCell) -> float | None:
        """Return the seconds that a cell takes if it takes as long as the longest finished one like it; None: unknown.

        Those of this bench are asked first, else records of the same recipe, whose seconds leave out its start.
        """
        here = self._here[self._likeness(cell)]
        recipe = self.config(cell).recipe_fingerprint() if isinstance(cell, PretrainCell) else ""
        records = [] if here else self.alike(cell)
        took = here or [record.cost.seconds for record in records if not recipe or record.recipe == recipe]
        return self.left(cell) * max(took) if took else None

    def alike(self, cell: BenchCell) -> list[Record]:
        """Return the finished records of a cell's kind, student and method."""
        banked = cell.name in self._banked
        config = self.config(cell)
        method = config.method.kind if isinstance(cell, PretrainCell) else ""
        key = ("alike", cell.kind, config.data_name, config.model_name, method, banked)
        return self._once(key, lambda: self._found.alike(cell, config.model_name, from_bank=banked))

    def size(self, cell: BenchCell) -> tuple[int, int] | None:
        """Return (steps, images) of a cell; 0 steps where nothing is trained by steps, None where data is missing."""
        if not isinstance(cell, PretrainCell):
            work = self._places.runs / "transfer"
            return self._once(
                ("size", cell.kind), lambda: _or_none(lambda: size_of_cell(cell.task, cell.protocol, cell.seed, work))
            )
        config = cell.config
        key = ("size", config.data, fingerprint(config.recipe))
        return self._once(key, lambda: _or_none(lambda: _size_of_run(config)))

    def flops(self, cell: BenchCell) -> int | None:
        """Return a cell's FLOPs, evaluation left out; None where its data is missing or nobody counts them."""
        return self._once(("flops", cell.name), lambda: self._count(cell))

    def _count(self, cell: BenchCell) -> int | None:
        size = self.size(cell)
        counted = self._networks(cell) if size else None
        if size is None or counted is None:
            return None
        steps, images = size
        if isinstance(cell, PretrainCell):
            return counted.of_run(images, steps * cell.config.run.accumulate, from_bank=cell.name in self._banked)
        return images * (counted.step if steps else counted.forward)

    def left(self, cell: BenchCell) -> float:
        """Return the share of a cell that its newest checkpoint leaves to do."""
        if cell.name not in self._left:
            step = self._found.step(cell) if isinstance(cell, PretrainCell) else 0
            size = self.size(cell) if step else None
            self._left[cell.name] = max(0.0, 1 - step / size[0]) if size and size[0] else 1.0
        return self._left[cell.name]

    def note_start(self, cell: BenchCell) -> None:
        """Note that a cell goes on from where it is now."""
        self._left.pop(cell.name, None)
        self.left(cell)  # as it is now; a finished cell's checkpoints say nothing

    def note_finish(self, cell: BenchCell, seconds: float) -> None:
        """Note the seconds that a cell took from where it went on to its end."""
        share = self.left(cell)
        if share < LEAST_SHARE:
            return
        self._taken.append(Taken(cell, seconds / share))
        self._here[self._likeness(cell)].append(seconds / share)
        self._expected.clear()
        self._rates.clear()

    def _estimate(self, cell: BenchCell) -> Expected:
        records, here = self.alike(cell), self._here[self._likeness(cell)]
        if records or here:
            return Expected(mean([self._of_records(cell, records)] * len(records) + here))
        for kind in _kinds(cell):
            a_flop, a_cell = self._rate(kind)
            flops = self.flops(cell) if a_flop else None
            if a_cell:
                return Expected(flops * a_flop if flops else a_cell, about=True)
        return Expected()

    def _rate(self, kind: str) -> tuple[float, float]:
        """Return what finished cells of a kind took: seconds a FLOP, and seconds a cell; 0 where nothing says it."""
        if kind not in self._rates:
            taken = [one for one in self._taken if kind in _kinds(one.cell)]
            counted = [(flops, one.seconds) for one in taken if (flops := self.flops(one.cell))]
            a_flop = sum(seconds for _, seconds in counted) / sum(flops for flops, _ in counted) if counted else 0.0
            self._rates[kind] = a_flop, mean(one.seconds for one in taken) if taken else 0.0
        return self._rates[kind]

    def _of_records(self, cell: BenchCell, records: Sequence[Record]) -> float:
        """Estimate from images trained on per second in finished records, else from their seconds; 0 without any."""
        rates = [record.cost.images_per_second for record in records if record.cost.images_per_second]
        size = self.size(cell) if rates else None
        if size and size[0]:
            return size[1] / mean(rates)
        return mean(record.cost.seconds for record in records) if records else 0.0

    def _networks(self, cell: BenchCell) -> RunFlops | None:
        """Count the FLOPs of a cell's networks; None for a protocol that does more than read images."""
        config = self.config(cell)
        teacher = config.teacher.model_dump(mode="json", exclude={"weights"})
        asked = {
            "student": config.student.model_dump(mode="json"),
            "method": config.method.model_dump(mode="json"),
            "classes": config.data.num_classes,
        }
        if isinstance(cell, PretrainCell):
            key = ("run", fingerprint(asked | {"teacher": teacher}))
            return self._once(key, lambda: _or_none(lambda: run_flops(config)))
        if not issubclass(procedure(cell.task, cell.protocol).cell, ImageCell):
            return None
        pixels = cell.task.image_size or config.student.image_size
        key = ("alone", fingerprint(asked | {"pixels": pixels}))
        return self._once(key, lambda: _or_none(lambda: alone_flops(config, pixels)))

    def _likeness(self, cell: BenchCell) -> object:
        return self._once(("likeness", cell.name), lambda: self._describe(cell))

    def _describe(self, cell: BenchCell) -> object:
        config = self.config(cell)
        if not isinstance(cell, PretrainCell):
            return cell.kind, config.model_name
        recipe = config.recipe_fingerprint()
        return cell.kind, config.method.kind, config.model_name, config.data_name, recipe, cell.name in self._banked

    def _once(self, key: object, look: Callable[[], T]) -> T:
        if key not in self._known:
            self._known[key] = look()
        return self._known[key]  # type: ignore[return-value]  # what `look` returned for this key


def _kinds(cell: BenchCell) -> tuple[str, ...]:
    """Return the kinds that a cell is of, the narrowest first."""
    return (cell.kind,) if isinstance(cell, PretrainCell) else (cell.kind, cell.protocol, "transfers")


def _size_of_run(config: PretrainConfig) -> tuple[int, int]:
    plan = ViewPlan.of(config.recipe, training_images(config)[0], config.seed)
    return plan.steps, plan.steps * config.recipe.batch_size


def _or_none(look: Callable[[], T]) -> T | None:
    """Return what is found, None where it cannot be: the cell itself will say why, and an estimate ends no bench."""
    try:
        return look()
    except Exception:
        return None
