"""The teacher as it labels views: the same in the training loop and in a bank, so that their labels are, too."""

from collections.abc import Sequence
from typing import Literal

import torch

from cskd_bench.bank.folding import fold_batch_norms
from cskd_bench.config import TeacherConfig
from cskd_bench.models.teachers import Teacher, build_teacher


def labelling_teacher(
    config: TeacherConfig, classes: Sequence[str], num_classes: int, device: torch.device, *, compiled: bool
) -> Teacher:
    """Build a teacher, fold its batch norms and compile it or lay it out for the device; UserError as build_teacher."""
    teacher = build_teacher(config, classes, num_classes).to(device)
    try:
        make_fast(teacher, compiled=compiled)
    except ValueError:  # norms that cannot be folded stay
        teacher = build_teacher(config, classes, num_classes).to(device)
        _lay_out(teacher, compiled)
    return teacher


def labelling_precision(device: torch.device, precision: str) -> Literal["fp32", "fp16"]:
    """Return fp16 for a recipe in half precision on a GPU, else fp32: bf16 would flip one label in two hundred."""
    return "fp16" if device.type == "cuda" and precision != "fp32" else "fp32"


def make_fast(teacher: Teacher, *, compiled: bool) -> Teacher:
    """Fold a teacher's batch norms, in place, and compile it or lay it out; ValueError where folding is wrong."""
    draw = torch.Generator().manual_seed(0)
    probe = torch.randn(1, 3, teacher.image_size, teacher.image_size, generator=draw)
    fold_batch_norms(teacher.model, probe.to(teacher.mean.device))
    return _lay_out(teacher, compiled)


def _lay_out(teacher: Teacher, compiled: bool) -> Teacher:
    on_cpu = teacher.mean.device.type == "cpu"
    if compiled:
        teacher.compile_features()
    elif on_cpu:
        teacher.use_channels_last()
    return teacher.take_pieces() if on_cpu else teacher
