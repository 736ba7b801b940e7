"""Reading weights from disk: safetensors, or PyTorch files that cannot execute code."""

import re
from argparse import Namespace
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any, Final, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from cskd_bench.errors import UserError
from cskd_bench.models.state_names import find_model
from cskd_bench.names import readable

Weights = Literal["raw", "ema", "initial"]  # initial: those that a run began with
PLAIN: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
KEYS: Final[dict[Weights, tuple[str, ...]]] = {
    "raw": ("model", "state_dict"),
    "ema": ("model_ema", "state_dict_ema"),
    "initial": (),
}


def read_state(path: Path, weights: Weights = "raw") -> dict[str, Tensor]:
    """Read a state dict from .safetensors or a PyTorch file, with its names as they are; UserError for anything else.

    "ema" takes the averaged weights that DeiT's and timm's trainers keep beside the others. Of DINO's files, which hold
    a student and a teacher, both are returned (`student.`, `teacher.`).
    """
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    if not path.stat().st_size:
        raise UserError(f"{path}: is empty; fetch or copy it again")
    try:
        if path.suffix == ".safetensors":
            return _find_state(_load_tensors(path), path, weights)
        with torch.serialization.safe_globals([Namespace]):  # DeiT's trainer keeps its arguments beside the weights
            content = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise UserError(f"{path}: not a valid safetensors file ({error})") from error
    except Exception as error:  # unpickling a hostile or broken file fails in many ways; none runs code
        raise UserError(_refusal(path, str(error))) from error
    return _find_state(content, path, weights)


def _refusal(path: Path, reason: str) -> str:
    """Say why a PyTorch file was not read: for the objects in it, or because it is none."""
    objects = re.search(r"GLOBAL ([\w.]+)", reason)
    if objects is None:
        return f"{path}: refused: not a PyTorch file of plain tensors (text, damaged, or of a format that can run code)"
    return (
        f"{path}: refused: it holds an object ({objects[1]}) next to plain tensors, and reading objects can run code; "
        'save its tensors alone where it was made, for example torch.save(checkpoint["state_dict"], FILE)'
    )


def _find_state(content: Any, path: Path, weights: Weights) -> dict[str, Tensor]:
    inner = [content[key] for key in KEYS[weights] if isinstance(content, dict) and isinstance(content.get(key), dict)]
    if weights == "ema" and not inner:
        raise UserError(f"{path}: holds no averaged weights ({' or '.join(KEYS['ema'])})")
    if weights == "raw" and not inner and isinstance(content, dict) and content.keys() & set(KEYS["ema"]):
        raise UserError(f"{path}: holds averaged weights alone; take them with --weights ema")
    content = inner[0] if inner else _join_pair(content)
    if not isinstance(content, dict) or not content or not all(isinstance(name, str) for name in content):
        raise UserError(f"{path}: holds no state dict (a table of named tensors)")
    state = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not state or (len(state) < len(content) and not inner):
        raise UserError(f"{path}: holds no state dict (a table of named tensors)")
    return state


def _join_pair(content: Any) -> Any:
    """Join a student's and a teacher's tables into one, as DINO keeps them; anything else stays as it is."""
    pair = [key for key in ("student", "teacher") if isinstance(content, dict) and isinstance(content.get(key), dict)]
    return {f"{key}.{name}": value for key in pair for name, value in content[key].items()} if pair else content


def _load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; the library opens paths in UTF-8 alone, so another one is read as bytes."""
    in_utf8 = readable(str(path)) == str(path)
    return load_file(path) if in_utf8 else load(path.read_bytes())


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's weights on the CPU under timm's own names, ready for safetensors."""
    return {name.removeprefix("model."): t.detach().cpu().contiguous() for name, t in module.state_dict().items()}


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as a safetensors file; OSError where that fails, for which the library has an error of its own."""
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def load_state(model: nn.Module, path: Path, weights: Weights = "raw") -> None:
    """Load weights strictly; position embeddings are resized to the model's grid where they differ.

    Raises UserError that says which names or shapes differ, or which weights are not finite.
    """
    fill(model, find_model(read_state(path, weights), own_tensors(model).keys()), path)


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's weights by timm's own names."""
    return {name.removeprefix("model."): tensor for name, tensor in model.state_dict().items()}


def fill(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Give a model the weights of a state dict with plain names, strictly; raises UserError as `load_state` does."""
    state = dict(state)
    full = {name.removeprefix("model."): name for name in model.state_dict()}
    own = own_tensors(model)
    for name in own.keys() & state.keys():
        if name.endswith("pos_embed") and own[name].shape != state[name].shape:
            state[name] = _resize_embedding(state[name], own[name], model)
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
    if odd := [name for name in sorted(own) if own[name].is_floating_point() and not _is_plain(state[name])]:
        raise UserError(f"{path}: weights that are not plain floating-point numbers (quantised?): {', '.join(odd[:3])}")
    broken = [name for name in sorted(own) if state[name].is_floating_point() and not state[name].isfinite().all()]
    if broken:
        raise UserError(f"{path}: weights that are not finite (NaN or infinite): {', '.join(broken[:3])}")
    model.load_state_dict({full[name]: tensor.to(own[name].dtype) for name, tensor in state.items()})


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor's numbers are the weights themselves, and all there."""
    return tensor.dtype in PLAIN and tensor.layout == torch.strided and not tensor.is_meta


def _resize_embedding(embedding: Tensor, wanted: Tensor, model: Any) -> Tensor:
    """Resample a (1, prefix + H*W, D) position embedding to the length of `wanted` (bicubic, as timm)."""
    vit = getattr(model, "model", model)
    prefix = 0 if getattr(vit, "no_embed_class", False) else getattr(vit, "num_prefix_tokens", None)
    if (
        prefix is None  # no plain ViT
        or embedding.ndim != 3
        or embedding.shape[-1] != wanted.shape[-1]
        or embedding.shape[1] <= prefix
        or not _is_plain(embedding)
        or isqrt(embedding.shape[1] - prefix) ** 2 + prefix != embedding.shape[1]
    ):
        return embedding
    resized: Tensor = resample_abs_pos_embed(embedding, new_size=vit.patch_embed.grid_size, num_prefix_tokens=prefix)
    return resized
