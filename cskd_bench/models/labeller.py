"""The teacher as it labels views: the same in the training loop and in a bank, so that their labels are, too."""

import sys
from collections.abc import Sequence

import torch

from cskd_bench.compilation import forget_compiled
from cskd_bench.config import TeacherConfig
from cskd_bench.device import check_precision
from cskd_bench.models.folding import fold_batch_norms
from cskd_bench.models.teachers import Teacher, build_teacher


def labelling_teacher(
    config: TeacherConfig, classes: Sequence[str], num_classes: int, device: torch.device, *, compiled: bool
) -> Teacher:
    """Build a teacher, fold its batch norms and compile it or lay it out for the device; UserError as build_teacher.

    Where folding is refused, that is said, and `note` holds it for the record.
    """
    check_precision(device, config.precision, "teacher.precision")
    teacher = build_teacher(config, classes, num_classes).to(device)
    try:
        make_fast(teacher, compiled=compiled)
    except ValueError as error:  # norms that cannot be folded stay
        print(f"teacher {config.name}: {error}; they stay as they are", file=sys.stderr)
        teacher = build_teacher(config, classes, num_classes).to(device)
        teacher.note = f"teacher's batch norms not folded: {error}"
        _lay_out(teacher, compiled)
    return teacher


def make_fast(teacher: Teacher, *, compiled: bool) -> Teacher:
    """Fold a teacher's batch norms, in place, and compile it or lay it out; ValueError where folding is wrong."""
    draw = torch.Generator().manual_seed(0)
    probe = torch.randn(1, 3, teacher.image_size, teacher.image_size, generator=draw)
    fold_batch_norms(teacher.model, probe.to(teacher.mean.device))
    return _lay_out(teacher, compiled)


def _lay_out(teacher: Teacher, compiled: bool) -> Teacher:
    on_cpu = teacher.mean.device.type == "cpu"
    if compiled:
        forget_compiled()
        teacher.compile_features()
    elif on_cpu:
        teacher.use_channels_last()
    return teacher.take_pieces() if on_cpu else teacher
