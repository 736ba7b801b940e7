"""On a GPU: labels, scores, exports and detection are those of the CPU, up to what is said here."""

import numpy as np
import pytest
import timm
import torch
from helpers.processes import run_python

from cskd_bench.bank.build import build_bank
from cskd_bench.bank.targets import bank_targets
from cskd_bench.cells.pretrain import _teacher_targets, pretrain
from cskd_bench.data.engines import finish_batch, worker_views
from cskd_bench.data.open import open_source
from cskd_bench.data.view_plan import ViewPlan
from cskd_bench.data.views import EvalView
from cskd_bench.engine.evaluate import evaluate
from cskd_bench.export import export_timm
from cskd_bench.models import architectures
from cskd_bench.models.checkpoints import load_checkpoint
from cskd_bench.models.labeller import labelling_teacher
from cskd_bench.models.students import initial_student


def test_a_bank_holds_the_labels_of_the_teacher_beside_the_run(small_config, ranks, device, tmp_path):
    config = small_config()
    build_bank(config, tmp_path / "bank", device=device)
    source = open_source(config.data, "train")
    taught, banked = _teacher_targets(config, source.classes, ranks), bank_targets(tmp_path / "bank", config)
    plan = ViewPlan.of(config.recipe, len(source), config.seed)
    makes = worker_views(source, config.recipe.augment, config.view_size, config.seed, config.data)
    flips, labels = 0, 0
    for step in range(plan.steps):
        keys = plan.keys(step)
        views, _ = finish_batch(makes.__getitems__(keys), config.recipe.augment, 3, device)
        ratio = 1 - step / plan.steps
        ours = banked(views, banked.look_up(keys, ratio), ratio).spatial_target
        theirs = taught(views, taught.look_up(keys, ratio), ratio).spatial_target
        flips += int((ours != theirs).sum())
        labels += ours.numel()
    assert flips <= labels // 1000, f"{flips} of {labels}"


def teacher_on(config, device, precision="fp32"):
    chosen = config.teacher.model_copy(update={"precision": precision})
    return labelling_teacher(chosen, ("red", "green", "blue"), 3, device, compiled=False)


def test_fp32_labels_are_those_of_the_cpu(small_config, device):
    """Convolutions are not rounded to TF32, whatever torch's default is."""
    torch.backends.cudnn.allow_tf32 = True
    views = torch.rand(64, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    ours = teacher_on(small_config(), device)(views.to(device)).dense.cpu()
    theirs = teacher_on(small_config(), torch.device("cpu"))(views).dense
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()
    assert (ours.argmax(1) != theirs.argmax(1)).float().mean() < 1e-3


@pytest.mark.parametrize("precision", ["tf32", "fp16", "bf16"])
def test_another_precision_is_another_label_now_and_then(small_config, device, precision):
    if precision == "tf32" and device.type == "cpu":
        pytest.skip("a CPU has no TF32")
    views = torch.rand(64, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(device)
    exact, rounded = (teacher_on(small_config(), device, name)(views).dense for name in ("fp32", precision))
    assert rounded.dtype == torch.float32 and not torch.equal(exact, rounded)
    flips = float((exact.argmax(1) != rounded.argmax(1)).float().mean())
    print(f"{precision}: {100 * flips:.2f} % of labels differ from fp32's")
    assert flips < 0.2


def test_evaluation_counts_each_image_once(small_config, ranks, colour_squares, monkeypatch):
    config = small_config()
    source = open_source(config.data, "val")
    student = initial_student(config).to(ranks.device).eval()
    seen = []

    def predict(views):
        seen.append(len(views))
        return student.predict(views)

    found = evaluate(predict, source, EvalView(32), ranks, batch_size=7, workers=2)
    assert sum(seen) == len(source) == len(found.predicted)
    alone = evaluate(student.predict, source, EvalView(32), ranks, batch_size=1, workers=0)
    assert np.mean(found.predicted == alone.predicted) > 0.99


def test_an_export_gives_the_logits_of_the_run(small_config, ranks, device, tmp_path):
    pretrain(small_config("recipe.epochs=1"), tmp_path / "runs", tmp_path / "results", ranks)
    export_timm(tmp_path / "runs" / "small", tmp_path / "timm", "raw")
    architectures.register()
    exported = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).to(device).eval()
    native = load_checkpoint(tmp_path / "runs" / "small").student.to(device).eval()
    views = torch.rand(4, 3, 32, 32, device=device)
    with torch.no_grad():
        ours, theirs = exported((views - native.mean) / native.std), native.predict(views)
    assert (ours - theirs).abs().max() < 1e-4


def test_a_detector_learns_on_the_device(device):
    """One forward and backward pass of Mask R-CNN's operators on our backbone."""
    pytest.importorskip("mmdet")
    from cskd_bench.detection import operators
    from cskd_bench.detection.backbone import PlainViT

    operators.install()
    from mmcv.ops import nms, roi_align

    vit = timm.create_model("deit_tiny_patch16_224", img_size=64, depth=2)
    backbone = PlainViT(vit=vit).to(device).train()
    features = backbone(torch.rand(2, 3, 64, 64, device=device))
    last = features[-1] if isinstance(features, (tuple, list)) else features
    boxes = torch.tensor([[0.0, 0, 0, 32, 32], [1, 8, 8, 60, 60]], device=device)
    pooled = roi_align(last, boxes, (7, 7), last.shape[-1] / 64, 0, "avg", True)
    pooled.sum().backward()
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in vit.parameters())
    _, kept = nms(boxes[:, 1:].contiguous(), torch.tensor([0.9, 0.8], device=device), 0.5)
    assert kept.tolist() == [0, 1]


def test_cpu_means_that_cuda_sleeps(device):
    """A run that was told to use the CPU leaves the GPU alone: no context, no memory."""
    code = "import torch; from cskd_bench.device import default_device as d; d(); print(torch.cuda.is_initialized())"
    assert run_python(code).strip() == "False"
