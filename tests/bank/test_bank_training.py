"""Training from a bank is training with the teacher: the same losses, the same weights, bit for bit."""

import os
import signal
from pathlib import Path

import pytest
import torch
from bank_runs import save_teacher, small_run
from helpers.processes import TWO_RANKS, end, start
from safetensors.torch import load_file

from cskd_bench.bank.build import build_bank
from cskd_bench.bank.targets import bank_targets
from cskd_bench.cells.pretrain import _teacher_targets, pretrain
from cskd_bench.config import CSKD, DeiT, PlainKD, PretrainConfig, method_label
from cskd_bench.engine.distributed import Ranks
from cskd_bench.errors import Interrupted, UserError

pytestmark = pytest.mark.gate

ALONE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def bank(weights, tmp_path_factory):
    out = tmp_path_factory.mktemp("banks") / "bank"
    build_bank(small_run(weights), out)
    return out


def outcome(record, runs: Path, name: str):
    times = {"images_per_second", "seconds"}
    curve = [{key: value for key, value in entry.items() if key not in times} for entry in record.curve]
    return curve, load_file(runs / name / "model.safetensors"), load_file(runs / name / "ema.safetensors")


def assert_same(one, other):
    assert one[0] == other[0]
    for ours, theirs in zip(one[1:], other[1:], strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours.keys() | theirs.keys())


@pytest.mark.parametrize("method", [CSKD(), CSKD(decay="cosine"), DeiT()], ids=["linear", "cosine", "deit"])
def test_bank_equals_teacher(method, weights, bank, tmp_path):
    with_teacher = small_run(weights, "teacher", method)
    from_bank = small_run(weights, "bank", method)
    expected = pretrain(with_teacher, tmp_path, tmp_path / "a", ALONE)
    targets = bank_targets(bank, from_bank)
    assert targets.teacher == expected.method.teacher
    found = pretrain(from_bank, tmp_path, tmp_path / "b", ALONE, targets)
    assert_same(outcome(expected, tmp_path, "teacher"), outcome(found, tmp_path, "bank"))


def test_bank_equals_teacher_in_bf16(weights, bank, tmp_path):
    """The student computes in bf16; what it is taught does not depend on that."""

    def in_bf16(name: str) -> PretrainConfig:
        config = small_run(weights, name)
        return config.model_copy(update={"recipe": config.recipe.model_copy(update={"precision": "bf16"})})

    expected = pretrain(in_bf16("teacher"), tmp_path, tmp_path / "a", ALONE)
    found = pretrain(in_bf16("bank"), tmp_path, tmp_path / "b", ALONE, bank_targets(bank, in_bf16("bank")))
    assert_same(outcome(expected, tmp_path, "teacher"), outcome(found, tmp_path, "bank"))


class StopAt:
    """Asks this process to stop, as a cluster does, while a step is under way."""

    def __init__(self, targets, step: int) -> None:
        self.grid, self.widths, self._targets, self._left = targets.grid, targets.widths, targets, step
        self.teacher, self.note, self.variant = targets.teacher, targets.note, targets.variant
        self.labelling_seconds, self.labels_from = targets.labelling_seconds, targets.labels_from

    def look_up(self, keys, ratio):
        return self._targets.look_up(keys, ratio)

    def __call__(self, views, known, ratio):
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return self._targets(views, known, ratio)


def test_bank_equals_teacher_across_an_interruption(weights, bank, tmp_path):
    expected = pretrain(small_run(weights, "teacher"), tmp_path, tmp_path / "a", ALONE)
    config = small_run(weights, "bank")
    with pytest.raises(Interrupted):
        pretrain(config, tmp_path, tmp_path / "b", ALONE, StopAt(bank_targets(bank, config), 9))
    found = pretrain(config, tmp_path, tmp_path / "b", ALONE, bank_targets(bank, config))
    assert_same(outcome(expected, tmp_path, "teacher"), outcome(found, tmp_path, "bank"))


def test_a_run_goes_on_from_a_bank_where_its_teacher_left_it_on_the_tensor_engines_views(weights, tmp_path):
    whole, config = (on_tensors(small_run(weights, name)) for name in ("whole", "changed"))
    expected = pretrain(whole, tmp_path, tmp_path / "a", ALONE)
    teacher = _teacher_targets(config, [str(digit) for digit in range(10)], ALONE)
    with pytest.raises(Interrupted):
        pretrain(config, tmp_path, tmp_path / "b", ALONE, StopAt(teacher, 9))
    build_bank(config, tmp_path / "bank")
    found = pretrain(config, tmp_path, tmp_path / "b", ALONE, bank_targets(tmp_path / "bank", config))
    assert_same(outcome(expected, tmp_path, "whole"), outcome(found, tmp_path, "changed"))
    with pytest.raises(UserError, match=r"views\.augment\.engine: bank has 'tensor', run has the default"):
        bank_targets(tmp_path / "bank", small_run(weights))


def on_tensors(config):
    augment = config.recipe.augment.model_copy(update={"engine": "tensor", "auto_augment": "rand-m9-mstd0.5-inc1"})
    return config.model_copy(update={"recipe": config.recipe.model_copy(update={"augment": augment})})


def test_bank_equals_teacher_on_two_ranks(weights, bank, tmp_path):
    script = Path(__file__).with_name("bank_ranks.py")
    for targets in ("teacher", bank):
        end(start([*TWO_RANKS, script, weights, tmp_path, targets]))
    teacher, from_bank = (load_file(tmp_path / name / "model.safetensors") for name in ("teacher", "bank"))
    assert teacher.keys() == from_bank.keys() and len(teacher) > 10
    assert all(torch.equal(teacher[name], from_bank[name]) for name in teacher)


@pytest.fixture(scope="module")
def soft_bank(weights, tmp_path_factory):
    """A bank with soft targets, built for one temperature."""
    folder = tmp_path_factory.mktemp("soft") / "bank"
    build_bank(small_run(weights, method=PlainKD()), folder, range(2))
    return folder


@pytest.mark.parametrize(
    "method",
    [
        PlainKD(alpha=1.0),
        PlainKD(alpha=1.0, temperature=8.0),
        PlainKD(loss={"kind": "standardised"}),
        DeiT(loss={"kind": "dist"}),
    ],
    ids=lambda method: method_label(method).replace(" ", "_"),
)
def test_kd_learns_the_same_from_soft_targets_up_to_float16(weights, soft_bank, tmp_path, method):
    """Of few classes all logits are in the bank, whatever temperature it was built for."""
    expected = pretrain(small_run(weights, "teacher", method), tmp_path, tmp_path / "a", ALONE)
    config = small_run(weights, "bank", method)
    found = pretrain(config, tmp_path, tmp_path / "b", ALONE, bank_targets(soft_bank, config))
    losses = [[entry["total"] for entry in record.curve] for record in (expected, found)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[1] != losses[0]


def test_a_run_of_other_length_says_where_its_ratios_are_inexact(weights, tmp_path):
    build_bank(small_run(weights, epochs=7), tmp_path / "seven", range(3))
    note = bank_targets(tmp_path / "seven", small_run(weights, epochs=3)).note
    assert "teacher labels from a bank" in note
    assert "declared for 7 epochs: 2 of 3 fusion ratios" in note
    build_bank(small_run(weights, epochs=6), tmp_path / "six", range(3))
    assert bank_targets(tmp_path / "six", small_run(weights, epochs=3)).note == "teacher labels from a bank"
