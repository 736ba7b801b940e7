"""Operators on torchvision against slow references, and checkpoints that must not run code."""

import importlib
import math
import os
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cskd_bench.detection import operators
from cskd_bench.errors import UserError

pytest.importorskip("mmengine", reason="the detection extra is not installed")


def slow_nms(boxes, scores, threshold, offset=0):
    order, kept = list(np.argsort(-scores, kind="stable")), []
    while order:
        best = order.pop(0)
        kept.append(int(best))
        order = [other for other in order if slow_iou(boxes[best], boxes[other], offset) <= threshold]
    return kept


def slow_iou(a, b, offset):
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
    return shared / (sum(areas) - shared)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.3141, 0.5123, 0.7071]), st.sampled_from([0, 1]))
def test_nms_keeps_what_the_definition_keeps(seed, threshold, offset):
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 30, (20, 2))
    boxes = np.concatenate([corners, corners + rng.integers(1, 20, (20, 2))], 1).astype(np.float32)
    scores = rng.permutation(20).astype(np.float32)
    kept = operators.nms(torch.tensor(boxes), torch.tensor(scores), threshold, offset)
    assert kept.tolist() == slow_nms(boxes, scores, threshold, offset)


def slow_roi_align(features, box, size, samples):
    """Bilinear samples on a regular grid in each bin, averaged; coordinates aligned to pixel centres."""
    x1, y1, x2, y2 = (value - 0.5 for value in box)
    out = np.zeros((features.shape[0], size, size))
    for row in range(size):
        for column in range(size):
            total = 0.0
            for i in range(samples):
                for j in range(samples):
                    y = y1 + (row + (i + 0.5) / samples) * (y2 - y1) / size
                    x = x1 + (column + (j + 0.5) / samples) * (x2 - x1) / size
                    top, left = math.floor(y), math.floor(x)
                    dy, dx = y - top, x - left
                    total = total + (
                        features[:, top, left] * (1 - dy) * (1 - dx)
                        + features[:, top, left + 1] * (1 - dy) * dx
                        + features[:, top + 1, left] * dy * (1 - dx)
                        + features[:, top + 1, left + 1] * dy * dx
                    )
            out[:, row, column] = total / samples**2
    return out


def test_roi_align_and_its_gradient_match_the_definition():
    operators.install()
    from mmcv.ops import RoIAlign

    torch.manual_seed(0)
    features = torch.randn(1, 2, 12, 12, dtype=torch.float64, requires_grad=True)
    boxes = [(2.0, 3.0, 9.0, 8.0), (1.5, 1.0, 6.5, 10.0)]
    rois = torch.tensor([[0.0, *box] for box in boxes], dtype=torch.float64)
    layer = RoIAlign(output_size=3, spatial_scale=1.0, sampling_ratio=2, aligned=True)
    expected = np.stack([slow_roi_align(features[0].detach().numpy(), box, 3, 2) for box in boxes])
    np.testing.assert_allclose(layer(features, rois).detach().numpy(), expected, atol=1e-9)
    assert torch.autograd.gradcheck(lambda x: layer(x, rois), features)


def test_focal_loss_and_its_gradient_match_the_definition():
    torch.manual_seed(0)
    logits, target = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 2, 3, 1, 3])
    expected = torch.zeros(5, 3, dtype=torch.float64)
    for row in range(5):
        for column in range(3):
            p = float(logits[row, column].sigmoid())
            truth = int(target[row]) == column
            p_t, alpha_t = (p, 0.25) if truth else (1 - p, 0.75)
            expected[row, column] = -alpha_t * (1 - p_t) ** 2 * math.log(p_t)
    found, gradient = torch.empty_like(logits), torch.empty_like(logits)
    no_weight = torch.empty(0, dtype=torch.float64)
    operators.sigmoid_focal_loss_forward(logits, target, no_weight, found, gamma=2.0, alpha=0.25)
    operators.sigmoid_focal_loss_backward(logits, target, no_weight, gradient, gamma=2.0, alpha=0.25)
    torch.testing.assert_close(found, expected)
    for row, column in ((0, 0), (2, 1), (4, 2)):
        moved = [logits.clone(), logits.clone()]
        moved[0][row, column] += 1e-6
        moved[1][row, column] -= 1e-6
        losses = [torch.empty_like(logits) for _ in moved]
        for shifted, loss in zip(moved, losses, strict=True):
            operators.sigmoid_focal_loss_forward(shifted, target, no_weight, loss, gamma=2.0, alpha=0.25)
        slope = (losses[0].sum() - losses[1].sum()) / 2e-6
        assert float(gradient[row, column]) == pytest.approx(float(slope), abs=1e-6)


def test_compiled_operators_agree_where_they_are_installed():
    operators.install()
    extension = importlib.import_module("mmcv._ext")
    if isinstance(extension, operators._Operators):
        pytest.skip("mmcv's compiled operators are not installed, so there is nothing to compare with")
    rng = torch.Generator().manual_seed(0)
    corners = torch.rand(200, 2, generator=rng) * 50
    boxes = torch.cat([corners, corners + 1 + torch.rand(200, 2, generator=rng) * 20], 1)
    scores = torch.rand(200, generator=rng)
    compiled = extension.nms(boxes, scores, iou_threshold=0.5, offset=0)
    assert compiled.tolist() == operators.nms(boxes, scores, 0.5).tolist()
    features, rois = torch.randn(1, 4, 16, 16, generator=rng), torch.tensor([[0.0, 1.0, 2.0, 12.0, 9.0]])
    options = {
        "aligned_height": 7,
        "aligned_width": 7,
        "spatial_scale": 1.0,
        "sampling_ratio": 0,
        "pool_mode": 1,
        "aligned": True,
    }
    outputs = []
    for forward in (extension.roi_align_forward, operators.roi_align_forward):
        output = torch.zeros(1, 4, 7, 7)
        forward(features, rois, output, torch.zeros(0), torch.zeros(0), **options)
        outputs.append(output)
    torch.testing.assert_close(*outputs)


def test_an_operator_that_is_not_there_imports_and_says_so_when_called():
    module = operators._torchvision_operators()
    with pytest.raises(NotImplementedError, match="deform_conv_forward"):
        module.deform_conv_forward()


def test_readiness_is_one_line():
    assert operators.detection_ready().startswith("ready: mmdet ")
    assert "\n" not in operators.detection_ready()


def test_missing_packages_are_named_with_the_way_to_install_them(monkeypatch):
    monkeypatch.setattr(operators, "_PACKAGES", ("no_such_package",))
    assert operators.detection_ready().startswith("not ready: no_such_package not installed; pip install")
    with pytest.raises(UserError, match="no_such_package"):
        operators.install()


class Hostile:
    """Unpickled without care, this writes a file."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return (os.system, (f"touch {self.proof}",))


class ThroughGetattr:
    """Reaches for more than a statistic through getattr, which mmengine's histories are pickled with."""

    def __reduce__(self):
        from mmengine.logging import HistoryBuffer

        return (getattr, (HistoryBuffer, "__init__"))


def test_a_hostile_checkpoint_is_refused_and_runs_nothing(tmp_path):
    operators.install()
    from mmengine.runner.checkpoint import CheckpointLoader

    for number, content in enumerate((Hostile(tmp_path / "proof"), ThroughGetattr())):
        file = tmp_path / f"{number}.pth"
        torch.save({"state_dict": {}, "meta": content}, file)
        with pytest.raises(UserError, match="refused"):
            CheckpointLoader.load_checkpoint(str(file), map_location="cpu")
    assert not (tmp_path / "proof").exists()
    with (tmp_path / "plain.pth").open("wb") as handle:
        pickle.dump(Hostile(tmp_path / "proof"), handle)
    with pytest.raises(UserError, match="refused"):
        operators.read_mmengine_checkpoint(tmp_path / "plain.pth")
    assert not (tmp_path / "proof").exists()


def test_training_state_loads_but_the_configuration_inside_is_dropped(tmp_path):
    """On resume mmengine would run meta["config"] as Python."""
    from mmengine.logging import HistoryBuffer

    history = HistoryBuffer([1.0, 2.0], [1, 1])
    history.mean()
    file = tmp_path / "epoch_1.pth"
    meta = {"epoch": 1, "config": "import os", "cfg": "import os"}
    torch.save({"meta": meta, "message_hub": {"loss": history}, "lr": np.float64(0.1)}, file)
    content = operators.read_mmengine_checkpoint(file)
    assert content["meta"] == {"epoch": 1}
    assert content["message_hub"]["loss"].mean() == 1.5
