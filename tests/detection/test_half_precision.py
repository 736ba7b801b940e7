"""Operators against mmcv's compiled ones, in halves, and in detectors that train under autocast."""

import importlib

import numpy as np
import pytest
import torch
from helpers import mmcv_operators

pytest.importorskip("mmdet", reason="the detection extra is not installed")

from cskd_bench.detection import operators
from cskd_bench.detection.settings import check_half
from cskd_bench.errors import UserError

operators.install()

from mmdet.models.losses import focal_loss  # noqa: E402
from mmdet.registry import MODELS  # noqa: E402
from mmdet.structures import DetDataSample  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

from cskd_bench.detection.runner_device import keep_fp32  # noqa: E402

HALVES = {torch.bfloat16: 2**-8, torch.float16: 2**-11}  # the largest relative error of rounding
LEVELS = [(32, 4), (16, 8), (8, 16), (4, 32), (2, 64)]  # of a 128 px image: side and stride of each map


def agree(found, expected, tolerance):
    assert found.keys() == expected.keys() and len(found) == 18
    for name, values in expected.items():
        if name.startswith("nms"):
            np.testing.assert_array_equal(found[name], values, err_msg=name)
        else:
            np.testing.assert_allclose(found[name], values, atol=tolerance, err_msg=name)


def goldens():
    with np.load(mmcv_operators.GOLDENS) as file:
        return {name: file[name] for name in file.files}


def test_our_operators_agree_with_what_mmcvs_compiled_ones_made():
    agree(mmcv_operators.compute(operators), goldens(), 2e-6)


def test_mmcvs_compiled_operators_make_the_goldens_again():
    extension = importlib.import_module("mmcv._ext")
    if isinstance(extension, operators._Operators):
        pytest.skip("mmcv's compiled operators are not installed")
    agree(mmcv_operators.compute(extension), goldens(), 2e-6)


@pytest.mark.parametrize("half", HALVES)
def test_halves_are_pooled_in_fp32_forwards_and_backwards(half):
    """The maps are rounded once when they come and once when they go; in between nothing is."""
    largest = max(np.abs(values).max() for name, values in goldens().items() if name.startswith("roi"))
    agree(mmcv_operators.compute(operators, half), goldens(), 2 * largest * HALVES[half])


@pytest.mark.parametrize("half", HALVES)
def test_boxes_beside_maps_of_halves_keep_their_corners(half):
    """In bf16 a corner at 801.25 px is one at 800; the map is a ramp, so the pooled value is where the box is."""
    from mmcv.ops import roi_align

    ramp = (torch.arange(64.0) - 51).expand(1, 1, 64, 64).contiguous().to(half).requires_grad_()
    rois = torch.tensor([[0.0, 801.25, 16.0, 849.25, 64.0]])
    pooled = roi_align(ramp, rois, 1, 1 / 16, 2, "avg", True)
    assert pooled.item() == pytest.approx(825.25 / 16 - 51.5, abs=1e-3)
    pooled.backward()
    assert ramp.grad.dtype == half and float(ramp.grad.float().sum()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("half", HALVES)
def test_nms_takes_scores_of_halves_beside_boxes_of_fp32(half):
    boxes = torch.tensor([[0.0, 0, 10, 10], [1.0, 0, 11, 10], [400.0, 0, 410, 10], [402.0, 0, 412, 10]])
    scores = torch.tensor([0.5, 0.75, 0.25, 0.125])
    assert operators.nms(boxes, scores.to(half), 0.5).tolist() == [1, 2]
    assert operators.nms(boxes.to(half), scores.to(half), 0.5).tolist() == [1, 2]


@pytest.mark.parametrize("half", HALVES)
def test_focal_loss_of_halves_is_computed_in_fp32(half):
    rng = torch.Generator().manual_seed(0)
    logits, target = (4 * torch.randn(50, 3, generator=rng)).to(half), torch.randint(0, 4, (50,), generator=rng)
    for weight in (torch.empty(0), torch.tensor([0.5, 2.0, 1.0])):
        found, exact = [], []
        for numbers, into in ((logits, found), (logits.float(), exact)):
            for operator in (operators.sigmoid_focal_loss_forward, operators.sigmoid_focal_loss_backward):
                output = torch.empty_like(numbers)
                operator(numbers, target, weight.to(numbers.dtype), output, gamma=2.0, alpha=0.25)
                into.append(output)
        for rounded, whole in zip(found, exact, strict=True):
            assert torch.equal(rounded, whole.to(half))


# --------------------------------------------------------------------------- detectors


def truths():
    """Two images' boxes and labels, as heads take them."""
    boxes = [[[8.0, 8, 60, 70], [70.0, 20, 120, 110]], [[30.0, 40, 90, 100]]]
    samples = []
    for given in boxes:
        truth = InstanceData(bboxes=torch.tensor(given), labels=torch.arange(len(given)))
        sample = DetDataSample(gt_instances=truth)
        sample.set_metainfo({"img_shape": (128, 128), "pad_shape": (128, 128), "ori_shape": (128, 128)})
        sample.set_metainfo({"batch_input_shape": (128, 128), "scale_factor": (1.0, 1.0)})
        samples.append(sample)
    return samples


def maps(channels=8):
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(2, channels, side, side, generator=rng).requires_grad_() for side, _ in LEVELS]


def retina_head():
    register_all_modules(init_default_scope=True)
    strides = [stride for _, stride in LEVELS]
    anchors = {"type": "AnchorGenerator", "octave_base_scale": 4, "scales_per_octave": 1, "ratios": [1.0]}
    assigner = {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.4, "min_pos_iou": 0}
    torch.manual_seed(0)
    head = MODELS.build(
        {
            "type": "RetinaHead",
            "num_classes": 3,
            "in_channels": 8,
            "feat_channels": 8,
            "stacked_convs": 1,
            "anchor_generator": {**anchors, "strides": strides},
            "loss_cls": {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25},
            "train_cfg": {
                "assigner": assigner,
                "sampler": {"type": "PseudoSampler"},
                "allowed_border": -1,
                "pos_weight": -1,
                "debug": False,
            },
        }
    )
    keep_fp32(head)
    return head


class Fused:
    """Counts the calls of mmcv's operator, which mmdet takes on a GPU alone."""

    def __init__(self, monkeypatch):
        self.dtypes = []
        original = focal_loss._sigmoid_focal_loss
        monkeypatch.setattr(focal_loss, "_sigmoid_focal_loss", lambda *given: self.noted(original, *given))
        self.plain = focal_loss.py_sigmoid_focal_loss

    def noted(self, original, pred, *given):
        self.dtypes.append(pred.dtype)
        return original(pred, *given)

    def instead(self, pred, target, weight=None, **options):
        """Take the classes' numbers out of one-hot targets, as the operator wants them."""
        numbers = torch.where(target.sum(1) > 0, target.argmax(1), target.size(1))
        return focal_loss.sigmoid_focal_loss(pred, numbers, weight, **options)


def step(head):
    """Return a head's losses and the gradient of their sum."""
    features = maps()
    losses = head.loss(features, truths())
    total = sum(sum(parts) for parts in losses.values())
    total.backward()
    return total.detach(), [feature.grad for feature in features]


def test_a_one_stage_head_trains_through_the_focal_loss_operator(monkeypatch):
    """Its loss and gradient are those of mmdet's own formula, which it takes on a CPU."""
    if not isinstance(importlib.import_module("mmcv._ext"), operators._Operators):
        pytest.skip("mmcv's compiled focal loss is for GPUs")
    head, fused = retina_head(), Fused(monkeypatch)
    plain = step(head)
    assert fused.dtypes == []
    monkeypatch.setattr(focal_loss, "py_sigmoid_focal_loss", fused.instead)
    ours = step(head)
    assert fused.dtypes == [torch.float32] * len(LEVELS)
    torch.testing.assert_close(ours, plain)
    with torch.autocast("cpu", torch.bfloat16):
        half = step(head)
    assert fused.dtypes == [torch.float32] * 2 * len(LEVELS)  # not the convolutions' bf16
    torch.testing.assert_close(half[0], plain[0], rtol=0.02, atol=0.0)


def test_regions_are_pooled_in_fp32_under_autocast(monkeypatch):
    """Also where mmcv's operators are compiled: those have no bf16. mmdet casts the boxes to the maps' type."""
    module = importlib.import_module("mmcv.ops.roi_align")
    register_all_modules(init_default_scope=True)
    layer = {"type": "RoIAlign", "output_size": 2, "sampling_ratio": 2}
    extractor = MODELS.build(
        {"type": "SingleRoIExtractor", "roi_layer": layer, "out_channels": 8, "featmap_strides": [4, 8, 16, 32]}
    )
    keep_fp32(extractor)
    seen = []
    for name in ("roi_align_forward", "roi_align_backward"):
        original = getattr(module.ext_module, name)

        def noted(*given, original=original, **asked):
            seen.append({tensor.dtype for tensor in given})
            return original(*given, **asked)

        monkeypatch.setattr(module.ext_module, name, noted)
    rois = torch.tensor([[0.0, 1, 1, 30, 30], [1.0, 5, 5, 127, 101]])
    results = []
    for half in (False, True):
        features = maps()[:4]
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            given = [feature.to(torch.bfloat16) if half else feature for feature in features]
            pooled = extractor(given, rois)
        assert pooled.dtype == torch.float32
        pooled.sum().backward()
        results.append((pooled, [feature.grad for feature in features]))
    assert seen and all(dtypes == {torch.float32} for dtypes in seen)
    torch.testing.assert_close(results[1], results[0], rtol=0.02, atol=0.02)


def test_bf16_on_a_gpu_without_its_units_is_refused_before_anything_is_computed(monkeypatch):
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda where: (7, 0))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(UserError, match='no units for "bf16"'):
        check_half("bf16", gpu)
    check_half("fp16", gpu)
    check_half("bf16", torch.device("cpu"))  # which computes in fp32, and says so
