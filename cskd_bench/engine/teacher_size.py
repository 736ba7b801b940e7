"""How large a teacher is and what it answers, without its weights."""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cskd_bench.config import MethodSettings, TeacherConfig
from cskd_bench.errors import UserError
from cskd_bench.models.intermediates import take_maps
from cskd_bench.models.teacher_features import stage_widths
from cskd_bench.models.teacher_heads import TokenHead, has_patch_tokens
from cskd_bench.models.teacher_models import check_patches, create_model
from cskd_bench.outputs import TeacherOutput, TeacherWidths

FLOAT: Final = 4  # bytes of a weight, a gradient, a moment: training keeps them in fp32


class TeacherSize:
    """A teacher without weights: its size, the FLOPs of one response, its largest layer in a run's precision.

    `grid` are its places, `widths` the channels of the features that a method takes. UserError for a model that gives
    no dense response, and for one without the features.
    """

    def __init__(self, settings: TeacherConfig, precision: str, method: MethodSettings) -> None:
        with torch.device("meta"):
            model: Any = create_model(settings, pretrained=False).eval()
        check_patches(model, repr(settings.name), settings.image_size)
        width = FLOAT if precision == "fp32" else 2
        self.largest_layer_bytes = 0

        def measure(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            tensors = [tensor for tensor in (*inputs, output) if isinstance(tensor, Tensor)]
            self.largest_layer_bytes = max(self.largest_layer_bytes, sum(t.numel() for t in tensors) * width)

        for layer in model.modules():
            if not list(layer.children()):
                layer.register_forward_hook(measure)
        views = torch.zeros(1, 3, settings.image_size, settings.image_size, device="meta")
        try:
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                self.grid = _respond(model, views)
        except (AssertionError, RuntimeError, ValueError) as error:
            raise UserError(f"teacher.name: {settings.name!r} gives no dense response ({error})") from error
        self.flops = counter.get_total_flops()
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        stages = method.stages()
        pooled = int(model.num_features) if "pooled" in method.teacher_features else 0
        self.widths = TeacherWidths(pooled, stage_widths(model, stages))
        self._maps = _stage_grids(model, views, stages)

    def respond(self, views: int, classes: int, grid: tuple[int, int] | None) -> TeacherOutput:
        """Return a response of random numbers, with the features that the method takes."""
        dense = torch.rand(views, classes, *(grid or (1, 1)))
        pooled = torch.rand(views, self.widths.pooled) if self.widths.pooled else None
        maps = tuple(
            torch.rand(views, width, *places) for width, places in zip(self.widths.maps, self._maps, strict=True)
        )
        return TeacherOutput(dense, dense.flatten(2).mean(2), pooled, maps)


def _respond(model: Any, views: Tensor) -> tuple[int, int]:
    """Compute what a teacher answers to views without content; returns its grid."""
    features = model.forward_features(views)
    if has_patch_tokens(model):
        head = TokenHead(model, views.shape[-1])
        head.dense(features, None)
        head.own_logits(features, None)
        return head.grid(views)
    _, channels, height, width = features.shape
    model.forward_head(features.permute(0, 2, 3, 1).reshape(-1, channels, 1, 1))
    return int(height), int(width)


def _stage_grids(model: Any, views: Tensor, stages: Sequence[int]) -> list[tuple[int, int]]:
    if not stages:
        return []
    with torch.no_grad():
        _, maps = take_maps(model.forward_intermediates, views, stages)
    return [(int(taken.shape[-2]), int(taken.shape[-1])) for taken in maps]
