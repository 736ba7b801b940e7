"""Both engines give views that depend on their keys alone, whatever the workers, ranks and batches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.views_before import erase, mix

from cskd_bench.config import CSKD, AugmentConfig, DataConfig, PretrainConfig
from cskd_bench.data.engines import augment_batch, finish_batch, worker_views
from cskd_bench.data.loader import train_loader
from cskd_bench.data.mixing import to_float
from cskd_bench.data.open import open_source
from cskd_bench.data.tensor.operations import apply_operations
from cskd_bench.data.tensor.parameters import Operations
from cskd_bench.data.view_plan import ViewPlan
from cskd_bench.errors import UserError

CPU = torch.device("cpu")
TENSOR = AugmentConfig(engine="tensor", mix_group=4, repeats=2)
PLAN = ViewPlan(images=48, batch_size=16, repeats=2, epochs=1, seed=5)


@pytest.fixture(scope="module")
def source(colour_squares):
    return open_source(DataConfig(root=str(colour_squares), num_classes=3), "train")


def made(source, augment, *, rank=0, world=1, workers=0):
    """Return this rank's finished views and labels of every step."""
    dataset = worker_views(source, augment, 20, 5, DataConfig())
    loader = train_loader(dataset, PLAN, first_step=0, rank=rank, world=world, accumulate=1, workers=workers)
    return [finish_batch(batch, augment, 3, CPU) for batch in loader]


@pytest.mark.parametrize("engine", ["pil", "tensor"])
def test_workers_and_ranks_change_nothing(source, engine):
    augment = TENSOR.model_copy(update={"engine": engine})
    whole = made(source, augment)
    by_rank = [made(source, augment, rank=rank, world=2) for rank in range(2)]
    assert len(whole) > 1
    for step, (views, labels) in enumerate(made(source, augment, workers=2)):
        assert torch.equal(views, whole[step][0]) and torch.equal(labels, whole[step][1])
        assert torch.equal(torch.cat([rank[step][0] for rank in by_rank]), whole[step][0])


def test_a_batch_is_what_its_views_are_one_by_one(source):
    """The reference makes each view alone, layer by layer, and mixes at the end."""
    dataset = worker_views(source, TENSOR, 20, 5, DataConfig())
    keys = PLAN.keys(1)
    views = torch.empty(16, 3, 20, 20)
    for row, key in enumerate(keys):
        alone = dataset.__getitems__([key])
        for layer in range(2):
            now = slice(layer, layer + 1)
            one = Operations(alone.operations.kinds[:, now], alone.operations.values[:, now])
            alone = replace(alone, pixels=apply_operations(alone.pixels, one, "bicubic"))
        views[row] = erase(to_float(alone.pixels), [key], TENSOR, 5)[0]
    batch = dataset.__getitems__(keys)
    expected, soft = mix(views, batch.labels, keys, TENSOR, 3, 5)
    found, labels = finish_batch(batch, TENSOR, 3, CPU)
    assert torch.equal(found, expected) and torch.equal(labels, soft)


def test_the_engines_agree_where_only_their_random_draws_differ(source):
    """Without random choices both are the same picture, up to the rounding of two antialiased resizes."""
    still = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "hflip": 0.0, "auto_augment": "", "color_jitter": 0.0}
    pictures = []
    for engine in ("pil", "tensor"):
        augment = AugmentConfig(**still, engine=engine)
        batch = worker_views(source, augment, 20, 5, DataConfig()).__getitems__(PLAN.keys(0))
        pictures.append(augment_batch(batch, augment, CPU).numpy().astype(int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 2


def test_records_made_before_there_was_a_choice_keep_their_fingerprints():
    run = PretrainConfig(name="run", method=CSKD())
    changed = run.model_copy(update={"recipe": run.recipe.model_copy(update={"augment": TENSOR})})
    assert "engine" not in run.identity()["recipe"]["augment"]
    assert changed.identity()["recipe"]["augment"]["engine"] == "tensor"
    assert changed.recipe_fingerprint() != run.recipe_fingerprint()
    assert PretrainConfig.model_validate(changed.model_dump()) == changed


def test_a_policy_that_only_pil_knows_is_refused_before_any_view_is_made(source):
    with pytest.raises(UserError, match=r"use recipe\.augment\.engine"):
        worker_views(source, TENSOR.model_copy(update={"auto_augment": "augmix-m5"}), 20, 5, DataConfig())
