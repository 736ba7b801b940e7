"""Which timm architecture a student is, and whether it gives the student's logits."""

from collections.abc import Callable
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cskd_bench.errors import UserError
from cskd_bench.models import architectures
from cskd_bench.models.checkpoints import Loaded
from cskd_bench.models.stem import ConvStem, MeanTokenViT
from cskd_bench.models.weights import plain_state

_CSKD_NAMES = {"deit_tiny": "cskd_tiny", "deit_small": "cskd_small", "deit_base": "cskd_base"}


def timm_architecture(loaded: Loaded) -> tuple[str, dict[str, Any]]:
    """Return the timm name and arguments whose forward is the student's inference rule.

    Raises UserError for a model with a distillation token that is neither timm's nor ours, and for embeddings that timm
    has no name for.
    """
    student, run = loaded.student, loaded.pretrain_config
    if isinstance(student.model, MeanTokenViT) or isinstance(getattr(student.model, "patch_embed", None), ConvStem):
        raise UserError(
            f'{loaded.model.name}: timm has no architecture with stem = "conv" or distillation_token = "mean"; '
            "export it with --to onnx, or hand on its run folder, which --checkpoint takes"
        )
    name = (run.student.name if run else loaded.model.name).replace("_distilled_", "_")
    chosen = {"patch_size", "depth", "embed_dim", "num_heads"}
    arguments = run.student.model_dump(include=chosen, exclude_none=True) if run else {}
    if isinstance(student.model, VisionTransformer):
        arguments["img_size"] = loaded.image_size
    lends_register, has_token = hasattr(student, "head_dist"), hasattr(student.model, "dist_token")
    if isinstance(student.model, architectures.CSKDVisionTransformer) or not (lends_register or has_token):
        return name, arguments
    if has_token and student.heads == "class+dist":
        return name.replace("_patch", "_distilled_patch", 1), arguments
    if student.heads != "class+dist+patch":
        arguments["answers"] = student.heads
    if lends_register:
        return "cskd_register_vit", {"base": name, **arguments}
    family = name.split("_patch")[0]
    if family not in _CSKD_NAMES:
        raise UserError(f"{name}: no cskd_* architecture for it; deit_tiny, deit_small and deit_base students have one")
    return f"{_CSKD_NAMES[family]}_patch16_224", arguments  # another size is an argument


def build_exported(loaded: Loaded, architecture: str, arguments: dict[str, Any]) -> nn.Module:
    """Build the timm model with the student's weights; UserError unless it gives the student's logits."""
    architectures.register()
    exported = timm.create_model(architecture, num_classes=loaded.num_classes, **arguments).eval()
    try:
        exported.load_state_dict(plain_state(loaded.student))
    except RuntimeError as error:
        raise UserError(
            f"{architecture}: does not take this student's weights: {str(error).splitlines()[-1]}"
        ) from error
    student = loaded.student
    verify(loaded, lambda views: exported((views - student.mean) / student.std))
    return exported  # type: ignore[no-any-return]


def verify(loaded: Loaded, exported: Callable[[Tensor], Tensor]) -> None:
    """UserError where exported logits of two views differ from the native ones by more than 1e-5 of the largest."""
    student = loaded.student.cpu().eval()
    views = torch.rand(2, 3, loaded.image_size, loaded.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        native = student.predict(views)
        difference = (native - exported(views)).abs().max().item()
    if not difference <= 1e-5 * max(1.0, native.abs().max().item()):  # NaN is refused, too
        raise UserError(
            f"the exported model's logits differ from the native ones by {difference:.2g}; nothing was written"
        )
