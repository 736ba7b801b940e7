"""A plain timm ViT as a detection backbone: patch tokens of any image as feature maps.

Shapes: B images, P prefix tokens (class, distillation, registers), H x W patch tokens, D channels.
With global attention everywhere, the last map on an image of the pretraining size is what
`forward_features` gives for the patch tokens: the final norm is part of it. Maps taken at earlier
depths are not normed here; the neck norms every map anyway.
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import DropPath, resample_abs_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cskd_bench.detection.students import open_student
from cskd_bench.errors import UserError
from cskd_bench.models.stem import MeanTokenViT, mean_token


class PlainViT(nn.Module):
    """A timm VisionTransformer without its heads.

    It is `vit`, a built model. Or it is that of `run`, which is what --checkpoint takes: a run's folder, an export's,
    `timm:NAME`. Or it is the timm model `timm` with `options` and a file of `weights`. Or it is untrained, of the shape
    that a finished detector's configuration holds as `student`. `ema` takes the averaged weights; `image_size` (pixels)
    resizes the position embeddings. UserError for what is not there, and for a model that is no plain ViT.

    `taps` maps are returned, from evenly spaced depths. `window_size` (in tokens) restricts all but `global_blocks`
    evenly spaced blocks to windows, as in ViTDet (arXiv 2203.16527); prefix tokens take part in every window and their
    updates are averaged; padding never takes part. `drop_path` rises linearly to its value at the last block. One
    that is `frozen` stays as it is, and drops no path.
    """

    def __init__(
        self,
        vit: nn.Module | None = None,
        *,
        run: str = "",
        ema: bool = False,
        timm: str = "",
        options: dict[str, Any] | None = None,
        weights: str = "",
        student: dict[str, Any] | None = None,
        image_size: int | None = None,
        taps: int = 1,
        window_size: int = 0,
        global_blocks: int = 4,
        drop_path: float = 0.0,
        checkpointing: bool = False,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        if vit is None:
            vit = open_student(
                run=run,
                ema=ema,
                timm=timm,
                options=options,
                weights=weights,
                student=student,
                image_size=image_size,
            )
        if not isinstance(vit, VisionTransformer):
            raise UserError(f"detection needs a plain ViT with patch tokens, not a {type(vit).__name__}")
        self.vit: Any = vit
        self.vit.reset_classifier(0)
        self.depth = len(vit.blocks)
        if taps > self.depth:
            raise UserError(f"{taps} feature maps need as many blocks; the student has {self.depth}")
        self.tap_blocks = evenly_spaced(taps, self.depth)
        self.window_size = window_size
        self.global_blocks = evenly_spaced(min(global_blocks, self.depth), self.depth)
        if window_size and not all(isinstance(block, Block) for block in vit.blocks):
            raise UserError(f"window attention needs timm's plain blocks, not {type(vit.blocks[0]).__name__}")
        self.checkpointing = checkpointing
        self.frozen = frozen
        if frozen:
            self.vit.requires_grad_(False)
        _set_drop_path(vit.blocks, drop_path)

    @property
    def channels(self) -> int:
        """D of every map."""
        return int(self.vit.embed_dim)

    @property
    def patch_size(self) -> int:
        """Pixels per token, along either side."""
        return int(self.vit.patch_embed.patch_size[0])

    def train(self, mode: bool = True) -> "PlainViT":
        """Set the mode, but keep a convolutional stem's batch norms as pretrained: a detector's batches are small."""
        super().train(mode)
        self.vit.patch_embed.eval()
        if self.frozen:
            self.vit.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map normalised images (B, 3, height, width) to `taps` maps (B, D, H, W), H = ceil(height / patch)."""
        tokens, grid = self._embed(images)
        maps = []
        for number, block in enumerate(self.vit.blocks):
            window = self.window_size if number not in self.global_blocks else 0
            if self.checkpointing and self.training and torch.is_grad_enabled():
                tokens = checkpoint(self._run_block, block, tokens, grid, window, use_reentrant=False)
            else:
                tokens = self._run_block(block, tokens, grid, window)
            if number in self.tap_blocks:
                tapped = self.vit.norm(tokens) if number == self.depth - 1 else tokens
                maps.append(self._as_map(tapped, grid))
        return tuple(maps)

    def _embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return tokens (B, P + H*W, D) with positions, and (H, W); images are zero-padded right and below."""
        patch = self.patch_size
        height, width = images.shape[-2:]
        images = F.pad(images, (0, -width % patch, 0, -height % patch))
        places = self.vit.patch_embed.proj(images)
        grid = (places.shape[-2], places.shape[-1])
        patches = self.vit.patch_embed.norm(places.flatten(2).transpose(1, 2))
        prefix = [
            token.expand(len(images), -1, -1)
            for token in (getattr(self.vit, name, None) for name in ("cls_token", "dist_token", "reg_token"))
            if token is not None
        ]
        if isinstance(self.vit, MeanTokenViT):
            prefix.append(mean_token(patches))
        positions = self.positions(grid)
        if positions is None:
            tokens = torch.cat([*prefix, patches], 1)
        elif self.vit.no_embed_class:
            tokens = torch.cat([*prefix, patches + positions], 1)
        else:
            tokens = torch.cat([*prefix, patches], 1) + positions
        return self.vit.norm_pre(self.vit.pos_drop(tokens)), grid

    def positions(self, grid: tuple[int, int]) -> Tensor | None:
        """Return the position embeddings for a grid: bicubic resampling of the pretrained ones (as timm)."""
        if self.vit.pos_embed is None:
            return None
        resampled: Tensor = resample_abs_pos_embed(
            self.vit.pos_embed,
            new_size=list(grid),
            old_size=list(self.vit.patch_embed.grid_size),
            num_prefix_tokens=0 if self.vit.no_embed_class else self.vit.num_prefix_tokens,
        )
        return resampled

    def _run_block(self, block: Any, tokens: Tensor, grid: tuple[int, int], window: int) -> Tensor:
        if not window or max(grid) <= window:
            return block(tokens)  # type: ignore[no-any-return]
        attended = self._window_attention(block.attn, block.norm1(tokens), grid, window)
        tokens = tokens + block.drop_path1(block.ls1(attended))
        return tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))  # type: ignore[no-any-return]

    def _window_attention(self, attention: Any, tokens: Tensor, grid: tuple[int, int], window: int) -> Tensor:
        """Attend within windows; every window also holds the prefix tokens, whose results are averaged."""
        prefix_length = self.vit.num_prefix_tokens
        prefix, patches = tokens[:, :prefix_length], tokens[:, prefix_length:]
        images, channels = len(tokens), tokens.shape[-1]
        windows = partition(patches.reshape(images, *grid, channels), window)  # (B * n, window^2, D)
        count = len(windows) // images
        windows = torch.cat([prefix.repeat_interleave(count, 0), windows], 1)
        attended = attention(windows, attn_mask=_padding_mask(attention, windows, grid, window, prefix_length))
        prefix = attended[:, :prefix_length].reshape(images, count, prefix_length, channels).mean(1)
        patches = unpartition(attended[:, prefix_length:], window, grid)
        return torch.cat([prefix, patches.flatten(1, 2)], 1)

    def _as_map(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        patches = tokens[:, self.vit.num_prefix_tokens :].transpose(1, 2)
        return patches.reshape(*patches.shape[:2], *grid)


def evenly_spaced(count: int, depth: int) -> tuple[int, ...]:
    """Return `count` block numbers, the last of each equal share of `depth` blocks: 4 of 12 are 2, 5, 8, 11."""
    return tuple((number + 1) * depth // count - 1 for number in range(count))


def partition(places: Tensor, window: int) -> Tensor:
    """Cut (B, H, W, D) into windows (B * n, window^2, D), zero-padded right and below."""
    images, height, width, channels = places.shape
    padded = F.pad(places, (0, 0, 0, -width % window, 0, -height % window))
    cut = padded.reshape(images, -1, window, padded.shape[2] // window, window, channels)
    return cut.transpose(2, 3).reshape(-1, window * window, channels)


def unpartition(windows: Tensor, window: int, grid: Sequence[int]) -> Tensor:
    """Put windows (B * n, window^2, D) back together as (B, H, W, D) without the padding."""
    height, width = grid
    rows, columns = -(-height // window), -(-width // window)
    cut = windows.reshape(-1, rows, columns, window, window, windows.shape[-1])
    whole = cut.transpose(2, 3).reshape(-1, rows * window, columns * window, windows.shape[-1])
    return whole[:, :height, :width]


def _padding_mask(
    attention: Any, windows: Tensor, grid: tuple[int, int], window: int, prefix_length: int
) -> Tensor | None:
    """Return what keeps padding out of the keys, (B * n, 1, 1, P + window^2); None where nothing is padded."""
    if grid[0] % window == 0 and grid[1] % window == 0:
        return None
    real = partition(windows.new_ones(1, *grid, 1), window)[..., 0] > 0  # (n, window^2)
    real = F.pad(real, (prefix_length, 0), value=True)
    mask = real.repeat(len(windows) // len(real), 1)[:, None, None]
    if attention.fused_attn:
        return mask
    return torch.zeros_like(mask, dtype=windows.dtype).masked_fill(~mask, float("-inf"))


def _set_drop_path(blocks: Any, rate: float) -> None:
    for number, block in enumerate(blocks):
        share = rate * number / max(len(blocks) - 1, 1)
        for name in ("drop_path1", "drop_path2"):
            if hasattr(block, name):
                setattr(block, name, DropPath(share) if share > 0 else nn.Identity())
