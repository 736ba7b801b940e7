"""Every later method's loss against its authors' own code: 59 kept cases in float64, parts and gradients to 1e-9."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cskd_bench.config import DeiT, Locality, PlainKD, VkD
from cskd_bench.methods import METHODS
from cskd_bench.methods.logit_losses import logit_loss
from cskd_bench.methods.vkd import feature_loss
from cskd_bench.outputs import StudentOutput, Targets, TeacherOutput

HERE = Path(__file__).resolve().parents[1] / "fixtures"
FOLDER = Path(os.environ.get("CSKD_BENCH_GOLDEN_METHODS", HERE / "golden_methods"))
CASES = json.loads((FOLDER / "index.json").read_text()) if (FOLDER / "index.json").is_file() else []
LOSSES = {"kd": "kl", "logit_standard": "standardised", "nkd": "nkd", "dkd": "dkd", "dist": "dist"}
OF_LOGITS = [case for case in CASES if case["method"] in LOSSES]
OF_FEATURES = [case for case in CASES if case["method"] in ("vkd", "srd") and case.get("variant") != "resnet"]
OF_MAPS = [case for case in CASES if case["method"] == "locality"]


def named(case):
    return case["file"].removesuffix(".npz")


def read(case) -> dict[str, torch.Tensor]:
    with np.load(FOLDER / case["file"]) as archive:
        return {name: torch.from_numpy(np.asarray(archive[name])) for name in archive.files}


def leaf(arrays, name):
    return arrays[name].requires_grad_() if name in arrays else None


def soft(labels, classes):
    return labels if labels.is_floating_point() else F.one_hot(labels, classes).double()


def assert_close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


def loss_table(case) -> dict[str, Any]:
    table = {"kind": LOSSES[case["method"]], "temperature": case["temperature"]}
    table |= {"label_weight": case.get("label_weight", 1.0), "weight": case.get("kd_weight", 1.0)}
    return table | {key: case[key] for key in ("alpha", "beta", "gamma") if key in case}


def test_there_are_cases_and_only_one_kind_is_left_out():
    """SRD's "resnet" variant is another loss, for CNNs; CSKD_BENCH_GOLDEN_METHODS names another set of cases."""
    left_out = [case for case in CASES if case not in OF_LOGITS + OF_FEATURES + OF_MAPS]
    assert len(CASES) == 59
    assert {(case["method"], case["variant"]) for case in left_out} == {("srd", "resnet")}


@pytest.mark.parametrize("case", OF_LOGITS, ids=named)
def test_losses_between_logits(case):
    arrays = read(case)
    class_logits, dist_logits = leaf(arrays, "cls_logits"), leaf(arrays, "dist_logits")
    kind = PlainKD if dist_logits is None else DeiT
    config = kind.model_validate({"loss": loss_table(case)})
    objective = METHODS[config.kind]
    response = TeacherOutput(torch.empty(0), arrays["teacher_logits"])
    targets = objective.targets(config, response, 0.0)
    labels = soft(arrays["labels"], class_logits.shape[1])
    parts = objective.losses(config, StudentOutput(class_logits, dist_logits), targets, labels)

    assert_close(parts["label"], arrays["loss_label"])
    assert_close(parts["total"], arrays["loss_total"])
    if "loss_kd" in arrays:
        assert_close(parts["global"], arrays["loss_kd"])
    for name, first, second in (("dkd", "tckd", "nckd"), ("dist", "inter", "intra")):
        if case["method"] == name:
            weights = {"dkd": ("alpha", "beta"), "dist": ("beta", "gamma")}[name]
            for part, kept in zip((first, second), weights, strict=True):
                alone = config.loss.model_copy(update=dict.fromkeys(weights, 0.0) | {kept: 1.0})
                value = logit_loss(alone, class_logits, arrays["teacher_logits"], labels)
                assert_close(value, arrays[f"loss_{part}"])
    if case["method"] == "nkd":
        alone = config.loss.model_copy(update={"gamma": 0.0})
        target = logit_loss(alone, class_logits, arrays["teacher_logits"], labels)
        assert_close(target, arrays["loss_target"])
    parts["total"].backward()
    assert_close(class_logits.grad, arrays["grad_cls"])
    if dist_logits is not None:
        assert_close(dist_logits.grad, arrays["grad_dist"])


@pytest.mark.parametrize("case", OF_FEATURES, ids=named)
def test_losses_of_pooled_features(case):
    """Gradients of the projection are those of P itself; its bias, where SRD's code has one, changes nothing."""
    arrays = read(case)
    settings = {"kl_weight": case["kl_weight"], "feature_weight": case["feature_weight"]}
    if case["method"] == "srd":
        settings |= {"projector": "linear", "feature_norm": "batch", "distance": "logsum"}
    config = VkD.model_validate(settings | {"temperature": case["temperature"]})
    class_logits, dist_logits = leaf(arrays, "cls_logits"), leaf(arrays, "dist_logits")
    tokens, projection = leaf(arrays, "patch_tokens"), leaf(arrays, "projection")
    projected = tokens.mean(1) @ projection.T
    pooled = arrays["teacher_features"].flatten(2).mean(2)
    response = TeacherOutput(torch.empty(0), arrays["teacher_logits"], pooled=pooled)
    student = StudentOutput(class_logits, dist_logits, projected=(projected,))
    targets = METHODS["vkd"].targets(config, response, 0.0)
    parts = METHODS["vkd"].losses(config, student, targets, soft(arrays["labels"], class_logits.shape[1]))

    for part, theirs in (("label", "label"), ("global", "kl"), ("feature", "feature"), ("total", "total")):
        assert_close(parts[part], arrays[f"loss_{theirs}"])
    parts["total"].backward()
    for ours, theirs in ((class_logits, "cls"), (dist_logits, "dist"), (tokens, "tokens"), (projection, "projection")):
        assert_close(ours.grad, arrays[f"grad_{theirs}"])


@pytest.mark.parametrize("images", [1, 3, 6, 48, 100])
@pytest.mark.parametrize("level", [0.0, 0.1, 1.7])
def test_a_channel_that_never_varies_is_zero_whatever_its_mean_rounds_to(images, level):
    torch.manual_seed(0)
    config = VkD(projector="linear", feature_norm="batch", distance="logsum")
    projected, pooled = torch.randn(images, 4), torch.randn(images, 4)
    projected[:, 0] = pooled[:, 1] = level
    projected.requires_grad_()
    loss = feature_loss(config, projected, pooled)
    loss.backward()
    zeroed = torch.where(torch.tensor([True, True, False, False]), 0.0, projected.detach())
    assert torch.equal(loss, feature_loss(config, zeroed, pooled)) and projected.grad[:, :2].abs().max() == 0


@pytest.mark.parametrize("case", OF_MAPS, ids=named)
def test_losses_of_maps(case):
    arrays = read(case)
    config = Locality(feature_weight=case["feature_weight"])
    class_logits = leaf(arrays, "cls_logits")
    blocks = [leaf(arrays, f"student_features_{i}") for i in range(3)]
    weights, biases = ([leaf(arrays, f"projection{name}_{i}") for i in range(3)] for name in ("", "_bias"))
    projected = tuple(
        F.conv2d(block, weight[:, :, None, None], bias)
        for block, weight, bias in zip(blocks, weights, biases, strict=True)
    )
    targets = Targets(features=tuple(arrays[f"teacher_features_{i}"] for i in range(3)))
    student = StudentOutput(class_logits, projected=projected)
    parts = METHODS["locality"].losses(config, student, targets, soft(arrays["labels"], class_logits.shape[1]))

    for part in ("label", "feature", "total"):
        assert_close(parts[part], arrays[f"loss_{part}"])
    parts["total"].backward()
    assert_close(class_logits.grad, arrays["grad_cls"])
    for i in range(3):
        assert_close(blocks[i].grad, arrays[f"grad_features_{i}"])
        assert_close(weights[i].grad, arrays[f"grad_projection_{i}"])
        assert_close(biases[i].grad, arrays[f"grad_projection_bias_{i}"])
