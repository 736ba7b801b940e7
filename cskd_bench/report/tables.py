"""What a report is made of: tables of cells, paired differences, costs and standings."""

from dataclasses import dataclass, field
from typing import Literal

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


@dataclass(frozen=True, slots=True)
class Estimated:
    """A contrast on the seeds that all its cells have."""

    seeds: tuple[int, ...]
    by_seed: tuple[float, ...]
    estimate: statistics.EstimatedMean
    kind: str  # what its interval covers, in words
    crossed: bool  # seeds and images


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
    estimate: statistics.EstimatedMean
    simultaneous: Interval | None = None  # for all tests of the family at once
    detectable: float | None = None  # at the family's corrected level
    holm: float | None = None  # over the family: the plan's primary contrasts, or the rest of the table
    adjusted: float | None = None  # the same, but no smaller than what a gate before the family leaves open
    primary: bool = False  # a plan names it

    @property
    def significant(self) -> bool:
        """Whether the difference is shown: it holds after Holm's correction, and so does all that stands before it."""
        return self.adjusted is not None and self.adjusted < statistics.LEVEL

    @property
    def is_lead(self) -> bool:
        """Whether it would hold if the plan's primary contrasts did."""
        return self.holm is not None and self.holm < statistics.LEVEL and not self.significant


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
    baselines: list[Method]
    ablations: list[Method]  # of methods whose plain form is in the table too
    complete: int  # columns that every method has, over which ranks are averaged
    teaches: bool  # the model is a teacher of other tables' methods
    standings: dict[Method, Standing] = field(default_factory=dict)
    tests: int = 0  # the size of the Holm family, without primary contrasts
    power: str = ""
    cost_note: str = ""  # why some or all costs are not shown
    primary: bool = False  # a plan's primary contrast is in it
    gate: Literal["none", "open", "shut"] = "none"  # none: no plan with primary contrasts has this student


Answer = Literal["higher", "lower", "equivalent", "ahead", "behind", "open", "untested"]


@dataclass(frozen=True, slots=True)
class ContrastResult:
    """What the records say about one contrast that a plan declares; intervals and means are fractions.

    `adjusted` and `equivalence_adjusted` are corrected over the plan's contrasts of this family, `simultaneous` holds
    for all of them at once, `detectable` is what this contrast finds with 80 % probability at the corrected level. They
    are None until all seeds of the plan are there, as are intervals and p-values. `ahead` and `behind` are leads: they
    hold in their family, and the primary contrasts before it do not.
    """

    plan: str
    name: str  # what is compared: `cskd − deit`
    where: str  # on what: `imagenette128, pretrain`
    baseline_kind: str  # supervised, kd, deit, or cskd for an ablation: the colour in figures
    seeds: int
    mean: float | None  # None where no seed is shared
    interval: Interval | None
    simultaneous: Interval | None
    interval_kind: str
    p_value: float | None
    adjusted: float | None
    band: float | None  # differences within ± this count as equal; None where the plan declares none
    equivalence_adjusted: float | None
    detectable: float | None
    answer: Answer
    sentence: str  # contrast, verdict and numbers, for people
    verdict: str  # the answer in the sentence's words: `not shown to differ, nor to be equal within ±0.5 points`
    detail: str  # the sentence's numbers, or why there are none
    note: str  # the plan, when it was registered, and its own sentence on its contrasts
    family: Literal["primary", "exploratory"] = "primary"
    studied: bool = True  # CSKD is on one of its sides


@dataclass
class Comparison:
    """Everything that the report shows about measured records."""

    tables: list[Table]
    left_out: list[LeftOut]
    notes: list[str]
    records: int
    primary: list[ContrastResult] = field(default_factory=list)  # in the order of the plans
    exploratory: list[ContrastResult] = field(default_factory=list)  # contrasts that plans declare behind these
    gate_open: bool = True  # every primary difference is shown, so exploratory marks count too; so without any plan
