"""What feature methods train beside the student: projections of its tokens to the teacher's width.

A projector is no part of the student: it is left out of its weights, its export and its predictions.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from cskd_bench.outputs import StudentOutput, TeacherWidths


class Projector(nn.Module):
    """The base of projectors: `forward` maps a `StudentOutput`, with the features that a method asks for, to a tuple.

    The tuple is compared with the teacher's features, tensor by tensor.
    """


class PooledProjector(Projector):
    """P v of the mean patch token v (B, D): (B, C), without bias; `orthonormal` keeps P^T P = I (P P^T where C < D)."""

    def __init__(self, width: int, teacher: TeacherWidths, orthonormal: bool) -> None:
        super().__init__()
        layer = nn.Linear(width, teacher.pooled, bias=False)
        self.layer: nn.Module = OrthonormalLinear(layer.weight.detach()) if orthonormal else layer

    def forward(self, output: StudentOutput) -> tuple[Tensor, ...]:
        assert output.pooled is not None
        with _without_autocast(output.pooled.device.type):
            return (self.layer(output.pooled.to(next(self.parameters()).dtype)),)


class OrthonormalLinear(nn.Module):
    """A linear map whose n x k matrix (transposed where it is wide) has orthonormal columns, whatever its weights are.

    Householder reflections, as in torch's orthogonal parametrisation with a base: P = -B H E, where H is the product of
    I - tau v v^T over the columns v of V = tril(reflectors, -1) + E, and B E the Q factor of the initial matrix. The
    product is I - V T V^T with T^-1 = striu(V^T V) + diag(V^T V) / 2 (compact WY, SIAM J. Sci. Stat. Comput. 10:53):
    two products of matrices where torch takes a loop over columns. Weights of 0 give B E, so weight decay pulls there.
    """

    start: Tensor  # (n, k) the reflections of B
    start_signs: Tensor  # (k,) of the columns of B E

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self._wide = matrix.shape[0] < matrix.shape[1]
        tall = matrix.T if self._wide else matrix
        packed, tau = torch.geqrf(tall)
        signs = packed.diagonal().sign()
        self.register_buffer("start", packed.tril(-1).contiguous())
        self.register_buffer("start_signs", torch.where(tau == 0, -signs, signs))  # LAPACK leaves that reflection out
        self.reflectors = nn.Parameter(torch.zeros(tall.shape, dtype=tall.dtype))

    @property
    def weight(self) -> Tensor:
        """The matrix, (C, D)."""
        columns = torch.eye(*self.reflectors.shape, dtype=self.reflectors.dtype, device=self.reflectors.device)
        turned = _reflect(self.reflectors, columns)
        signs = torch.cat([self.start_signs, self.start_signs.new_ones(len(turned) - len(self.start_signs))])
        tall: Tensor = -_reflect(self.start, signs[:, None] * turned)
        return tall.T if self._wide else tall

    def forward(self, features: Tensor) -> Tensor:
        projected: Tensor = nn.functional.linear(features, self.weight)
        return projected


def _reflect(lower: Tensor, columns: Tensor) -> Tensor:
    """Return H @ columns for the reflections whose vectors are the columns of `lower` under a diagonal of ones."""
    vectors = lower.tril(-1) + torch.eye(*lower.shape, dtype=lower.dtype, device=lower.device)
    gram = vectors.T @ vectors
    inverse = gram.triu(1) + torch.diag_embed(gram.diagonal() / 2)
    weights: Tensor = torch.linalg.solve_triangular(inverse, vectors.T @ columns, upper=True)
    return columns - vectors @ weights


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
