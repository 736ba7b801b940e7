"""`cskd-bench bank flips`: what each precision of the teacher costs in labels and gives in views a second, here."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from cskd_bench.bank.flips import RATIO, first_views, label_flips
from cskd_bench.compilation import resolve_compile
from cskd_bench.config import Precision, PretrainConfig
from cskd_bench.data.open import open_source
from cskd_bench.device import default_device, precisions
from cskd_bench.engine.provenance import code_ref, command_line, now, versions
from cskd_bench.errors import UserError
from cskd_bench.files import write_file
from cskd_bench.models.labeller import labelling_teacher
from cskd_bench.models.teachers import Teacher, teacher_identity
from cskd_bench.speed.measure import Clock, compare, machine, table

_ROUNDS: Final = 3


def measure_precisions(
    config: PretrainConfig, views: int, output: Path | None = None, clock: Clock = "wall"
) -> dict[str, Any]:
    """Measure flips and views a second of every precision that this device has, print them, keep them in `output`.

    UserError for a run without a teacher and an output that exists.
    """
    if not config.method.needs_teacher:
        raise UserError(f"method {config.method.kind} has no teacher, so there is nothing to compare")
    if output is not None and output.exists():
        raise UserError(f"{output}: exists already; measurements are not overwritten")
    if clock == "cpu":
        torch.set_num_threads(1)
    device = default_device()
    head = {"measured": now(), "clock": clock, "machine": machine(device), "versions": versions()}
    head |= {"code": code_ref().model_dump(mode="json"), "command": command_line()}
    source = open_source(config.data, config.data.train)
    classes, compiled = config.data.num_classes, resolve_compile(config.run, device).teacher
    fp32 = config.teacher.model_copy(update={"precision": "fp32"})
    teacher = labelling_teacher(fp32, source.classes, classes, device, compiled=compiled)
    batches = list(first_views(config, source, views, device))
    measured = head | {
        "teacher": teacher_identity(fp32),
        "what": _what(config, teacher),
        "views": sum(map(len, batches)),
        "ratio": RATIO,
        "precisions": _rows(teacher, batches, device, clock),
    }
    _show(measured)
    if output is not None:
        content = (json.dumps(measured, indent=1) + "\n").encode()
        try:
            write_file(output, content, replace=False)
        except FileExistsError:
            raise UserError(f"{output}: exists already; name a new file") from None
    return measured


def _what(config: PretrainConfig, teacher: Teacher) -> str:
    images = Path(config.data.root).name or config.data.train
    mixing = "with" if config.recipe.augment.mixes else "without"
    height, width = teacher.grid()
    return (
        f"{config.teacher.name} at {config.teacher.image_size} px on {images}, {config.view_size} px views {mixing} "
        f"mixing, {config.data.num_classes} classes, {height}x{width} positions"
    )


def _rows(teacher: Teacher, batches: list[Tensor], device: torch.device, clock: Clock) -> list[dict[str, Any]]:
    """Return one row a precision; counting its flips warms it up for its timing."""
    names = [cast(Precision, name) for name in precisions(device)]
    flips = {name: label_flips(teacher, batches, precision=name) for name in names}
    sides: dict[str, Callable[[], object]] = {name: partial(_label, teacher, batches, name) for name in names}
    times = table(compare(sides, _ROUNDS, clock, warmup=0), "fp32", sum(map(len, batches)))
    return [
        {
            "precision": name,
            "fused_flips": flips[name].fused,
            "global_flips": flips[name].global_,
            "views_per_second": row["items_per_second"],
            "quartiles_seconds": row["quartiles_seconds"],
            "speedup_over_fp32": row["speedup_over_fp32"],
        }
        for name, row in zip(names, times, strict=True)
    ]


def _label(teacher: Teacher, batches: list[Tensor], precision: Precision) -> None:
    teacher.precision = precision
    for batch in batches:
        teacher(batch)


def _show(measured: dict[str, Any]) -> None:
    console = Console()
    console.print(f"{measured['what']}  ({measured['machine']['device']}, {measured['clock']} clock)", soft_wrap=True)
    shown = Table(title=f"{measured['views']} views, r = {measured['ratio']}, against fp32", title_justify="left")
    for column in ("teacher.precision", "fused labels flipped", "global labels flipped", "views/s"):
        shown.add_column(column, justify="left" if column == "teacher.precision" else "right")
    for row in measured["precisions"]:
        shares = (f"{row[key]:.2%}" for key in ("fused_flips", "global_flips"))
        shown.add_row(row["precision"], *shares, f"{row['views_per_second']:,.1f}")
    console.print(shown)
