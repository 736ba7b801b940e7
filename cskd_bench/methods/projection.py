"""What feature methods train beside the student: projections of its tokens to the teacher's width.

A projector is no part of the student: it is left out of its weights, its export and its predictions.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from cskd_bench.outputs import StudentOutput, TeacherWidths


class Projector(nn.Module):
    """Maps what `StudentOutput` holds of the student's features to what is compared with the teacher's."""

    def forward(self, output: StudentOutput) -> tuple[Tensor, ...]:
        raise NotImplementedError


class PooledProjector(Projector):
    """P v of the mean patch token v (B, D): (B, C), without bias; with `orthogonal`, P^T P = I where C >= D.

    An orthogonal P is torch's parametrisation, and starts as Q of the QR decomposition of the default initial weights.
    """

    def __init__(self, width: int, teacher: TeacherWidths, orthogonal_columns: bool) -> None:
        super().__init__()
        layer = nn.Linear(width, teacher.pooled, bias=False)
        self.layer = orthogonal(layer) if orthogonal_columns else layer

    def forward(self, output: StudentOutput) -> tuple[Tensor, ...]:
        assert output.pooled is not None
        with _without_autocast(output.pooled.device.type):
            return (self.layer(output.pooled.to(next(self.parameters()).dtype)),)


class MapProjector(Projector):
    """One 1 x 1 convolution, with bias, for each chosen block's patch tokens (B, D, H, W): (B, C_i, H, W)."""

    def __init__(self, width: int, teacher: TeacherWidths) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(width, channels, 1) for channels in teacher.maps)

    def forward(self, output: StudentOutput) -> tuple[Tensor, ...]:
        return tuple(layer(block) for layer, block in zip(self.layers, output.blocks, strict=True))


def _without_autocast(device_type: str) -> AbstractContextManager[object]:
    """Compute in the weights' own type; tensors without content know no autocast."""
    return nullcontext() if device_type == "meta" else torch.autocast(device_type, enabled=False)


def seeded(build: Callable[[], Projector], seed: int) -> Projector:
    """Build a projector from draws of its own: a student's initial weights and every later draw stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
