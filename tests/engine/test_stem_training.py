"""Training with batch norms in the stem and a distillation token without a weight: kills and ranks."""

import time

import pytest
import torch
from helpers.processes import TWO_RANKS, end, finish, kill, start

pytestmark = pytest.mark.gate

MEAN = "student.distillation_token=mean"
BOTH = (MEAN, "student.stem=conv", "recipe.augment.policy=three")
SHORT = ("recipe.epochs=2", "student.drop_path=0.0", "recipe.optim.warmup_epochs=1.0")


def two_ranks(run, *overrides):
    end(start([*TWO_RANKS, *run.command(*overrides)]))
    return run.weights()


def differences(ours, theirs):
    """Return the largest differences by name; key biases, whose gradient is rounding alone, stand apart."""
    assert ours.keys() == theirs.keys()
    found = {name: (ours[name] - theirs[name]).abs() for name in ours}
    chunks = {name: torch.cat(gap.chunk(3)[::2]) if name.endswith("qkv.bias") else gap for name, gap in found.items()}
    return {name: gap.max().item() for name, gap in chunks.items()}


def test_killed_and_started_again_is_bit_equal_with_batch_norms(new_run_at, same_end):
    """Running statistics of raw and averaged weights are part of a checkpoint."""
    whole, killed = new_run_at("whole"), new_run_at("killed")
    whole.finish(*BOTH, *SHORT)
    process = killed.start(*BOTH, *SHORT)
    while not list(killed.checkpoints.glob("step-*")):
        assert process.poll() is None, finish(process, 30)
        time.sleep(0.02)
    kill(process)
    finish(process, 30)
    assert "resuming from step" in killed.finish(*BOTH, *SHORT)
    same_end(killed, whole)
    statistics = [name for name in whole.weights() if name.endswith("running_mean")]
    assert len(statistics) == 6  # three norms, raw and averaged


def test_two_ranks_end_with_the_weights_of_one_without_a_weight_for_the_token(new_run_at):
    one = new_run_at("one")
    one.finish(MEAN, *SHORT)
    gaps = differences(two_ranks(new_run_at("two"), MEAN, *SHORT), one.weights())
    assert max(gaps.values()) < 1e-6, gaps


def test_two_ranks_train_a_stem_on_statistics_of_their_own_images(new_run_at):
    """Not the weights of one process: each rank norms half the batch. Close to them, and counted alike."""
    one = new_run_at("one")
    one.finish(*BOTH, *SHORT)
    ours, theirs = two_ranks(new_run_at("two"), *BOTH, *SHORT), one.weights()
    counted = [name for name in ours if name.endswith("num_batches_tracked")]
    assert counted and all(torch.equal(ours[name], theirs[name]) for name in counted)
    gaps = differences(ours, theirs)
    assert 1e-6 < max(gap for name, gap in gaps.items() if "running" not in name) < 0.1, gaps
