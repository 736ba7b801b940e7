"""Export a run: safetensors and a timm configuration that give the native logits through timm alone."""

import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import Tensor

from cskd_bench.config import StudentConfig
from cskd_bench.errors import UserError
from cskd_bench.files import write_file
from cskd_bench.models import architectures
from cskd_bench.models.checkpoints import Loaded, load_checkpoint
from cskd_bench.models.weights import plain_state, save_tensors

_CSKD_NAMES = {"deit_tiny": "cskd_tiny", "deit_small": "cskd_small", "deit_base": "cskd_base"}


def export_timm(checkpoint: Path, output: Path, weights: Literal["raw", "ema"] = "raw") -> str:
    """Write output/model.safetensors and output/config.json; returns how to load them.

    `timm.create_model("local-dir:OUTPUT")` then gives the native logits (checked here before anything is
    kept); a student with three-head inference needs `cskd_bench.models.architectures.register()` first.
    Raises UserError for a folder that is in use or a student that has no timm architecture of its own.
    """
    loaded = _load_run(checkpoint, weights)
    architecture, arguments = timm_architecture(loaded)
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UserError(f"{output}: is there already; name a new folder")
    architectures.register()
    exported = timm.create_model(architecture, num_classes=loaded.num_classes, **arguments).eval()
    exported.load_state_dict(plain_state(loaded.student))
    student, run = loaded.student, loaded.pretrain_config
    assert run is not None  # a run folder's
    _verify(loaded, lambda views: exported((views - student.mean) / student.std))
    write_file(output / "model.safetensors", lambda path: save_tensors(path, plain_state(loaded.student)))
    config = {
        "architecture": architecture,
        "num_classes": loaded.num_classes,
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [3, loaded.image_size, loaded.image_size],
            "mean": loaded.student.mean.flatten().tolist(),
            "std": loaded.student.std.flatten().tolist(),
            "interpolation": run.recipe.augment.interpolation,
            "crop_pct": run.data.eval_crop,
            "fixed_input_size": True,
            "num_classes": loaded.num_classes,
            "label_names": list(loaded.classes),
            "classifier": exported.pretrained_cfg["classifier"],
            "first_conv": exported.pretrained_cfg["first_conv"],
        },
    }
    write_file(output / "config.json", (json.dumps(config, indent=1) + "\n").encode())
    return f'timm.create_model("local-dir:{output}", pretrained=True)'


def export_onnx(checkpoint: Path, output: Path, weights: Literal["raw", "ema"] = "raw") -> str:
    """Write an ONNX file: views (B, 3, S, S) in [0, 1] to logits (B, K) by the student's inference rule.

    ONNX Runtime must give the native logits before the file is kept. UserError for a missing package or a
    file that is there already.
    """
    loaded = _load_run(checkpoint, weights)
    if output.exists():
        raise UserError(f"{output}: exists already; name a new file")
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("ONNX export needs the extra `onnx`: pip install 'cskd-bench[onnx]'") from error
    file: Any = io.BytesIO()  # the exporter takes any file object; its annotation says paths only
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            _Predict(loaded).eval(),
            (torch.zeros(1, 3, loaded.image_size, loaded.image_size),),
            file,
            input_names=["views"],
            output_names=["logits"],
            dynamo=False,
            dynamic_axes={"views": {0: "batch"}, "logits": {0: "batch"}},
        )
    session = onnxruntime.InferenceSession(file.getvalue())
    _verify(loaded, lambda views: torch.from_numpy(session.run(None, {"views": views.numpy()})[0]))
    write_file(output, file.getvalue())
    return f"{output}: input `views` in [0, 1], {loaded.image_size} px; output `logits`"


class _Predict(torch.nn.Module):
    def __init__(self, loaded: Loaded) -> None:
        super().__init__()
        self.student = loaded.student

    def forward(self, views: Tensor) -> Tensor:
        return self.student.predict(views)


def timm_architecture(loaded: Loaded) -> tuple[str, dict[str, Any]]:
    """Return the timm name and arguments whose forward is the student's inference rule."""
    student = loaded.pretrain_config.student if loaded.pretrain_config else StudentConfig(name=loaded.model.name)
    name = student.name.replace("_distilled_", "_")
    chosen = {"patch_size", "depth", "embed_dim", "num_heads"}
    arguments = student.model_dump(include=chosen, exclude_none=True)
    if hasattr(loaded.student.model, "patch_embed"):
        arguments["img_size"] = loaded.image_size
    if loaded.student.heads == "class":
        return name, arguments
    if not hasattr(loaded.student.model, "dist_token"):
        raise UserError(f"{name}: timm has no architecture with a distillation token for it; DeiT students have")
    if loaded.student.heads == "class+dist":
        return name.replace("_patch", "_distilled_patch", 1), arguments
    family = name.split("_patch")[0]
    if family not in _CSKD_NAMES:
        raise UserError(f"{name}: no cskd_* architecture for it; deit_tiny, deit_small and deit_base students have one")
    return f"{_CSKD_NAMES[family]}_patch16_224", arguments  # another size is an argument


def _verify(loaded: Loaded, exported: Callable[[Tensor], Tensor]) -> None:
    """UserError where exported logits of two views differ from the native ones by more than 1e-5."""
    student = loaded.student.cpu().eval()
    views = torch.rand(2, 3, loaded.image_size, loaded.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = (student.predict(views) - exported(views)).abs().max().item()
    if difference > 1e-5:
        raise UserError(
            f"the exported model's logits differ from the native ones by {difference:.2g}; nothing was written"
        )


def _load_run(folder: Path, weights: Literal["raw", "ema"]) -> Loaded:
    if not folder.is_dir():
        raise UserError(f"{folder}: export takes a finished run folder")
    return load_checkpoint(folder, weights=weights)
