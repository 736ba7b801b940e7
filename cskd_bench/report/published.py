"""Published results, as reference rows: read from published.toml and set beside matching measured cells."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cskd_bench.errors import UserError
from cskd_bench.report.statistics import further_run
from cskd_bench.report.tables import Comparison, Table, TableCell
from cskd_bench.schema import read_toml

ROUNDING: Final = 0.0005  # published scores are rounded to 0.1 points
WORDS: Final = ("task", "metric", "protocol", "source", "rows")
DEIT_EPOCHS: Final = 300  # of the backbones of published detectors
IMAGENET: Final = ("imagenet1k", "imagenet-1k", "imagenet_1k", "imagenet", "ilsvrc2012")
SAME_TASK: Final = {
    "value": "imagenet1k",
    "real": "imagenet_real",
    "v2": "imagenet_v2",
    "cars": "stanford_cars",
    "box_ap": "coco",
    "mask_ap": "coco",
}


@dataclass(frozen=True, slots=True)
class Published:
    """One published score (a fraction) with its source."""

    task: str
    metric: str
    method: str
    model: str
    value: float
    protocol: str
    source: str
    differs: str = ""  # how it was made otherwise than the plain recipe of its table; then nothing is judged
    secondary: bool = False  # read in a text about the paper, not in the paper or its code
    config: str = ""  # of detection: ours that has the published schedule; without one nothing is set beside it


@dataclass(frozen=True, slots=True)
class Match:
    """A measured cell beside a published score; the tolerance is what one more seed of ours could give."""

    student: str
    cell: TableCell
    published: Published
    tolerance: float | None

    @property
    def agrees(self) -> bool | None:
        """Whether the published score lies within the tolerance; None without one, or where the recipe differs."""
        if self.tolerance is None or self.published.differs:
            return None
        return abs(self.cell.mean - self.published.value) <= self.tolerance


def read_published(path: Path) -> list[Published]:
    """Read published.toml: blocks of rows, one number per task or metric; UserError names what is wrong."""
    found = []
    blocks = read_toml(path).get("result", [])
    if not isinstance(blocks, list):
        raise UserError(f"{path}: result: expected blocks [[result]], got {blocks!r}")
    for number, block in enumerate(blocks, 1):
        where = f"{path}: result {number}"
        if not isinstance(block, dict) or not isinstance(block.get("rows"), list):
            raise UserError(f"{where}: needs `rows`, a list of tables")
        for key in WORDS[:-1]:
            if not isinstance(block.get(key), str):
                raise UserError(f"{where}: needs `{key}`, a text")
        if not isinstance(block.get("secondary", False), bool):
            raise UserError(f"{where}: `secondary` is true or false")
        for row in block["rows"]:
            found.extend(_scores(block, row, where))
    return found


def _scores(block: dict[str, Any], row: Any, where: str) -> list[Published]:
    if not isinstance(row, dict) or not isinstance(row.get("method"), str) or not isinstance(row.get("model"), str):
        raise UserError(f"{where}: each row needs `method` and `model`, both texts")
    differs = row.get("differs", block.get("differs", ""))
    if not isinstance(differs, str):
        raise UserError(f"{where}: {row['method']}: `differs` is a text")
    found = []
    for key, value in row.items():
        if key in ("method", "model", "differs"):
            continue
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 100:
            raise UserError(f"{where}: {row['method']} {key}: expected a score in percent, got {value!r}")
        rerun = key == "rerun"
        task = str(block["task"] if key in ("value", "rerun") else SAME_TASK.get(key, key))
        metric = key if key in ("box_ap", "mask_ap") else block["metric"]
        protocol = f"{block['protocol']}, rerun" if rerun else block["protocol"]
        found.append(
            Published(
                task,
                metric,
                row["method"],
                row["model"],
                value / 100,
                protocol,
                block["source"],
                differs=differs,
                secondary=block.get("secondary", False),
                config=str(block.get("config", "")),
            )
        )
    return found


def match(published: list[Published], comparison: Comparison) -> list[Match]:
    """Pair measured cells with published scores of the same task, metric, method and model.

    A transfer is paired only where its task says that its recipe is the published one (`published_as`).
    """
    known: dict[tuple[str, str, str, str], list[Published]] = {}
    for item in published:
        known.setdefault((item.task, item.metric, item.method, _plain(item.model)), []).append(item)
    return [
        Match(table.student.model, cell, item, _tolerance(cell))
        for table in comparison.tables
        for (method, setting), cell in table.cells.items()
        for item in known.get((_published_as(cell), setting.metric, method.label, _plain(table.student.model)), [])
        if setting.protocol in _protocols(item)
        and (setting.group != "detection" or _same_detector(item, cell))
        and _same_pretraining(item, table, cell)
    ]


def _published_as(cell: TableCell) -> str:
    """Name the data set as published.toml does; empty where all that a published score stands for is not the same."""
    task = cell.records[0].task
    if "preprocessing" in cell.records[0].config:
        return ""
    if cell.setting.protocol == "pretrain":
        return "imagenet1k" if task.name.lower() in IMAGENET else ""
    return task.name if cell.setting.group == "detection" else task.published_as


def _same_pretraining(item: Published, table: Table, cell: TableCell) -> bool:
    """Whether ours was pretrained on ImageNet-1k too, and for as many epochs where the source says how many."""
    if table.student.pretrain_data.lower() not in IMAGENET:
        return False
    if cell.setting.group == "detection":  # the epochs that its protocol states are the detector's
        return bool(_epochs(cell.records[0].config) == DEIT_EPOCHS)
    stated = re.search(r"(\d+) epochs", item.protocol)
    return stated is None or int(stated[1]) == _epochs(cell.records[0].config)


def _same_detector(item: Published, cell: TableCell) -> bool:
    """Whether ours was trained by the configuration that has the published schedule, as that is."""
    task = cell.records[0].config.get("task")
    detect = task.get("detect") if isinstance(task, dict) else None
    if not isinstance(detect, dict) or not item.config:
        return False
    changed = [key for key in ("epochs", "batch_size", "lr") if detect.get(key) is not None]
    return detect.get("config") == item.config and not changed


def _epochs(config: dict[str, Any]) -> Any:
    """Return the epochs of pretraining, from a pretraining's or a transfer's configuration."""
    pretraining = config.get("pretrain", config)
    recipe = pretraining.get("recipe") if isinstance(pretraining, dict) else None
    return recipe.get("epochs") if isinstance(recipe, dict) else None


def _protocols(item: Published) -> tuple[str, ...]:
    """Return our protocols that measure what was published."""
    if item.protocol.startswith("pretrain"):
        return "pretrain", "evaluate"
    return ("finetune",) if item.protocol.startswith("fine-tune") else ("detect",)


def _plain(model: str) -> str:
    """Name the plain model: whether there is a distillation token is the method's business."""
    return model.split(".")[0].replace("_distilled", "")


def _tolerance(cell: TableCell) -> float | None:
    """Return half the 95 % prediction interval of one further seed, plus the rounding of published scores."""
    half = further_run(list(cell.scores.values()))
    return None if half is None else half + ROUNDING
