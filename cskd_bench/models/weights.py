"""Reading weights from disk: safetensors, or PyTorch files that cannot execute code."""

from argparse import Namespace
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from cskd_bench.errors import UserError


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from .safetensors or a PyTorch file; UserError for anything else."""
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    try:
        if path.suffix == ".safetensors":
            return _stripped(load_file(path))
        with torch.serialization.safe_globals([Namespace]):  # DeiT's trainer keeps its arguments beside the weights
            content = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise UserError(f"{path}: not a valid safetensors file ({error})") from error
    except Exception as error:  # unpickling a hostile or broken file fails in many ways; none runs code
        raise UserError(f"{path}: refused: it does not load as plain tensors (weights_only)") from error
    return _find_state(content, path)


def _find_state(content: Any, path: Path) -> dict[str, Tensor]:
    for key in ("model", "state_dict", "model_ema"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{path}: holds no state dict (a table of named tensors)")
    return _stripped(content)


def _stripped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop the prefixes of wrappers: DataParallel's `module.`, our student's `model.`."""
    return {name.removeprefix("module.").removeprefix("model."): tensor for name, tensor in state.items()}


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's weights on the CPU under timm's own names, ready for safetensors."""
    return {name.removeprefix("model."): t.detach().cpu().contiguous() for name, t in module.state_dict().items()}


def load_state(model: nn.Module, path: Path) -> None:
    """Load weights strictly; position embeddings are resized to the model's grid where they differ.

    Raises UserError that says which names or shapes differ.
    """
    state = read_state(path)
    full = {name.removeprefix("model."): name for name in model.state_dict()}
    own = _stripped(model.state_dict())
    for name in own.keys() & state.keys():
        if name.endswith("pos_embed") and own[name].shape != state[name].shape:
            state[name] = _resized(state[name], own[name], model)
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    if missing or unexpected or shapes:
        parts = [
            f"{what} {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
            for what, names in (
                ("lacks", missing),
                ("has unknown", unexpected),
                ("differs in shape at", sorted(shapes)),
            )
            if names
        ]
        raise UserError(f"{path}: weights of another model: {'; '.join(parts)}")
    model.load_state_dict({full[name]: tensor.to(own[name].dtype) for name, tensor in state.items()})


def _resized(embedding: Tensor, wanted: Tensor, model: Any) -> Tensor:
    """Resample a (1, prefix + H*W, D) position embedding to the length of `wanted` (bicubic, as timm)."""
    vit = getattr(model, "model", model)
    prefix = 0 if getattr(vit, "no_embed_class", False) else getattr(vit, "num_prefix_tokens", None)
    if (
        prefix is None  # no plain ViT
        or embedding.ndim != 3
        or embedding.shape[-1] != wanted.shape[-1]
        or isqrt(embedding.shape[1] - prefix) ** 2 + prefix != embedding.shape[1]
    ):
        return embedding
    resized: Tensor = resample_abs_pos_embed(embedding, new_size=vit.patch_embed.grid_size, num_prefix_tokens=prefix)
    return resized
