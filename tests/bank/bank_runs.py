"""A small pretraining run that needs no files but its teacher's weights: digits, a test CNN, a tiny ViT."""

from pathlib import Path

import timm
import torch
from helpers.tiny import teacher, tiny_run
from safetensors.torch import save_file

from cskd_bench.config import CSKD, MethodConfig, PretrainConfig
from cskd_bench.schema import validate


def save_teacher(folder: Path, num_classes: int = 10) -> Path:
    """Write a teacher with random, spread-out weights."""
    torch.manual_seed(7)
    model = timm.create_model("test_resnet", num_classes=num_classes)
    state = model.state_dict()
    state["fc.weight"] = 3 * torch.randn_like(state["fc.weight"])
    path = folder / "teacher.safetensors"
    save_file(state, path)
    return path


def small_run(weights: Path, name: str = "run", method: MethodConfig | None = None, epochs: int = 2) -> PretrainConfig:
    """Describe 14 steps an epoch of mixed 32 px views, three of each image."""
    changes = {"name": name, "data.dataset": "sklearn/digits", "data.num_classes": 10}
    changes |= {"student.depth": 1, "student.num_heads": 3, "recipe.epochs": epochs, "recipe.batch_size": 64}
    changes |= {"recipe.augment.mix_group": 16, "recipe.augment.repeats": 3, "recipe.augment.auto_augment": ""}
    changes |= {"recipe.optim.warmup_epochs": 0.5, "run.eval_every": 2, "run.log_every": 5}
    changes |= teacher(weights, "test_resnet", 32, 10) | {"teacher.output_stride": 8}
    changes |= {"method": (method or CSKD()).model_dump()}
    return validate(PretrainConfig, tiny_run(changes), name)
