"""The envelope gives training's own labels: argmax of `ratio * dense + (1 - ratio) * global`, bit for bit."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cskd_bench.bank.envelope import Ladder, declared_ratios, upper_envelope
from cskd_bench.config import AugmentConfig, DataConfig, TeacherConfig
from cskd_bench.methods.parts import fuse, harden

pytestmark = pytest.mark.gate

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
LADDER = Ladder(declared_ratios(30))


def brute_force(dense: Tensor, global_: Tensor, ratio: float) -> np.ndarray:
    """Return the labels as the cskd method takes them."""
    return harden(fuse(dense, global_, ratio), "hard").numpy()


def assert_exact(dense: Tensor, global_: Tensor, ladder: Ladder = LADDER) -> None:
    envelope = upper_envelope(dense, global_, ladder)
    for ratio in map(float, ladder.declared):
        found = envelope.labels(ladder.code(ratio))
        np.testing.assert_array_equal(found, brute_force(dense, global_, ratio), err_msg=f"ratio {ratio}")


def test_declared_ratios_hold_the_standard_grid_and_every_schedule():
    assert set(np.arange(1001) / 1000) <= set(LADDER.declared)
    assert {1 - 7 / 30, (1 - 7 / 30) ** 2} <= set(LADDER.declared)
    assert len(LADDER.ratios) <= 2**16
    np.testing.assert_array_equal(LADDER.ratios[LADDER.declared_codes], LADDER.declared)


@pytest.mark.parametrize("classes", [1, 2, 10, 300])
def test_random_logits(classes):
    torch.manual_seed(classes)
    dense = 3 * torch.randn(4, classes, 3, 2)
    assert_exact(dense, dense.flatten(2).mean(2))
    assert_exact(dense, torch.randn(4, classes))


logits = {
    "tied": st.sampled_from([-1.0, 0.0, 1.0, 2.0]),
    "extreme": st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100),
    "near ties": st.integers(0, 12).map(lambda n: 5 + n * 2.0**-22),
}


@pytest.mark.parametrize("kind", logits)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_tied_extreme_and_nearly_tied_logits(kind, data):
    classes, places = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 3))
    values = data.draw(st.lists(logits[kind], min_size=classes * (places + 1), max_size=classes * (places + 1)))
    lines = torch.tensor(values, dtype=torch.float32).view(classes, places + 1)
    assert_exact(lines[None, :, 1:, None].contiguous(), lines[None, :, 0].contiguous())


def test_labels_off_the_declared_ratios_differ_only_within_a_rung_of_a_breakpoint():
    torch.manual_seed(1)
    dense = 3 * torch.randn(8, 100, 4, 4)
    global_ = dense.flatten(2).mean(2)
    envelope = upper_envelope(dense, global_, LADDER)
    ratios = torch.rand(500, dtype=torch.float64).tolist()
    wrong = [np.mean(envelope.labels(LADDER.code(r)) != brute_force(dense, global_, r)) for r in ratios]
    assert np.mean(wrong) < 1e-4


def test_a_response_that_is_not_finite_is_refused():
    dense = torch.zeros(2, 3, 1, 1)
    dense[1, 2] = torch.inf
    with pytest.raises(ValueError, match="image 1"):
        upper_envelope(dense, torch.zeros(2, 3), LADDER)


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data")
def test_real_logits_with_mixing(monkeypatch):
    """EfficientNet-Lite0, 1,000 classes, mixed imagenette128 views, 224 px: one on all ratios, 16 on some."""
    from helpers.views_before import erase, mix

    from cskd_bench.data.mixing import to_float
    from cskd_bench.data.open import open_source
    from cskd_bench.data.train_views import TrainViews
    from cskd_bench.data.view_plan import ViewPlan
    from cskd_bench.models.teachers import build_teacher

    monkeypatch.setitem(os.environ, "CSKD_BENCH_DATA", str(SHARED / "data"))
    augment = AugmentConfig(auto_augment="")
    data = DataConfig(root="imagenette128", num_classes=10)
    source = open_source(data, "train")
    keys = ViewPlan(len(source), 16, 3, 1, 0).keys(0)
    batch = TrainViews(source, augment, 224, 0, data).__getitems__(keys)
    views = erase(to_float(batch.pixels), keys, augment, 0)
    views, _ = mix(views, batch.labels, keys, augment, 10, 0)
    config = TeacherConfig(name="tf_efficientnet_lite0", weights="teachers/tf_efficientnet_lite0.safetensors")
    teacher = build_teacher(config, [str(k) for k in range(1000)], 1000)
    response = teacher(views)
    assert response.dense.shape == (16, 1000, 7, 7)
    ladder = Ladder(np.arange(1001) / 1000)
    assert_exact(response.dense[:1].contiguous(), response.global_logits[:1], ladder)
    envelope = upper_envelope(response.dense, response.global_logits, ladder)
    for ratio in np.linspace(0, 1, 41):
        expected = brute_force(response.dense, response.global_logits, float(ratio))
        np.testing.assert_array_equal(envelope.labels(ladder.code(ratio)), expected)
