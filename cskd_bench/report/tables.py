"""What a report is made of: tables of cells, paired differences, costs and standings."""

from dataclasses import dataclass, field

from cskd_bench.record import Record
from cskd_bench.report import statistics
from cskd_bench.report.selection import LeftOut, Method, Setting, TableStudent

Interval = tuple[float, float]


@dataclass(slots=True)
class TableCell:
    """One method on one setting; `scores` maps each pretraining seed to its mean over transfer seeds."""

    method: Method
    setting: Setting
    records: list[Record]
    by_seed: dict[int, list[Record]]
    scores: dict[int, float]
    mean: float
    deviation: float | None
    interval: Interval | None
    interval_kind: str  # what the interval covers, in words
    bootstrap: Interval | None = None
    calibration: statistics.Calibration | None = None
    per_class: tuple[float, ...] = ()
    differences: list["Difference"] = field(default_factory=list)
    best: bool = False

    @property
    def seeds(self) -> int:
        """The number of independent pretraining seeds."""
        return len(self.scores)


@dataclass(slots=True)
class Pair:
    """One model against one other with the same seed: examples that only one of them gets right."""

    seed: int
    difference: float
    only_this: int | None = None
    only_baseline: int | None = None
    p_value: float | None = None


@dataclass(slots=True)
class Difference:
    """A method minus a baseline, or a plain method minus its ablation, over the seeds that both have."""

    baseline: Method
    mean: float
    seeds: int
    interval: Interval | None
    interval_kind: str
    p_value: float | None
    bootstrap: Interval | None
    pairs: list[Pair]
    detectable: float | None
    adjusted: float | None = None  # Holm over the table

    @property
    def significant(self) -> bool:
        """Whether the difference holds after Holm's correction."""
        return self.adjusted is not None and self.adjusted < statistics.LEVEL


@dataclass(slots=True)
class TableCost:
    """What one run of a row takes, averaged over its records; zero where it is not shown."""

    seconds: float
    images_per_second: float
    gpu_hours: float
    peak_memory_bytes: int
    labelling_seconds: float  # of a bank, once for all runs that read it


@dataclass(slots=True)
class Standing:
    """A row over all columns: average rank and, per baseline, wins, ties and losses."""

    rank: float | None  # None below two methods or two columns
    tally: dict[Method, tuple[int, int, int]]


@dataclass(slots=True)
class Table:
    """All methods of one student and recipe on one group of tasks."""

    group: str
    student: TableStudent
    methods: list[Method]
    settings: list[Setting]
    cells: dict[tuple[Method, Setting], TableCell]
    costs: dict[Method, TableCost]
    standings: dict[Method, Standing]
    baselines: list[Method]
    ablations: list[Method]  # of methods whose plain form is in the table too
    tests: int  # the size of the Holm family
    complete: int  # columns that every method has, over which ranks are averaged
    power: str
    teaches: bool  # the model is a teacher of other tables' methods
    cost_note: str = ""  # why some or all costs are not shown


@dataclass(frozen=True, slots=True)
class Verdict:
    """The plain CSKD against one baseline or one of its ablations, over every column of every table."""

    method: str
    baseline: str
    wins: int
    ties: int  # not significant, or not testable
    losses: int
    mean: float  # difference, averaged over comparisons

    @property
    def comparisons(self) -> int:
        """The number of columns that both have, once for each teacher."""
        return self.wins + self.ties + self.losses


@dataclass
class Comparison:
    """Everything that the report shows about measured records."""

    tables: list[Table]
    verdicts: list[Verdict]
    left_out: list[LeftOut]
    notes: list[str]
    records: int
