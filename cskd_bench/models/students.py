"""Students: stock timm ViTs; the method decides about a distillation token and the inference rule."""

from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from cskd_bench.config import PretrainConfig, StudentConfig
from cskd_bench.data.randomness import Stream, integer_seed
from cskd_bench.errors import UserError
from cskd_bench.models.intermediates import take_maps
from cskd_bench.models.normalisation import normalisation
from cskd_bench.models.stem import ConvStem, feed_mean
from cskd_bench.models.student_checks import check_heads
from cskd_bench.models.timm_names import check_name
from cskd_bench.outputs import Features, Heads, StudentOutput


class Student(nn.Module):
    """A timm model under one method's heads; takes views (B, 3, S, S) in [0, 1] and normalises them.

    Inference averages the heads that `heads` names: the class head, the distillation head and
    the mean over patches of the distillation head's patch logits (arXiv 2307.08500).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, heads: Heads) -> None:
        super().__init__()
        check_heads(model, heads)
        self.model = model
        self.heads: Heads = heads
        if heads != "class" and not hasattr(model, "dist_token"):
            # A ViT without a distillation token lends its one register token to that purpose.
            self.head_dist = nn.Linear(model.embed_dim, model.num_classes)
        mean, std = normalisation(model)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def from_timm(
        cls,
        model: nn.Module | str,
        heads: Heads = "class+dist+patch",
        *,
        num_classes: int = 1000,
        image_size: int = 224,
    ) -> "Student":
        """Take a timm ViT as it is, or build one by name with random weights.

        A name means its distilled variant, else the model with a register token, wherever `heads` needs one;
        `num_classes` and `image_size` (pixels) belong to a name. UserError for a model that lacks what `heads` needs.
        """
        if isinstance(model, str):
            return build_student(StudentConfig(name=model, image_size=image_size), num_classes, heads)
        return cls(model, heads)

    @property
    def _stock_head(self) -> bool:
        return self.heads == "class" and not hasattr(self.model, "dist_token")

    @property
    def distillation_head(self) -> nn.Module:
        """The head of the distillation token; patch tokens share it."""
        head: nn.Module = self.model.head_dist if hasattr(self.model, "dist_token") else self.head_dist
        return head

    def forward(
        self, views: Tensor, grid: tuple[int, int] | None = None, *, pooled: bool = False, blocks: Sequence[int] = ()
    ) -> StudentOutput:
        """Return logits; with `grid` = (h, w) also patch logits pooled to the teacher's positions.

        The linear head commutes with average pooling, so tokens are pooled before the head. `pooled` and `blocks` (from
        0) ask for features from the same pass.
        """
        tokens, maps = self._tokens_and_maps(views, blocks) if blocks else (self.tokens(views), ())
        mean = self._mean_patch(tokens) if pooled else None
        if self._stock_head:
            return StudentOutput(self.model.forward_head(tokens), pooled=mean, blocks=maps)
        class_logits = self.model.head(self.model.head_drop(tokens[:, 0]))
        dist_logits = self.distillation_head(self.model.head_drop(tokens[:, 1]))
        patch_logits = None if grid is None else self.patch_logits(tokens, grid)
        return StudentOutput(class_logits, dist_logits, patch_logits, mean, maps)

    def _tokens_and_maps(self, views: Tensor, blocks: Sequence[int]) -> tuple[Tensor, tuple[Tensor, ...]]:
        tokens, maps = take_maps(self.model.forward_intermediates, (views - self.mean) / self.std, blocks)
        return tokens, tuple(maps)

    def tokens(self, views: Tensor) -> Tensor:
        """Return what the timm model's forward_features gives: (B, prefix + N, D) for a ViT."""
        return self.model.forward_features((views - self.mean) / self.std)  # type: ignore[no-any-return]

    def patch_logits(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return (B, K, h, w): patch tokens (B, N, D) average-pooled to the grid, then the head."""
        height, width = self.grid
        patches = tokens[:, self.model.num_prefix_tokens :].transpose(1, 2)
        pooled = pool_to_grid(patches.reshape(*patches.shape[:2], height, width), grid)
        logits: Tensor = self.distillation_head(pooled.flatten(2).transpose(1, 2)).transpose(1, 2)
        return logits.reshape(*logits.shape[:2], *grid)

    def patch_map(self, views: Tensor) -> Tensor:
        """Return (B, K, H, W): what every patch says by the head that patch tokens share.

        A student without a distillation token lends its class head, which was never trained on patches.
        """
        tokens = self.tokens(views)
        if not self._stock_head:
            return self.patch_logits(tokens, self.grid)
        logits: Tensor = self.model.head(tokens[:, self.model.num_prefix_tokens :]).transpose(1, 2)
        return logits.reshape(*logits.shape[:2], *self.grid)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patch tokens at the training resolution."""
        return self.model.patch_embed.grid_size  # type: ignore[no-any-return]

    def predict(self, views: Tensor) -> Tensor:
        """Return (B, K) logits by the method's inference rule."""
        tokens = self.tokens(views)
        if self._stock_head:
            return self.model.forward_head(tokens)  # type: ignore[no-any-return]
        parts = [self.model.head(tokens[:, 0])]
        if self.heads != "class":
            parts.append(self.distillation_head(tokens[:, 1]))
        if self.heads == "class+dist+patch":
            parts.append(self.distillation_head(self._mean_patch(tokens)))
        return torch.stack(parts).mean(0)

    def features(self, views: Tensor, kind: Features) -> Tensor:
        """Return what a probe reads of the tokens after the final norm, (B, D), or (B, 2D) for "cls+patch".

        "cls" is the class token, "cls+patch" the class token next to the mean over patch tokens (as DINOv2 concatenates
        them, arXiv 2304.07193): neither depends on the heads. "inference" is the mean of the tokens whose heads the
        method's inference rule averages. A model without a class token gives its own pooled features under each.
        """
        tokens = self.tokens(views)
        if kind == "inference":
            return self._inference_features(tokens)
        if getattr(self.model, "cls_token", None) is None or not hasattr(self.model, "num_prefix_tokens"):
            return self.model.forward_head(tokens, pre_logits=True)  # type: ignore[no-any-return]
        if kind == "cls":
            return tokens[:, 0]
        return torch.cat([tokens[:, 0], self._mean_patch(tokens)], 1)

    def _inference_features(self, tokens: Tensor) -> Tensor:
        if self._stock_head:
            return self.model.forward_head(tokens, pre_logits=True)  # type: ignore[no-any-return]
        parts = [tokens[:, 0], *([tokens[:, 1]] if self.heads != "class" else [])]
        if self.heads == "class+dist+patch":
            parts.append(self._mean_patch(tokens))
        return torch.stack(parts).mean(0)

    def _mean_patch(self, tokens: Tensor) -> Tensor:
        return tokens[:, self.model.num_prefix_tokens :].mean(1)

    def reset_classifier(self, num_classes: int) -> None:
        """Give every head new random weights for another number of classes."""
        self.model.reset_classifier(num_classes)
        if hasattr(self, "head_dist"):
            self.head_dist = nn.Linear(self.model.embed_dim, num_classes)

    @property
    def has_distillation_token(self) -> bool:
        """Whether a token of its sequence was trained as the distillation token; its head may have been dropped."""
        return hasattr(self.model, "dist_token") or hasattr(self, "head_dist")

    def take_heads(self, heads: Heads) -> None:
        """Train and answer by these heads from now on; UserError for a student without the token that they need."""
        if heads == "class":
            self.drop_distillation_head()
            return
        if not self.has_distillation_token:
            raise UserError(f"student: has no distillation token, which heads={heads!r} needs")
        self.distillation_head.requires_grad_(True)
        self.heads = heads

    def drop_distillation_head(self) -> None:
        """Answer by the class head alone from now on; the distillation token stays in the sequence."""
        if self.has_distillation_token:
            self.distillation_head.requires_grad_(False)  # ranks wait for the gradient of every weight that has one
            self.heads = "class"


def choose_attention(model: nn.Module, device: torch.device, precision: str) -> None:
    """Spell attention out in bf16 on a CPU, where torch's fused kernel nearly doubles the time of a training step.

    Elsewhere the fused kernel is the faster one; the two agree to the rounding of their precision.
    """
    if device.type == "cpu" and precision == "bf16":
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False  # type: ignore[assignment]


def pool_to_grid(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Average-pool (B, C, H, W) to (B, C, h, w); adaptive where the grids do not divide (still linear)."""
    (height, width), (rows, columns) = maps.shape[-2:], grid
    if (height, width) == grid:
        return maps
    if height % rows == 0 and width % columns == 0:
        return F.avg_pool2d(maps, (height // rows, width // columns))
    return F.adaptive_avg_pool2d(maps, grid)


def build_student(config: StudentConfig, num_classes: int, heads: Heads) -> Student:
    """Build a student with random weights; UserError for a model that timm or the method cannot use."""
    name = config.name.replace("_distilled_", "_")
    check_name(name, "student.name")
    options: dict[str, Any] = {"num_classes": num_classes, "drop_path_rate": config.drop_path}
    if not _is_vit(name):
        return Student(_other_than_vit(name, options, config, heads), heads)
    options |= _vit_options(config)
    if heads == "class":
        if config.distillation_token == "mean":
            raise UserError('student.distillation_token = "mean": this method has no distillation token')
        return Student(_create(name, options), heads)
    distilled = name.replace("_patch", "_distilled_patch", 1)
    if timm.is_model(distilled):
        model = _create(distilled, options)
        return Student(feed_mean(model) if config.distillation_token == "mean" else model, heads)
    if config.distillation_token == "mean":
        raise UserError(f'student.distillation_token = "mean" needs deit_tiny, deit_small or deit_base, not {name!r}')
    model = _create(name, options | {"reg_tokens": 1})
    if model.cls_token is None or model.global_pool != "token":
        raise UserError(f"student.name: {name!r} has no class token to answer with, which this method needs")
    return Student(model, heads)


def _other_than_vit(name: str, options: dict[str, Any], config: StudentConfig, heads: Heads) -> Any:
    """Build a CNN or a hierarchical transformer as timm has it, and try it at the student's resolution."""
    if heads != "class":
        raise UserError(f"student.name: {name!r} is not a ViT with patch tokens, which this method needs")
    if changed := list(config.changes()):
        raise UserError(f"student.{changed[0]}: only ViTs can be changed, {name!r} is as timm has it; leave it out")
    model = _create(name, options)
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, config.image_size, config.image_size))
    except (AssertionError, RuntimeError) as error:
        raise UserError(f"student.image_size: {name!r} does not run at {config.image_size} px ({error})") from error
    return model.train()


def _create(name: str, options: dict[str, Any]) -> Any:
    try:
        return timm.create_model(name, **options)
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"student: timm cannot build {name!r} with these sizes ({error})") from error


def _vit_options(config: StudentConfig) -> dict[str, Any]:
    chosen = {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "depth": config.depth,
        "embed_dim": config.embed_dim,
        "num_heads": config.num_heads,
        "embed_layer": ConvStem if config.stem == "conv" else None,
    }
    return {key: value for key, value in chosen.items() if value is not None}


def _is_vit(name: str) -> bool:
    """Tell from timm's registry, without building the model twice."""
    module = timm.model_entrypoint(name).__module__
    return module in (VisionTransformer.__module__, VisionTransformerDistilled.__module__)


def initial_student(config: PretrainConfig) -> Student:
    """Build a run's student with the weights that its seed gives it."""
    torch.manual_seed(integer_seed(config.seed, Stream.MODEL))
    return build_student(config.student, config.data.num_classes, config.method.heads)
