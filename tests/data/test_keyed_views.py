"""Views, erasing, mixing and labels are those of the release before, bit for bit: hashes of 4,096 views a recipe.

`python tests/data/test_keyed_views.py` writes the hashes, which only a change of the recipe's meaning may do.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cskd_bench.config import AugmentConfig, DataConfig
from cskd_bench.data.engines import finish_batch, worker_views
from cskd_bench.data.loader import train_loader
from cskd_bench.data.sources import ArraySource
from cskd_bench.data.view_plan import ViewPlan

HASHES = Path(__file__).resolve().parents[1] / "fixtures" / "keyed_views.json"
SIDE, CLASSES, BATCH, STEPS, SEED = 32, 10, 256, 16, 7
RECIPES = {
    "the paper's": {},
    "few images": {"crop_scale": (0.25, 1.0), "auto_augment": "", "repeats": 1, "mixup": 0.0, "cutmix": 0.0},
    "three and mixup": {
        **{"policy": "three", "interpolation": "bilinear", "erasing": 0.8, "repeats": 2},
        **{"cutmix": 0.0, "mix_probability": 0.7, "mix_group": 8},
    },
}
ENGINES = ("pil", "tensor")


def recipe(name, engine):
    return AugmentConfig(engine=engine, **RECIPES[name])


def picture_source():
    draw = np.random.Generator(np.random.Philox(3))
    coarse = draw.integers(0, 256, (640, 6, 5, 3), dtype=np.uint8)
    return ArraySource(coarse.repeat(8, 1).repeat(8, 2), np.arange(640) % CLASSES, [str(c) for c in range(CLASSES)])


def hash_views(augment, world=1, accumulate=1):
    """Return a hash of the finished views and one of the soft labels, in the order of the global batches."""
    source = picture_source()
    plan = ViewPlan(len(source), BATCH, augment.repeats, epochs=8, seed=SEED)
    loaders = [
        iter(
            train_loader(
                worker_views(source, augment, SIDE, SEED, DataConfig(num_classes=CLASSES)),
                plan,
                first_step=0,
                rank=rank,
                world=world,
                accumulate=accumulate,
                workers=0,
            )
        )
        for rank in range(world)
    ]
    views, labels, noted = hashlib.sha256(), hashlib.sha256(), 0
    for _ in range(STEPS):
        for batches in loaders:
            for _ in range(accumulate):
                made, soft = finish_batch(next(batches), augment, CLASSES, torch.device("cpu"))
                views.update(made.numpy().tobytes())
                labels.update(soft.numpy().tobytes())
                noted += len(made)
    assert noted == 4096
    return {"views": views.hexdigest(), "labels": labels.hexdigest()}


def refuse_other_kernels(engine):
    """Skip where torch's own kernels, which warp and resize under the tensor engine, may round otherwise."""
    made_with = json.loads(HASHES.read_text())["kernels"]
    if engine == "tensor" and torch.backends.cpu.get_cpu_capability() != made_with:
        pytest.skip(f"the hashes were made with {made_with}")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", RECIPES)
def test_views_are_those_of_the_release_before(name, engine):
    refuse_other_kernels(engine)
    assert hash_views(recipe(name, engine)) == json.loads(HASHES.read_text())[f"{name}, {engine}"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (4, 2)])
def test_ranks_and_micro_batches_make_the_same_views(world, accumulate, engine):
    name = "the paper's"
    assert hash_views(recipe(name, engine), world, accumulate) == hash_views(recipe(name, engine))


if __name__ == "__main__":
    found = {f"{name}, {engine}": hash_views(recipe(name, engine)) for name in RECIPES for engine in ENGINES}
    found["kernels"] = torch.backends.cpu.get_cpu_capability()
    HASHES.write_text(json.dumps(found, indent=1) + "\n")
