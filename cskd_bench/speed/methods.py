"""Part `step` with methods: a step of each beside the step without a teacher, in one run.

A method that asks for a teacher has it in the loop; where a bank can stand in for it, that is a side of its own.
"""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from cskd_bench.bank.targets import BankTargets
from cskd_bench.config import MethodConfig
from cskd_bench.engine.targets import NoTargets, TargetProvider, TeacherTargets
from cskd_bench.errors import UserError
from cskd_bench.method_registry import find_settings, method_names
from cskd_bench.speed.measure import Clock, compare, table
from cskd_bench.speed.step import (
    OurStep,
    StepSize,
    bank_of_views,
    dense_responses,
    fast_teacher,
    median_ratio,
    random_batch,
    step_config,
)


def asked_methods(words: str) -> list[str]:
    """Return the methods that `all`, or a list with commas, names; the one without a teacher comes first.

    `all` leaves presets out: a list may name them.
    """
    names = list(find_settings()[0]) if words == "all" else [word.strip() for word in words.split(",")]
    if unknown := [name for name in names if name not in method_names()]:
        raise UserError(f"--methods {words}: no method {unknown[0]!r}; there are {', '.join(method_names())}")
    return list(dict.fromkeys([_reference(), *names]))


def _reference() -> str:
    return next(name for name, settings in find_settings()[0].items() if not settings.needs_teacher)


def _settings(name: str) -> MethodConfig:
    """Return the defaults of a method, or a preset's settings."""
    found: MethodConfig = TypeAdapter(MethodConfig).validate_python({"kind": name})
    return found


def measure_methods(size: StepSize, names: Sequence[str], device: torch.device, clock: Clock) -> dict[str, Any]:
    """Time one step of each method with its defaults; weights are random, which changes no operation."""
    views, labels, keys = random_batch(size, device)
    teacher = fast_teacher(size, device)
    dense = dense_responses(teacher, views)
    steps: dict[str, Callable[[], object]] = {}
    about: dict[str, tuple[str, str]] = {}  # of each side: the method, and where its labels come from
    without = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            config = step_config(size, _settings(name))
            method = config.method
            sources: list[TargetProvider] = [TeacherTargets(teacher, "", method)]
            if not method.needs_teacher:
                sources = [NoTargets()]
            elif reason := method.why_no_bank():
                without[name] = reason
            else:
                sources.append(BankTargets(bank_of_views(Path(folder) / name, dense, method), config))
            for source in sources:
                side = f"{name}, {source.labels_from}" if method.needs_teacher else name
                about[side] = name, source.labels_from
                steps[side] = partial(OurStep(config, source, device), views, labels, keys)
        seconds = compare(steps, size.rounds, clock)
    rows = table(seconds, _reference(), size.batch)
    for row in rows:
        method_name, labels_from = about[row["side"]]
        times = median_ratio(seconds, row["side"], _reference())
        row |= {"method": method_name, "labels_from": labels_from, "times_supervised": times}
    reasons = "".join(f"; {reason}" for reason in without.values())
    return {
        "what": f"{size.student} with {size.teacher}, {size.image_size} px, batch {size.batch}, {size.precision}",
        "compiled": size.compile,
        "sides": rows,
        "without_a_bank": without,
        "note": f"our step under each method's defaults; bank: labels that were made before{reasons}",
    }
