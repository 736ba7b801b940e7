"""`cskd-bench speed`: measure one part on this machine, print a table, save JSON."""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import timm
import torch
from rich.console import Console
from rich.table import Table

from cskd_bench.config import PretrainConfig
from cskd_bench.device import default_device
from cskd_bench.engine.provenance import code_ref, now, versions
from cskd_bench.errors import UserError
from cskd_bench.files import write_file
from cskd_bench.memory import keep_memory
from cskd_bench.models.timm_names import check_name
from cskd_bench.speed.measure import Clock, compare, machine, table

if TYPE_CHECKING:
    from cskd_bench.speed.host import Others
    from cskd_bench.speed.step import StepSize

Part = Literal["step", "teacher", "data", "bank", "host", "coco", "report"]
PARTS: tuple[Part, ...] = get_args(Part)
_ABOUT = ("machine", "versions", "code")  # of a measurement: no part of what was measured
_ON_HOST = ("host", "coco")  # parts whose sides are the host's own
_FEWEST_ROUNDS = 3
_USUAL_ROUNDS = 9
_SLOW = {"coco": 1}  # usual and fewest rounds, of minutes each
_LISTINGS = 3  # rounds of opening large data sets, tens of seconds each


def run_speed(
    part: Part,
    output: Path | None = None,
    *,
    student: str = "deit_tiny_patch16_224",
    teacher: str = "regnety_160",
    batch: int | None = None,
    rounds: int | None = None,
    clock: Clock = "wall",
    compiled: bool = False,
    precision: Literal["fp32", "bf16"] | None = None,
    methods: str = "",
    images: Path | None = None,
    objects: int | None = None,
    config: PretrainConfig | None = None,
    results: Path = Path("results"),
    before: "Others | None" = None,
) -> dict[str, Any]:
    """Measure a part, print it, write it to `output` where given, and return it.

    `student`, `teacher`, `batch`, `compiled`: step and teacher (weights are random). `rounds`: None for the part's own.
    `precision`: step (None: fp32 on a CPU, bf16 on a GPU). `methods`: step, of these beside the one without a teacher
    and no yardstick ("all", or names with commas). `images`: a folder for data. `objects`: coco (None: as COCO).
    `config`: bank, the run whose teacher and views are measured. `results`: of report. `before`: more sides
    of host. `clock` cpu: processor time, one thread. UserError for missing inputs and an output that exists.
    """
    rounds = rounds or _SLOW.get(part, _USUAL_ROUNDS)
    _check(part, output, student, teacher, rounds, methods)
    if clock == "cpu":
        torch.set_num_threads(1)
    device = torch.device("cpu") if part in _ON_HOST else default_device()
    if device.type == "cpu":
        keep_memory()
    head = _head(part, clock, device)
    default_batch = 8 if device.type == "cpu" else 256
    body: dict[str, Any]
    match part:
        case "step":
            from cskd_bench.speed.step import StepSize

            size = StepSize(student, teacher, batch or default_batch, rounds=rounds)
            usual: Literal["fp32", "bf16"] = "fp32" if device.type == "cpu" else "bf16"
            body = _measure_steps(replace(size, compile=compiled, precision=precision or usual), methods, device, clock)
        case "teacher":
            body = _measure_teacher(teacher, batch or default_batch, rounds, clock, device, compiled)
        case "data":
            body = _measure_data(images, rounds, clock, device)
        case "bank":
            body = _measure_bank(config, rounds, clock, device)
        case "host":
            body = _measure_host(rounds, clock, before)
        case "coco":
            body = _measure_coco(objects, rounds, clock)
        case "report":
            body = _measure_report(results, rounds, clock)
    measured = head | body
    _show(measured)
    if output is not None:
        write_file(output, (json.dumps(measured, indent=1) + "\n").encode())
    return measured


def _head(part: Part, clock: Clock, device: torch.device) -> dict[str, Any]:
    """Say what is measured, when, where and of which code."""
    head = {"part": part, "measured": now(), "clock": clock, "machine": machine(device), "versions": versions()}
    return head | {"code": code_ref().model_dump(mode="json")}


def _check(part: str, output: Path | None, student: str, teacher: str, rounds: int, methods: str) -> None:
    """UserError for what cannot be measured."""
    if part not in PARTS:
        raise UserError(f"--part {part}: choose one of {', '.join(PARTS)}")
    if rounds < _SLOW.get(part, _FEWEST_ROUNDS):
        raise UserError(f"--rounds {rounds}: medians need at least {_FEWEST_ROUNDS}")
    if output is not None and output.exists():
        raise UserError(f"{output}: exists already; measurements are not overwritten")
    if methods and part != "step":
        raise UserError(f"--methods is for --part step, not for {part}")
    if part in ("step", "teacher"):
        _check_teacher(teacher, needs_fc=part == "step" and not methods)
    if part == "step":
        check_name(student, "--student")
    usable = student.endswith("_224") and timm.is_model(student.replace("_patch", "_distilled_patch", 1))
    if part == "step" and not usable:
        raise UserError(f"--student {student}: the yardsticks need timm's deit_{{tiny,small,base}}_patch16_224")


def _check_teacher(name: str, *, needs_fc: bool) -> None:
    """Raise UserError where timm has no such model, or none with a feature map (and, for the plain step, head.fc)."""
    check_name(name, "--teacher")
    model = timm.create_model(name).eval()
    with torch.no_grad():
        features = model.forward_features(torch.zeros(1, 3, 224, 224))
    if features.ndim != 4:
        raise UserError(f"--teacher {name}: has no feature map (B, C, h, w); a CNN is needed")
    if needs_fc and not hasattr(getattr(model, "head", None), "fc"):
        raise UserError(f"--teacher {name}: the plain step reads a classifier named head.fc, such as a RegNet's")


def _measure_steps(size: "StepSize", methods: str, device: torch.device, clock: Clock) -> dict[str, Any]:
    """Time the step beside the yardsticks, or the steps of some methods beside each other."""
    from cskd_bench.speed.methods import asked_methods, measure_methods
    from cskd_bench.speed.step import measure_step

    if methods:
        return measure_methods(size, asked_methods(methods), device, clock)
    return measure_step(size, device, clock)


def _measure_teacher(
    teacher: str, batch: int, rounds: int, clock: Clock, device: torch.device, compiled: bool
) -> dict[str, Any]:
    from cskd_bench.speed.teacher import measure_teacher

    return measure_teacher(teacher, batch, rounds, clock, device, compiled)


def _measure_data(images: Path | None, rounds: int, clock: Clock, device: torch.device) -> dict[str, Any]:
    from cskd_bench.speed.data import measure_data

    return measure_data(images, rounds, clock, device)


def _measure_coco(objects: int | None, rounds: int, clock: Clock) -> dict[str, Any]:
    from cskd_bench.speed.coco import OBJECTS, measure_coco

    return measure_coco(objects or OBJECTS, rounds, clock)


def _measure_bank(config: PretrainConfig | None, rounds: int, clock: Clock, device: torch.device) -> dict[str, Any]:
    from cskd_bench.speed.bank import measure_bank

    if config is None:
        raise UserError("--part bank needs --config: the run whose teacher and views are measured")
    return measure_bank(config, rounds, clock, device)


def _measure_host(rounds: int, clock: Clock, before: "Others | None") -> dict[str, Any]:
    """Measure what a run waits for beside its arithmetic: the main process's part, evaluations, the opening of data."""
    from cskd_bench.speed.evaluation import measure_evaluation
    from cskd_bench.speed.host import measure_host
    from cskd_bench.speed.listing import measure_listing

    host, evaluation = measure_host(rounds, clock, before), measure_evaluation(rounds, clock)
    listing = measure_listing(_LISTINGS, clock)
    what = "; ".join(str(part.pop("what")) for part in (host, evaluation, listing))
    return {"what": what, **host, **evaluation, "listing": listing}


def _measure_report(results: Path, rounds: int, clock: Clock) -> dict[str, Any]:
    """Time all formats of the report of the records that are there."""
    from cskd_bench.report.build import build_report

    records = len(list((results / "records").glob("*.json")))
    with tempfile.TemporaryDirectory() as folder:
        sides = {"all formats": lambda: build_report(results, Path(folder), include_dirty=True)}
        seconds = compare(sides, rounds, clock)
    return {"what": f"report of {records} records", "sides": table(seconds, "all formats", max(records, 1))}


def _show(measured: dict[str, Any]) -> None:
    """Print every list of sides as a table, then the plain numbers."""
    console = Console()
    console.print(f"{measured['what']}  ({measured['machine']['device']}, {measured['clock']} clock)")
    for name, rows in measured.items():
        if not isinstance(rows, list):
            continue
        shown = Table(title=name, title_justify="left")
        for column in ("side", "median ms", "items/s", "speed-up"):
            shown.add_column(column, justify="left" if column == "side" else "right")
        for row in rows:
            speedup = next(value for key, value in row.items() if key.startswith("speedup_over_"))
            median, rate = 1000 * row["median_seconds"], row["items_per_second"]
            shown.add_row(row["side"], f"{median:,.1f}", f"{rate:,.1f}", f"{speedup:.2f}x")
        console.print(shown)
    for name, value in _numbers(measured):
        console.print(f"{name.replace('_', ' ')}: {value:,.3f}")
    if "note" in measured:
        console.print(measured["note"])


def _numbers(measured: dict[str, Any], within: str = "") -> Iterator[tuple[str, float]]:
    """Yield the plain numbers of a measurement, those in its parts under the parts' names."""
    for name, value in measured.items():
        if isinstance(value, float):
            yield within + name, value
        elif isinstance(value, dict) and name not in _ABOUT:
            yield from _numbers(value, f"{within}{name}: ")
