"""PlainViT in configurations of one's own: mmdet's stock ones, in mmdet's own scripts and through our command."""

import json
import sys
import warnings
from pathlib import Path

import pytest
import timm
import torch
from helpers.processes import run
from helpers.runs import random_run
from helpers.tiny import STUDENT
from safetensors.torch import save_file

from cskd_bench.cli import main
from cskd_bench.detection.backbone import PlainViT
from cskd_bench.detection.digits import make_digits
from cskd_bench.detection.students import describe_student
from cskd_bench.errors import UserError
from cskd_bench.models.checkpoints import load_checkpoint

pytest.importorskip("mmdet", reason="the detection extra is not installed")

from mmengine.config import Config

import cskd_bench.detection.mmdet_plugin  # noqa: F401
from cskd_bench.detection.fitting import parts

IMAGES = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
MODEL_LINES = """model = dict(backbone=dict(_delete_=True, type="PlainViT", run="{run}", {options}),
             neck=dict(_delete_=True, type="{neck}", in_channels={width}, out_channels=256{start}))"""
FIVE_LINES = f"""
_base_ = "mmdet::{{stock}}_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["cskd_bench.detection.mmdet_plugin"])
{MODEL_LINES}
optim_wrapper = dict(_delete_=True, type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05))
"""
STOCK = {"mask_rcnn/mask-rcnn": "", "cascade_rcnn/cascade-rcnn": "", "retinanet/retinanet": ", start_level=1"}
STOCK |= {"atss/atss": ", start_level=1"}
SMALL = {  # data of our own, at 64 px, with few regions and thin heads, so that a step takes a tenth of a second
    **{f"{split}_dataloader.num_workers": 0 for split in ("train", "val", "test")},
    **{f"{split}_dataloader.persistent_workers": False for split in ("train", "val", "test")},
    "train_cfg.max_epochs": 1,
    "param_scheduler": [{"type": "ConstantLR", "factor": 1.0}],  # no warm-up
    "default_hooks.logger.interval": 1,
    "log_level": "WARNING",
}
FEW_REGIONS = {
    "model.train_cfg.rpn.sampler.num": 32,
    **{f"model.{when}_cfg.rpn{name}.nms_pre": 100 for when, name in (("train", "_proposal"), ("test", ""))},
    **{f"model.{when}_cfg.rpn{name}.max_per_img": 20 for when, name in (("train", "_proposal"), ("test", ""))},
}
PLAIN_SCRIPT = """
import sys
from mmengine.config import Config
from mmengine.runner import Runner
for name in sys.argv[1:]:
    config = Config.fromfile(f"{name}.py")
    config.work_dir = name
    runner = Runner.from_cfg(config)
    before = runner.model.backbone.vit.blocks[0].attn.qkv.weight.sum().item()
    runner.train()
    assert runner.iter == 20, runner.iter
    losses = [value for value, _ in zip(*[runner.message_hub.get_scalar("train/loss").data[0]] * 2)]
    print(name, before, *losses, sep=",")
from mmdet.apis import DetInferencer, inference_detector, init_detector
for name in sys.argv[1:]:
    detector = init_detector(f"{name}/{name}.py", f"{name}/epoch_1.pth", device="cpu")
    assert len(detector.dataset_meta["classes"]) == 10
    inference_detector(detector, "digits/val/0000.png")
DetInferencer(f"{name}/{name}.py", f"{name}/epoch_1.pth", device="cpu", show_progress=False)("digits/val/0000.png")
"""


def five_lines(stock, run, options="taps=4", neck="FourTapFPN", width=24):
    return FIVE_LINES.format(stock=stock, start=STOCK[stock], run=run, options=options, neck=neck, width=width)


@pytest.mark.parametrize("stock", ["mask_rcnn/mask-rcnn", "retinanet/retinanet"])
def test_the_page_shows_the_five_lines_that_are_tested(stock):
    page = (Path(__file__).parents[2] / "docs" / "detection.md").read_text()
    lines = five_lines(stock, "runs/x", "taps=4, window_size=14", width=192).strip().splitlines()
    assert len(lines) == 5 and "\n".join(("```python", *lines, "```")) in page


@pytest.fixture(scope="module")
def stocks(tmp_path_factory):
    """A folder with digits, a run, and four stock configurations with five lines each; small.py of each is quick."""
    root = tmp_path_factory.mktemp("stock")
    make_digits(root / "digits", train=40, val=2)
    random_run(root / "run", "cskd", patch_size=16, depth=4)
    for stock in STOCK:
        name, masks = Path(stock).name, "mask" in stock
        (root / f"{name}_five.py").write_text(five_lines(stock, root / "run"))
        shrink(Config.fromfile(root / f"{name}_five.py"), root / "digits", masks).dump(root / f"{name}.py")
    return root


def shrink(config, digits, masks):
    """Return a five-line configuration made quick, with data of ten classes; what is stock about it stays."""
    annotations = {"type": "LoadAnnotations", "with_bbox": True, "with_mask": masks}
    steps = [{"type": "LoadImageFromFile"}, annotations, {"type": "Resize", "scale": (64, 64)}]
    for split, folder in (("train", "train"), ("val", "val"), ("test", "val")):
        place = {"ann_file": f"annotations/instances_{folder}.json", "data_prefix": {"img": f"{folder}/"}}
        place |= {"data_root": f"{digits}/", "metainfo": {"classes": tuple("0123456789")}}
        place["pipeline"] = [*steps, {"type": "PackDetInputs"}]
        config.merge_from_dict({f"{split}_dataloader.dataset.{key}": value for key, value in place.items()})
    for split in ("val", "test"):
        config[f"{split}_evaluator"].ann_file = f"{digits}/annotations/instances_val.json"
    config.merge_from_dict(SMALL)
    if "roi_head" in config.model:
        config.merge_from_dict(FEW_REGIONS)
    for _, head in parts(config.model):
        if "num_classes" in head:
            head.num_classes = 10
        if "fc_out_channels" in head:
            head.fc_out_channels = 32
    return config


@pytest.mark.gate
def test_stock_configurations_train_twenty_steps_in_a_script_that_knows_mmdet_alone(stocks):
    names = [Path(stock).name for stock in STOCK]
    (stocks / "plain.py").write_text(PLAIN_SCRIPT)
    done = run([sys.executable, "plain.py", *names], cwd=stocks)
    assert done.returncode == 0, done.stdout + done.stderr
    told = [line.split(",") for line in done.stdout.splitlines() if line.startswith(tuple(f"{n}," for n in names))]
    weights = load_checkpoint(stocks / "run").student.model.blocks[0].attn.qkv.weight.sum().item()
    assert [name for name, *_ in told] == names
    for _, before, *losses in told:
        assert float(before) == pytest.approx(weights, rel=1e-5) and len(losses) == 20
        assert sum(map(float, losses[-5:])) < sum(map(float, losses[:5]))


@pytest.mark.gate
@pytest.mark.parametrize("stock", sorted(STOCK))
def test_stock_configurations_train_through_our_command(stocks, tmp_path, capsys, stock):
    words = ["transfer", "--task", "own_detection", "--checkpoint", str(stocks / "run"), "--workers", "0"]
    words += ["--data-dir", str(stocks / "digits"), "--set", "detect.epochs=1", "--set", "detect.pictures=0"]
    words += ["--set", f'detect.config="{stocks / Path(stock).name}.py"', "--set", "data.num_classes=10"]
    assert main([*words, "--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]) == 0
    (file,) = (tmp_path / "results" / "records").glob("*.json")
    record = json.loads(file.read_text())
    assert "without KeyedCocoDataset and EpochSampler: a resumed run is not bit-identical" in record["note"]
    assert str(stocks) not in file.read_text() and 0 <= record["metrics"]["box_ap"] <= 1
    assert ("mask_ap" in record["metrics"]) == ("mask" in stock)
    assert record["config"]["mmengine"]["model"]["backbone"] == {"type": "PlainViT", "taps": 4}


@pytest.mark.parametrize(
    ("heads", "changes"),
    [
        ("class", {}),
        ("class+dist", {"distillation_token": "mean"}),
        ("class+dist+patch", {"stem": "conv"}),
        ("class+dist+patch", {"name": "vit_tiny_patch16_224"}),  # lends its register token
    ],
)
def test_a_described_student_takes_the_weights_of_the_one_it_describes(tmp_path, heads, changes):
    kind = {"class": "supervised", "class+dist": "deit"}.get(heads, "cskd")
    loaded = load_checkpoint(random_run(tmp_path / "run", kind, **changes))
    told = json.loads(json.dumps(describe_student(loaded.blueprint, loaded.image_size)))
    assert str(tmp_path) not in json.dumps(told)
    original, built = PlainViT(loaded.student.model).eval(), PlainViT(**told).eval()
    built.load_state_dict(original.state_dict())
    assert type(built.vit) is type(original.vit) and torch.equal(built(IMAGES)[0], original(IMAGES)[0])


def test_a_described_timm_model_takes_the_weights_of_the_one_it_describes(tmp_path):
    vit = timm.create_model("deit_tiny_distilled_patch16_224", img_size=64, num_classes=3)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    loaded = load_checkpoint(tmp_path / "vit.safetensors", model="deit_tiny_distilled_patch16_224", image_size=32)
    built = PlainViT(**describe_student(loaded.blueprint, loaded.image_size)).eval()
    original = PlainViT(loaded.student.model).eval()
    built.load_state_dict(original.state_dict())
    assert torch.equal(built(IMAGES)[0], original(IMAGES)[0])


def test_a_run_its_export_and_its_weights_file_are_the_same_backbone(tmp_path):
    folder = random_run(tmp_path / "run", "cskd")
    expected = PlainViT(load_checkpoint(folder).student.model).eval()(IMAGES)[0]
    assert main(["export", "--checkpoint", str(folder), "--to", "timm", "--output", str(tmp_path / "export")]) == 0
    options = {"img_size": 32, "num_classes": 3, **{key: STUDENT[key] for key in STUDENT.keys() - {"image_size"}}}
    for named in (
        {"run": str(folder)},
        {"run": str(tmp_path / "export")},
        {"run": str(tmp_path / "export" / "model.safetensors")},
        {"timm": "deit_tiny_distilled_patch16_224", "options": options, "weights": str(folder / "model.safetensors")},
    ):
        assert torch.equal(PlainViT(**named).eval()(IMAGES)[0], expected), named


def no_vit(folder):
    save_file(timm.create_model("test_byobnet", num_classes=3).state_dict(), folder / "cnn.safetensors")
    return {"timm": "test_byobnet", "weights": str(folder / "cnn.safetensors")}


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ({"run": "no/such"}, r"^no/such: no such run; give the folder"),
        ({"run": "{run}/model.safetensors"}, r"model.safetensors: a weights file needs .* timm=NAME, weights='"),
        ({"run": "{here}"}, r"not a finished run"),
        ({}, r"^PlainViT: give one student"),
        ({"run": "{run}", "timm": "deit_tiny_patch16_224"}, r"^PlainViT: give one student"),
        ({"run": "{run}", "weights": "x"}, r"^PlainViT: weights and options belong to timm=NAME"),
        ({"timm": "deit_tinny_patch16_224"}, r"deit_tinny"),
        ({"timm": "test_byobnet"}, r"^detection needs a plain ViT with patch tokens, not a ByobNet"),
        ({"student": {"name": "x"}, "image_size": 32}, r"^PlainViT.student: .*heads"),
        ({"student": {"name": "x"}}, r"^PlainViT.student: needs image_size"),
    ],
)
def test_what_is_no_student_is_told_in_our_sentence_by_mmdets_registry(tmp_path, named, sentence):
    from mmdet.registry import MODELS

    folder = random_run(tmp_path / "run", "cskd")
    places = {"run": folder, "here": tmp_path}
    filled = {key: value.format(**places) if isinstance(value, str) else value for key, value in named.items()}
    with pytest.raises(UserError, match=sentence):
        MODELS.build({"type": "PlainViT", **filled})


def test_pixels_other_than_imagenets_are_told_with_what_to_write(tmp_path):
    options = {"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 2}
    half = [127.5, 127.5, 127.5]
    with pytest.warns(UserWarning, match="vit_tiny_patch16_224: expects model.data_preprocessor to have mean") as said:
        PlainViT(timm="vit_tiny_patch16_224", options=options)
    assert f"mean={half} and std={half}" in str(said[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PlainViT(timm="deit_tiny_patch16_224", options=options)
        PlainViT(run=str(random_run(tmp_path / "run", "cskd")))
