"""Makes MMDetection usable without a compiler: operators from torchvision, checkpoints that cannot run code.

mmcv-lite has the Python half of every operator and no `mmcv._ext`. `install()` puts a module in its place
that computes, on CPU and CUDA alike, what two-stage and one-stage detectors need; every other operator
imports and raises when it is called. Compiled operators are used where they are there.
"""

import importlib.util
import sys
import warnings
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import torch
import torchvision  # noqa: F401  registers torch.ops.torchvision
from torch import Tensor
from torch.nn import functional as F

from cskd_bench.errors import UserError

INSTALL: Final = 'pip install "cskd-bench[detection]" -c constraints.txt'
_PACKAGES: Final = ("mmdet", "mmengine", "mmcv", "pycocotools")


def detection_ready() -> str:
    """Say in one line whether detection can run here, on which operators, or what to install."""
    missing = _missing()
    if missing:
        return f"not ready: {', '.join(missing)} not installed; {INSTALL}"
    operators = "compiled operators" if _compiled() else "operators from torchvision"
    mmcv = "mmcv" if _version("mmcv") else "mmcv-lite"
    return f"ready: mmdet {_version('mmdet')}, {mmcv} {_version(mmcv)}, {operators}"


def install() -> None:
    """Prepare mmcv and mmengine; call before the first import of mmdet. Calling it again changes nothing.

    Raises UserError where a package is missing.
    """
    missing = _missing()
    if missing:
        raise UserError(f"detection needs {', '.join(missing)}, not installed here: {INSTALL}")
    warnings.filterwarnings("ignore", "pkg_resources is deprecated", UserWarning)  # mmengine imports it
    if "mmcv._ext" not in sys.modules and not _compiled():
        sys.modules["mmcv._ext"] = _torchvision_operators()
    _load_checkpoints_safely()


def _missing() -> list[str]:
    return [name for name in _PACKAGES if importlib.util.find_spec(name) is None]


def _compiled() -> bool:
    stand_in = isinstance(sys.modules.get("mmcv._ext"), _Operators)
    return not stand_in and importlib.util.find_spec("mmcv._ext") is not None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


# --------------------------------------------------------------------------- operators


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    """Return the indices of kept boxes (n, 4), x1 y1 x2 y2, best first; `offset` 1 counts both border pixels."""
    boxes = _wide(boxes)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    kept: Tensor = torch.ops.torchvision.nms(boxes, scores.to(boxes.dtype), iou_threshold)
    return kept


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill output (n, C, h, w) with average-pooled regions of input (B, C, H, W); rois (n, 5) as image x1 y1 x2 y2.

    Halves are pooled in fp32, and rois keep their fp32 beside maps of halves.
    """
    if pool_mode != 1:
        raise NotImplementedError("RoIAlign with pool_mode='max' needs mmcv's compiled operators")
    maps = _wide(input)
    pooled = torch.ops.torchvision.roi_align(
        maps, rois.to(maps.dtype), spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned
    )
    output.copy_(pooled)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill grad_input (B, C, H, W) with the gradient of `roi_align_forward`."""
    given, shape = _wide(grad_output), grad_input.shape
    gradient = torch.ops.torchvision._roi_align_backward(
        given, rois.to(given.dtype), spatial_scale, aligned_height, aligned_width, *shape, sampling_ratio, aligned
    )
    grad_input.copy_(gradient)


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, *, gamma: float, alpha: float
) -> None:
    """Fill output (n, K) with the focal loss (arXiv 1708.02002) of logits (n, K); target (n,), K is background."""
    output.copy_(_focal_loss(input, target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, *, gamma: float, alpha: float
) -> None:
    """Fill grad_input (n, K) with the gradient of the summed focal loss."""
    with torch.enable_grad():
        logits = _wide(input.detach()).requires_grad_()
        loss = _focal_loss(logits, target, weight, gamma, alpha).sum()
        grad_input.copy_(torch.autograd.grad(loss, logits)[0])


def _focal_loss(logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    logits, weight, classes = _wide(logits), _wide(weight), logits.size(1)
    positive = F.one_hot(target, classes + 1)[:, :classes].to(logits.dtype)
    probability = logits.sigmoid()
    of_truth = torch.where(positive > 0, probability, 1 - probability)
    balance = torch.where(positive > 0, alpha, 1 - alpha)
    loss = balance * (1 - of_truth) ** gamma * F.binary_cross_entropy_with_logits(logits, positive, reduction="none")
    if weight.numel():
        loss = loss * weight[target.clamp(max=len(weight) - 1)].unsqueeze(1)
    return loss


def _wide(values: Tensor) -> Tensor:
    """Return halves as fp32, and other numbers as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


class _Operators(ModuleType):
    """A module with our operators; any other name is a function that raises when it is called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_: Any, **__: Any) -> None:
            raise NotImplementedError(f"operator {name!r} needs mmcv's compiled operators, which are not installed")

        return missing


def _torchvision_operators() -> ModuleType:
    module = _Operators("mmcv._ext", "Replaces mmcv's compiled operators, on torchvision's.")
    module.__spec__ = ModuleSpec("mmcv._ext", loader=None)
    for operator in (
        nms,
        roi_align_forward,
        roi_align_backward,
        sigmoid_focal_loss_forward,
        sigmoid_focal_loss_backward,
    ):
        setattr(module, operator.__name__, operator)
    return module


# --------------------------------------------------------------------------- checkpoints


def read_mmengine_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint of mmengine's Runner with weights_only=True; UserError for one that needs more than tensors.

    The configuration inside is dropped: on resume mmengine would run it as Python.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} can not be found.")
    try:
        with torch.serialization.safe_globals(_safe_globals()):
            content = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # a hostile or damaged pickle fails in many ways; none of them has run code
        raise UserError(
            f"{path}: refused: damaged, or it holds more than tensors and training state "
            f"({str(error).splitlines()[0]}); remove the file to train again from an earlier checkpoint"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a checkpoint: it holds a {type(content).__name__}")
    if isinstance(content.get("meta"), dict):
        content["meta"].pop("cfg", None)
        content["meta"].pop("config", None)
    return content


def _safe_globals() -> list[Any]:
    """Name what mmengine's training state is made of: log histories and NumPy numbers."""
    from mmengine.logging import HistoryBuffer

    def statistics_method(owner: type, name: str) -> Any:
        """Stand in for getattr, which histories are pickled with; nothing but their own statistics can be had."""
        if owner is not HistoryBuffer or name not in ("min", "max", "current", "mean"):
            raise ValueError(f"getattr({owner!r}, {name!r}) is not allowed in a checkpoint")
        return getattr(owner, name)

    numpy_core = np._core.multiarray  # type: ignore[attr-defined]
    return [
        (statistics_method, "builtins.getattr"),
        HistoryBuffer,
        np.ndarray,
        np.dtype,
        numpy_core.scalar,
        numpy_core._reconstruct,
        type(np.dtype("float64")),
        type(np.dtype("int64")),
    ]


def _load_checkpoints_safely() -> None:
    from mmengine.runner.checkpoint import CheckpointLoader

    def load_from_local(filename: str, map_location: Any) -> dict[str, Any]:
        return read_mmengine_checkpoint(Path(filename).expanduser(), map_location)

    CheckpointLoader.register_scheme(prefixes="", loader=load_from_local, force=True)
