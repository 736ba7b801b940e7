"""timm's pretrained weights, by the name of a model or of a Hugging Face repository; they are downloaded once."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from timm.models import get_pretrained_cfg, load_model_config_from_hf
from torch import Tensor
from torch.hub import get_dir

from cskd_bench.errors import UserError
from cskd_bench.models import architectures
from cskd_bench.models.external import Description, check_size, describe
from cskd_bench.models.loaded import Loaded
from cskd_bench.models.state_names import FileHead
from cskd_bench.models.timm_names import check_name
from cskd_bench.record import sha256_file

TIMM: Final = "timm:"
HUB: Final = "hf-hub:"


def is_hub_name(checkpoint: str) -> bool:
    """Whether a checkpoint is named (`timm:NAME`, `hf-hub:USER/REPO`), not given as a file or folder."""
    return checkpoint.startswith((TIMM, HUB))


def load_pretrained(checkpoint: str, image_size: int | None) -> Loaded:
    """Load `timm:NAME` or `hf-hub:USER/REPO` as timm does, from its cache or by a download.

    UserError for a model without pretrained weights, weights that are not finite, and a download that fails.
    """
    architectures.register()
    name = checkpoint.removeprefix(TIMM)
    described, source = _look_up(checkpoint, name)
    options = described.arguments | ({} if image_size is None else {"img_size": image_size})
    try:
        try:
            built = timm.create_model(name, pretrained=True, **options)
        except TypeError:  # CNNs take any size and know no img_size
            built = timm.create_model(name, pretrained=True, **described.arguments)
    except Exception as error:  # each of timm, Hugging Face and the network has errors of its own
        raise _no_weights(checkpoint, described.name, error) from error
    check_size(built, image_size, checkpoint)
    state = built.state_dict()
    if broken := [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise UserError(f"{checkpoint}: weights that are not finite (NaN or infinite): {', '.join(broken[:3])}")
    file = _downloaded_file(source)
    digest = sha256_file(file) if file else hash_state(state)
    head = FileHead(built.num_classes, "" if built.num_classes else "these weights come without a classifier")
    return describe(built, described, f"{name.removeprefix(HUB)}@{digest[:8]}", digest, "raw", head, image_size)


def hash_state(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors by name, where the file that they came from is not at hand."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _look_up(checkpoint: str, name: str) -> tuple[Description, dict[str, Any]]:
    """Return what is known of a model before its weights are there, and timm's configuration of it."""
    if checkpoint.startswith(HUB):
        try:
            settings, architecture, arguments = load_model_config_from_hf(name.removeprefix(HUB))
        except Exception as error:  # as above
            raise _no_weights(checkpoint, "TIMM_NAME", error) from error
        return Description(architecture, arguments or {}, settings), settings
    check_name(name, "--model")
    known = get_pretrained_cfg(name)
    if known is None or not known.has_weights:
        raise UserError(f"{checkpoint}: timm has no pretrained weights of it; give a file with --checkpoint")
    return Description(name.partition(".")[0]), known.to_dict()


def _no_weights(checkpoint: str, architecture: str, error: Exception) -> UserError:
    reason = str(error).strip().partition("\n")[0][:200]
    return UserError(
        f"{checkpoint}: its weights could not be had ({type(error).__name__}: {reason}). "
        "Where they are in the cache set HF_HUB_OFFLINE=1; behind a proxy set HTTPS_PROXY; "
        f"or download the file by hand and give --checkpoint FILE --model {architecture}"
    )


def _downloaded_file(settings: Mapping[str, Any]) -> Path | None:
    """Return the file that timm took the weights from, None where it is not in the caches that are known here."""
    if repository := settings.get("hf_hub_id"):
        repository, _, revision = str(repository).partition("@")
        named = settings.get("hf_hub_filename") or "pytorch_model.bin"
        stem = named.rpartition(".")[0]
        for file in (f"{stem.replace('pytorch_model', 'model')}.safetensors", f"{stem}.safetensors", named):
            found = try_to_load_from_cache(repository, file, revision=revision or None)
            if isinstance(found, str):
                return Path(found)
    if url := settings.get("url"):
        file = Path(get_dir()) / "checkpoints" / str(url).rpartition("/")[2]
        return file if file.is_file() else None
    return None
