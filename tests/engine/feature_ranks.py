"""Run by torchrun in test_feature_methods: a method's gradients of this rank's share of a batch, in fp64."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # helpers

from helpers.runs import small_student
from pydantic import TypeAdapter

from cskd_bench.config import MethodConfig
from cskd_bench.engine.distributed import joined_ranks
from cskd_bench.engine.projected import build_projector, share_images, with_projector
from cskd_bench.engine.targets import objective_of
from cskd_bench.outputs import TeacherOutput, TeacherWidths

IMAGES, CLASSES = 8, 3
WIDTHS = TeacherWidths(10, (5, 6, 7))


def response(images: slice) -> TeacherOutput:
    draw = torch.Generator().manual_seed(1)
    dense = torch.randn(IMAGES, CLASSES, 2, 2, generator=draw, dtype=torch.float64)
    pooled = torch.randn(IMAGES, WIDTHS.pooled, generator=draw, dtype=torch.float64)
    maps = [
        torch.randn(IMAGES, width, size, size, generator=draw, dtype=torch.float64)
        for width, size in zip(WIDTHS.maps, (8, 4, 2), strict=True)
    ]
    return TeacherOutput(
        dense[images], dense[images].flatten(2).mean(2), pooled[images], tuple(one[images] for one in maps)
    )


def gradients(kind: str, rank: int, world: int) -> dict[str, torch.Tensor]:
    """Return the gradient of every weight after the averaging of DDP, by name."""
    method = TypeAdapter(MethodConfig).validate_python({"kind": kind})
    objective = objective_of(method)
    student = small_student(method.heads).double().train()
    projector = build_projector(method, student, WIDTHS, 0)
    trained = with_projector(student, student, projector and projector.double(), method)
    module = DistributedDataParallel(trained) if world > 1 else trained
    images = slice(rank * IMAGES // world, (rank + 1) * IMAGES // world)
    views = torch.rand(IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)[images]
    labels = torch.rand(IMAGES, CLASSES, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    labels = (labels / labels.sum(1, keepdim=True))[images]
    output, targets = module(views, None), objective.targets(method, response(images), 0.0)
    if world > 1 and method.compares_images:
        output, targets, labels = share_images(output, targets, labels, rank, world)
    objective.losses(method, output, targets, labels)["total"].backward()
    return {name: weight.grad.contiguous() for name, weight in trained.named_parameters()}


if __name__ == "__main__":
    folder, *kinds = sys.argv[1:]
    torch.set_num_threads(1)
    with joined_ranks() as ranks:
        for kind in kinds:
            save_file(gradients(kind, ranks.rank, ranks.world), Path(folder) / f"{kind}-{ranks.rank}.safetensors")
