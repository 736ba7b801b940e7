"""The one tiny pretraining run: three colours, a two-block ViT of 32 px, and a CNN teacher with random weights."""

import copy
from pathlib import Path

import numpy as np
import tomlkit
from PIL import Image

STUDENT = {"image_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2}
RUN = {
    "method": {"kind": "cskd"},
    "data": {"num_classes": 3},
    "student": STUDENT,
    "recipe": {
        "epochs": 4,
        "batch_size": 16,
        "precision": "fp32",
        "ema_decay": 0.9,
        "optim": {"warmup_epochs": 1.0},
        "augment": {"mix_group": 4, "repeats": 2},
    },
    "run": {"workers": 0},
}
PLAIN_VIEWS = {f"recipe.augment.{key}": value for key, value in {"repeats": 1, "mixup": 0.0, "cutmix": 0.0}.items()}


def tiny_run(changes: dict[str, object]) -> dict[str, dict[str, object]]:
    """Return the run's settings with those of `changes`, whose keys are dotted as with --set."""
    settings = copy.deepcopy(RUN)
    for key, value in changes.items():
        *sections, name = key.split(".")
        place = settings
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = str(value) if isinstance(value, Path) else value
    return settings


def write_run(path: Path, changes: dict[str, object]) -> Path:
    """Write the run's settings with `changes` as a TOML file and return its path."""
    path.write_text(tomlkit.dumps(tiny_run(changes)))
    return path


def teacher(weights: Path, name: str = "test_byobnet", image_size: int = 64, num_classes: int = 3) -> dict[str, object]:
    """Return the settings of a teacher."""
    found = {"name": name, "weights": str(weights), "image_size": image_size, "num_classes": num_classes}
    return {f"teacher.{key}": value for key, value in found.items()}


def save_model(path: Path, name: str = "test_byobnet", seed: int = 0, **options: object) -> Path:
    """Write a model with random weights and return its path."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    save_file(timm.create_model(name, **options).state_dict(), path)
    return path


def write_colour_squares(root: Path) -> Path:
    """Write an image folder of three classes, one colour each, 24 px, in three splits, and return it."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 8), ("test", 8)):
        for label, name in enumerate(("red", "green", "blue")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 120, (24, 24, 3), dtype=np.uint8)
                pixels[:, :, label] += 120
                Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return root
