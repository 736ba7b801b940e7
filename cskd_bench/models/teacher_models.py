"""Building the timm model of a teacher, and saying why one cannot teach."""

from typing import Any, Final

import timm
import torch
from timm.layers import PatchEmbed

from cskd_bench.config import TeacherConfig, why_no_grid
from cskd_bench.errors import UserError
from cskd_bench.models.teacher_heads import has_patch_tokens
from cskd_bench.models.timm_names import check_name

VIT_MODULES: Final = ("vision_transformer", "vision_transformer_hybrid", "deit", "eva", "beit")  # that take img_size


def fetch_model(name: str, image_size: int | None) -> Any:
    """Return timm's pretrained model of a name, a ViT for views of a size in pixels; UserError where that fails."""
    known = _known_weights(name)
    size = image_size or (known.input_size[-1] if known else 224)
    classes = (known.num_classes if known else 0) or 1000
    return create_model(TeacherConfig(name=name, num_classes=classes, image_size=size), pretrained=True)


def create_model(config: TeacherConfig, *, pretrained: bool) -> Any:
    """Build the timm model that a teacher's settings name, a ViT for their image size; UserError where that fails."""
    known = _known_weights(config.name)
    if pretrained and known and known.num_classes == 0:
        raise UserError(
            f"teacher.name: timm's weights of {config.name!r} have no classification head, so it cannot label views; "
            "take a model that was trained on classes, or name weights of your own with teacher.weights"
        )
    options = _options(config)
    try:
        return timm.create_model(config.name, pretrained=pretrained, num_classes=config.num_classes, **options)
    except (AssertionError, NotImplementedError, TypeError) as error:
        asked = "" if config.output_stride is None else f" with teacher.output_stride = {config.output_stride}"
        raise UserError(f"teacher: timm cannot build {config.name!r}{asked} ({error})") from error
    except Exception as error:
        raise UserError(
            f"teacher.name: timm could not fetch weights of {config.name!r} ({type(error).__name__}); "
            "name a file on disk with teacher.weights"
        ) from error


def _known_weights(name: str) -> Any:
    """Return what timm says of a model's pretrained weights, or None; UserError for a name that it does not have."""
    check_name(name, "teacher.name")
    return timm.get_pretrained_cfg(name)


def _options(config: TeacherConfig) -> dict[str, int]:
    """Return what timm builds a teacher with: a ViT's position embeddings fit one image size."""
    is_vit = timm.model_entrypoint(config.name).__module__.removeprefix("timm.models.") in VIT_MODULES
    if is_vit and config.output_stride is not None:
        raise UserError(
            f"teacher.output_stride: {config.name!r} is a ViT, whose positions are its patches; leave it out "
            f"(--set 'teacher={{name=\"{config.name}\", ...}}' replaces the file's whole table)"
        )
    if is_vit:
        return {"img_size": config.image_size}
    return {} if config.output_stride is None else {"output_stride": config.output_stride}


def own_size(model: Any) -> int:
    """Return the size in pixels that a ViT was built for, or that timm's weights of another model were trained at."""
    if has_patch_tokens(model) and model.patch_embed.img_size is not None:
        return int(model.patch_embed.img_size[-1])
    return int((getattr(model, "pretrained_cfg", None) or {}).get("input_size", (3, 224, 224))[-1])


def check_patches(model: Any, name: str, image_size: int) -> None:
    """UserError for a ViT whose patches do not fit an image of a size in pixels: a part would be left out."""
    if not has_patch_tokens(model) or not isinstance(model.patch_embed, PatchEmbed):
        return
    if problem := why_no_grid(image_size, model.patch_embed.patch_size[0]):
        raise UserError(f"teacher.{problem}, for {name}")


@torch.no_grad()
def check_model(model: Any, name: str, image_size: int) -> None:
    """UserError for a model without classes, that does not run at a size in pixels, or that has nothing to read.

    That is a feature map (B, C, h, w), or a plain ViT's patch tokens and logits (B, K).
    """
    if model.num_classes == 0:
        raise UserError(f"teacher.name: {name} has no classification head (num_classes is 0), so it cannot label views")
    check_patches(model, name, image_size)
    device = next(model.parameters()).device
    try:
        features = model.eval().forward_features(torch.zeros(1, 3, image_size, image_size, device=device))
    except (AssertionError, RuntimeError) as error:
        raise UserError(f"teacher.name: {name} does not run at {image_size} px ({error})") from error
    if has_patch_tokens(model):
        if model.forward_head(features).ndim != 2:
            raise UserError(f"teacher.name: {name} does not pool its tokens, so it has no logits of the whole image")
    elif getattr(features, "ndim", 0) != 4 or features.shape[1] != model.num_features:
        raise UserError(
            f"teacher.name: {name} has no feature map (B, C, h, w) and is no plain ViT; take a CNN, or a ViT of timm's "
            "vit_*, deit*, eva02_* or beit*"
        )
