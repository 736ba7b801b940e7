"""MMEngine's Runner on the device that this process was given, in arithmetic that detection's operators have."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmcv.ops import multi_scale_deform_attn
from mmdet.models.losses import FocalLoss
from mmdet.models.roi_heads.roi_extractors.base_roi_extractor import BaseRoIExtractor
from mmengine.device import utils
from mmengine.runner import LogProcessor
from torch import Tensor, nn

from cskd_bench.device import only, peak_memory


@contextmanager
def runner_on(device: torch.device) -> Iterator[None]:
    """Let the Runner work on a device, whatever MMEngine found when it was imported; that comes back at the end.

    MMEngine takes a device's kind, so the GPU is made the current one.
    """
    with only(device):
        before = utils.DEVICE, multi_scale_deform_attn.IS_CUDA_AVAILABLE
        utils.DEVICE, multi_scale_deform_attn.IS_CUDA_AVAILABLE = device.type, device.type == "cuda"
        try:
            yield
        finally:
            utils.DEVICE, multi_scale_deform_attn.IS_CUDA_AVAILABLE = before


class PeakLogs(LogProcessor):  # type: ignore[misc]
    """Logs a GPU's peak memory in MB without forgetting it, as MMEngine's own does: the record tells it too."""

    def _get_max_memory(self, runner: Any) -> int:
        return peak_memory(next(runner.model.parameters()).device) >> 20


def keep_fp32(detector: nn.Module) -> None:
    """Give RoIAlign and focal losses fp32 under autocast: mmcv has no kernels for bf16.

    MMDetection casts boxes to the type of the maps; in half precision a corner beyond 256 px would move.
    """
    for module in detector.modules():
        if isinstance(module, BaseRoIExtractor | FocalLoss):
            module.register_forward_pre_hook(_in_fp32, with_kwargs=True)


def _in_fp32(
    module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(map(_widened, given)), {name: _widened(value) for name, value in named.items()}


def _widened(value: Any) -> Any:
    """Return halves as fp32, also those in a list of maps, and all else as it is."""
    if isinstance(value, list | tuple):
        return type(value)(map(_widened, value))
    halves = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if halves else value
