"""Part `teacher`: images per second of the teacher's dense response: layouts, folded norms, pieces of a batch."""

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import timm
import torch

from cskd_bench.config import Precision
from cskd_bench.device import precisions
from cskd_bench.models.folding import fold_batch_norms
from cskd_bench.models.teachers import Teacher
from cskd_bench.speed.measure import Clock, compare, table


def measure_teacher(
    name: str, batch: int, rounds: int, clock: Clock, device: torch.device, compiled: bool
) -> dict[str, Any]:
    """Time one forward of each variant on random views; the fastest layout differs between machines."""
    precision: Precision = "fp32" if device.type == "cpu" else "fp16"
    views = torch.rand(batch, 3, 224, 224, device=device)
    teachers = {
        "as it is": _teacher(name, device),
        "channels last": _teacher(name, device).use_channels_last(),
        "folded": _build_folded(name, device),
        "folded, channels last": _build_folded(name, device).use_channels_last(),
        "folded, channels last, pieces": _build_folded(name, device).use_channels_last().take_pieces(),
    }
    if compiled:
        teachers["compiled"] = _teacher(name, device).compile_features()
        teachers["folded, compiled"] = _build_folded(name, device).compile_features()
        teachers["folded, compiled, pieces"] = _build_folded(name, device).compile_features().take_pieces()

    for teacher in teachers.values():
        teacher.precision = precision
    for other in get_args(Precision):
        if other != precision and other in precisions(device):
            fast = _build_folded(name, device).use_channels_last().take_pieces()
            fast.precision = other
            teachers[f"folded, channels last, pieces, {other}"] = fast

    sides: dict[str, Callable[[], object]] = {key: partial(teacher, views) for key, teacher in teachers.items()}
    return {
        "what": f"{name}, 224 px, batch {batch}, {precision}, dense response",
        "sides": table(compare(sides, rounds, clock), "as it is", batch),
    }


def _teacher(name: str, device: torch.device) -> Teacher:
    torch.manual_seed(1)
    return Teacher(timm.create_model(name), 224).to(device)


def _build_folded(name: str, device: torch.device) -> Teacher:
    torch.manual_seed(1)
    model = timm.create_model(name).eval()
    fold_batch_norms(model, torch.rand(1, 3, 224, 224))
    return Teacher(model, 224).to(device)
