"""Numbers and names as every format writes them; the formats only escape."""

from collections.abc import Iterable

from cskd_bench.report.columns import differing, flatten, name_settings
from cskd_bench.report.selection import Method, Setting
from cskd_bench.report.statistics import LEVEL
from cskd_bench.report.tables import Difference, Table, TableCell, TableCost
from cskd_bench.report.tuning import in_words, tuned_with

METRIC_WORDS = {
    "top1": "top-1",
    "mean_per_class": "mean per class",
    "box_ap": "box AP",
    "mask_ap": "mask AP",
    "miou": "mIoU",
    "map": "mAP",
}
PROTOCOL_WORDS = {
    "detect": "detection",
    "evaluate": "as pretrained",
    "finetune": "fine-tune",
    "knn": "kNN",
    "kshot": "k-shot",
    "lowlabel": "low-label",
    "linear": "linear probe",
    "multilabel": "multi-label probe",
    "segment": "linear segmentation",
}
MIXED_FEATURES = (
    "Inference features: a probe read what each method's own inference rule averages, so such a column compares "
    "features as well as methods; columns that do not say so read the same tokens under every method."
)
SCORES = "Scores in percent: mean ± standard deviation over pretraining seeds (number of seeds)."
BOLD = "Bold: not shown to be worse than the best of its column; a column where nothing is shown has none."
PAIRED = (
    "Differences are paired by seed, in points, with intervals that hold for all tests of the family at once. "
    f"↑ ↓: shown at {100 * LEVEL:.0f} % after Holm's correction. "
    "△ ▽: a lead, exploratory, that waits for the plan's primary contrasts. ○: not shown to differ. "
    "?: not tested."
)
LEGEND = f"{SCORES} {BOLD} {PAIRED} ↑/○/↓: in how many columns. docs/statistics.md explains each number."


def score(cell: TableCell) -> str:
    """Write a mean with its spread and number of seeds: `84.31 ± 0.25 (3)`."""
    spread = "" if cell.deviation is None else f" ± {100 * cell.deviation:.2f}"
    return f"{100 * cell.mean:.2f}{spread} ({cell.seeds})"


def points(value: float) -> str:
    """Write a difference in points with its sign, a true minus and no negative zero."""
    text = f"{100 * value:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "−")


def interval(bounds: tuple[float, float] | None, *, signed: bool = False) -> str:
    """Write an interval in percent, empty where there is none."""
    if bounds is None:
        return ""
    low, high = (points(bound) if signed else f"{100 * bound:.2f}" for bound in bounds)
    return f"[{low}, {high}]"


def mark(difference: Difference) -> str:
    """Return the mark of a difference: ↑ ↓ shown, △ ▽ a lead behind a shut gate, ○ not shown, ? not tested."""
    if difference.p_value is None:
        return "?"
    if difference.significant:
        return "↑" if difference.mean > 0 else "↓"
    if difference.is_lead:
        return "△" if difference.mean > 0 else "▽"
    return "○"


def difference(value: Difference) -> str:
    """Write a paired difference with its simultaneous interval: `↑ +0.81 [+0.20, +1.42]`."""
    bounds = interval(value.simultaneous, signed=True)
    return " ".join(part for part in (mark(value), points(value.mean), bounds) if part)


def p_value(value: float | None) -> str:
    """Write a p-value as papers do."""
    if value is None:
        return "n/a"
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def method(row: Method, methods: list[Method]) -> str:
    """Name a row; what its teacher has of its own is added where one label stands for several."""
    teachers = [other.teacher.partition(" ") for other in methods if other.label == row.label]
    if len(teachers) < 2:
        return row.label
    one_name = len({name for name, _, _ in teachers}) == 1 and all(set_up for _, _, set_up in teachers)
    teacher = row.teacher.partition(" ")[2] if one_name else row.teacher or "none"
    return f"{row.label} (teacher {teacher})"


def protocol(setting: Setting) -> str:
    """Name a protocol in tables."""
    return PROTOCOL_WORDS.get(setting.protocol, setting.protocol)


def metric(setting: Setting) -> str:
    """Name a metric in tables."""
    return METRIC_WORDS.get(setting.metric, setting.metric)


def legend(tables: Iterable[Table]) -> str:
    """Say how tables are read, also those with columns whose probes read each method's own inference rule."""
    return f"{LEGEND} {mixed_features([setting for table in tables for setting in table.settings])}".rstrip()


def mixed_features(settings: Iterable[Setting]) -> str:
    """Say what a column means whose probe reads each method's own inference rule; empty where there is none."""
    return MIXED_FEATURES if any(_features(setting) == "inference" for setting in settings) else ""


def _features(setting: Setting) -> str:
    """Return what a probe's column read of a frozen student; empty for other protocols."""
    return str(setting.content.get("features", ""))


def column(setting: Setting, settings: list[Setting], *, version: bool = True) -> str:
    """Name a column below its task; what sets it apart from like columns is added, in the words of its settings.

    A hash is added where nothing else tells two apart. `version`: whether to add the task's, where it differs.
    A fine-tuning with a teacher is always told: `fine-tune with deit from resnet50@0123456789ab at 224 px`.
    """
    same = [other for other in settings if (other.task, other.protocol) == (setting.task, setting.protocol)]
    keys = differing([flatten(in_words(other.content)) for other in same])
    parts = _apart(setting, same, keys)
    like = [
        other for other in same if _always_said(other) == _always_said(setting) and _apart(other, same, keys) == parts
    ]
    if len(like) > 1:
        parts.append(f"recipe {setting.recipe[:6]}")
        if len({other.recipe for other in like}) < len(like):
            parts.append(f"content {setting.fingerprint[:6]}")
    if version and len({other.version for other in same}) > 1:
        parts.insert(0, f"v{setting.version}")
    if _features(setting) in ("cls", "inference"):
        parts.insert(0, f"{_features(setting)} features")
    return ", ".join([protocol(setting) + _tuned(setting), *parts])


def _always_said(setting: Setting) -> tuple[int, str, str]:
    return setting.version, _features(setting), _tuned(setting)


def _tuned(setting: Setting) -> str:
    """Say by which method and teacher a column's students were fine-tuned; empty where it was by labels alone."""
    tuned = tuned_with(setting.content)
    return f" with {tuned}" if tuned else ""


def _apart(setting: Setting, same: list[Setting], keys: list[str]) -> list[str]:
    """Return what but the version sets a column apart from others of its task, whose contents differ in `keys`."""
    parts = []
    said = ["name", "version", "metric", "features", "features_version", "finetune.method", "finetune.teacher"]
    if len({other.image_size for other in same}) > 1:
        parts.append(f"{setting.image_size} px")
        said.append("image_size")
    parts.extend(name_settings(flatten(in_words(setting.content)), [key for key in keys if key not in said]))
    if len({other.weights for other in same}) > 1:
        parts.append(f"{setting.weights} weights")
    if setting.metric != "top1":
        parts.append(metric(setting))
    return parts


def duration(seconds: float) -> str:
    """Write a time with the unit that suits it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def cost(value: TableCost) -> dict[str, str]:
    """Write the cost of one run by column; empty where it is not shown."""
    labelling = f" + {duration(value.labelling_seconds)} labels" if value.labelling_seconds else ""
    return {
        "images/s": f"{value.images_per_second:,.0f}" if value.images_per_second else "",
        "time": duration(value.seconds) + labelling if value.seconds else "",
        "GPU-hours": f"{value.gpu_hours:.2f}" if value.gpu_hours else "",
        "memory": f"{value.peak_memory_bytes / 2**30:.1f} GiB" if value.peak_memory_bytes else "",
    }


def count(number: int, noun: str) -> str:
    """Write a number with its noun: `1 column`, `2 columns`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def tally(counts: tuple[int, int, int]) -> str:
    """Write wins, ties and losses."""
    return "/".join(map(str, counts))
