"""Configurations: every shipped one builds its detector; the student, the task and --set decide the rest."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

from cskd_bench.errors import UserError
from cskd_bench.schema import fingerprint, shipped
from cskd_bench.task import DetectConfig

pytest.importorskip("mmdet", reason="the detection extra is not installed")

from cskd_bench.detection import operators
from cskd_bench.detection.fitting import StudentFacts, has_masks
from cskd_bench.detection.settings import comparable, complete, config_file, library_seed

operators.install()

FIVE_LINES = """
_base_ = "mmdet::{stock}_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["cskd_bench.detection.mmdet_plugin"])
model = dict(backbone=dict(_delete_=True, type="PlainViT", run="/home/me/run", taps=4, window_size=14))
model["neck"] = dict(_delete_=True, type="FourTapFPN", in_channels=7, out_channels=256, start_level={start})
"""
DIGITS = f'_base_ = "{shipped("configs") / "detection" / "digits.py"}"\n'
KEYED_ALONE = DIGITS + "train_dataloader = dict(sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True))"
NO_METRIC = DIGITS + "val_evaluator = dict(_delete_=True, type='VOCMetric')"
TINY = StudentFacts(width=192, patch_size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


RESOLVED = json.loads((Path(__file__).parents[1] / "fixtures" / "detection_configs.json").read_text())


def names_of_configs():
    return sorted(file.stem for file in (shipped("configs") / "detection").glob("*.py"))


@pytest.mark.parametrize("name", names_of_configs())
def test_every_shipped_configuration_builds_its_detector(name):
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules

    from cskd_bench.detection import components

    register_all_modules(init_default_scope=True)
    components.register()
    config = complete(DetectConfig(config=name), TINY, ["cat", "dog"], seed=3)
    assert config.train_dataloader.sampler.seed == config.train_dataloader.dataset.seed == 3
    strides, sides = [4, 8, 16, 32, 64], [(24, 16), (12, 8), (6, 4), (3, 2), (2, 1)]
    if name == "camvid_cars":  # one stage, on three levels
        strides, sides = strides[1:4], sides[1:4]
    assert (config.model.get("rpn_head") or config.model.bbox_head).anchor_generator.strides == strides
    for step in config.train_dataloader.dataset.pipeline:
        if step.type == "LoadAnnotations":
            assert step.with_mask == has_masks(config) == name.startswith(("mask", "vitdet", "digits"))
    config.model.backbone.vit = timm.create_model("deit_tiny_patch16_224", depth=4)
    detector = MODELS.build(config.model)
    levels = detector.extract_feat(torch.randn(1, 3, 96, 64))
    assert [tuple(level.shape[-2:]) for level in levels] == sides


def test_seeds_beyond_those_of_numpy_are_folded_and_smaller_ones_stay():
    """A loader's worker adds its number to the seed, and numpy takes 32 bits."""
    assert [library_seed(seed) for seed in (0, 7, 2**32 - 2**16 - 1)] == [0, 7, 2**32 - 2**16 - 1]
    folded = [library_seed(seed) for seed in (2**32 - 1, 2**32, 2**63 - 1)]
    assert len(set(folded)) == 3 and max(folded) < 2**32 - 2**16
    config = complete(DetectConfig(config="digits"), TINY, ["cat"], seed=2**63 - 1)
    assert config.randomness.seed == folded[2] and config.train_dataloader.sampler.seed == 2**63 - 1


@pytest.mark.parametrize("told", sorted(RESOLVED))
def test_what_a_name_comes_to_for_a_students_width_has_not_changed(told):
    """The golden file was made when each width had files of its own, which records were made with."""
    name, width = told.split()
    facts = StudentFacts(int(width), 16, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert fingerprint(comparable(complete(DetectConfig(config=name), facts, ["cat", "dog"], 3))) == RESOLVED[told]


def test_a_width_between_two_sizes_takes_the_larger_ones_settings():
    rates = {}
    for width in (48, 192, 200, 384, 385, 1024):
        config = complete(DetectConfig(config="mask_rcnn_1x"), replace(TINY, width=width), ["cat"], 0)
        rates[width] = config.model.backbone.drop_path
    assert rates == {48: 0.1, 192: 0.1, 200: 0.2, 384: 0.2, 385: 0.3, 1024: 0.3}


def test_a_name_that_no_configuration_has_is_told_with_those_there_are():
    with pytest.raises(UserError, match="there are camvid_cars, coco_mini, digits, faster_rcnn_1x, faster_rcnn_3x,"):
        config_file("no_such")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("model = dict(", "cannot be read"),
        ("1 / 0", "cannot be read"),
        ("model = dict(neck=dict())", "lacks what"),
        ('_base_ = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"', "model.backbone is 'ResNet'"),
        (KEYED_ALONE, "KeyedCocoDataset and EpochSampler belong together"),
        (NO_METRIC, "val_evaluator: has no CocoMetric"),
    ],
)
def test_a_configuration_that_is_none_is_refused(tmp_path, content, sentence):
    file = tmp_path / "mine.py"
    file.write_text(content)
    with pytest.raises(UserError, match=f"mine.py: {sentence}"):
        complete(DetectConfig(config=str(file)), TINY, ["cat"], 0)


def test_a_backbone_is_frozen_where_the_task_says_so():
    for frozen in (False, True):
        config = complete(DetectConfig(config="faster_rcnn_1x", frozen=frozen), TINY, ["cat"], 0)
        assert config.model.backbone.get("frozen", False) is frozen


def test_fewer_epochs_shrink_the_schedule_in_proportion():
    config = complete(DetectConfig(config="mask_rcnn_3x", epochs=12, lr=2e-4, batch_size=8), TINY, ["cat"], 0)
    assert config.train_cfg.max_epochs == 12
    assert config.param_scheduler[1].milestones == [9, 11] and config.param_scheduler[1].end == 12
    assert config.optim_wrapper.optimizer.lr == 2e-4 and config.train_dataloader.batch_size == 8


STOCK = {
    "mask_rcnn/mask-rcnn": (0, True),
    "cascade_rcnn/cascade-rcnn": (0, False),
    "cascade_rcnn/cascade-mask-rcnn": (0, True),
    "retinanet/retinanet": (1, False),
    "atss/atss": (1, False),
}


def completed(file, text, **facts):
    file.write_text(text)
    return complete(DetectConfig(config=str(file)), replace(TINY, **facts), ["cat", "dog"], seed=3)


@pytest.mark.parametrize("stock", sorted(STOCK))
@pytest.mark.parametrize("patch", [8, 16])
def test_a_stock_configuration_follows_the_student_wherever_it_has_its_heads(tmp_path, stock, patch):
    start, masks = STOCK[stock]
    config = completed(tmp_path / "own.py", FIVE_LINES.format(stock=stock, start=start), patch_size=patch)
    model, strides = config.model, [patch * 2**level // 4 for level in range(start, start + 5)]
    assert has_masks(config) is masks and model.neck.in_channels == 192
    assert model.data_preprocessor.mean == [127.5] * 3 and model.data_preprocessor.pad_size_divisor == 2 * patch
    if start:
        assert model.bbox_head.num_classes == 2 and model.bbox_head.anchor_generator.strides == strides
    else:
        assert model.rpn_head.anchor_generator.strides == strides and "num_classes" not in model.rpn_head
        assert model.roi_head.bbox_roi_extractor.featmap_strides == strides[:4]
        heads = model.roi_head.bbox_head if "cascade" in stock else [model.roi_head.bbox_head]
        masked = model.roi_head.get("mask_head") or []
        heads += masked if isinstance(masked, list) else [masked]
        assert len(heads) >= 1 and {head.num_classes for head in heads} == {2}
    assert "seed" not in config.train_dataloader.sampler and "seed" not in config.train_dataloader.dataset
    assert config.randomness == {"seed": 3}
    said = json.dumps(comparable(config))
    assert "/home/me" not in said and "data/coco" not in said and "annotations/" not in said


def test_a_data_set_within_others_gets_the_classes_and_its_steps_follow_the_masks(tmp_path):
    text = FIVE_LINES.format(stock="cascade_rcnn/cascade-rcnn", start=0)
    text += """
load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True, with_mask=True)]
inner = dict(type="CocoDataset", ann_file="a.json", data_root="/home/me", pipeline=load)
balanced = dict(type="ClassBalancedDataset", oversample_thr=0.1, dataset=inner)
mixed = dict(type="MultiImageMixDataset", dataset=balanced, pipeline=[dict(type="PackDetInputs")])
train_dataloader = dict(dataset=dict(_delete_=True, type="RepeatDataset", times=2, dataset=mixed))
del load, inner, balanced, mixed
"""
    dataset = completed(tmp_path / "own.py", text).train_dataloader.dataset.dataset.dataset.dataset
    assert dataset.metainfo == {"classes": ("cat", "dog")} and "data_root" not in dataset
    assert not dataset.pipeline[1].with_mask
    several = text.replace('type="RepeatDataset", times=2, dataset=mixed', 'type="ConcatDataset", datasets=[mixed]')
    with pytest.raises(UserError, match=r"own.py: ConcatDataset: .*name one data set"):
        completed(tmp_path / "own.py", several)


def test_fewer_epochs_shrink_any_schedule(tmp_path):
    text = FIVE_LINES.format(stock="atss/atss", start=1)
    text += "param_scheduler = [dict(type='CosineAnnealingLR', begin=6, end=12, T_max=6)]"
    (tmp_path / "own.py").write_text(text)
    config = complete(DetectConfig(config=str(tmp_path / "own.py"), epochs=4), TINY, ["cat"], 0)
    assert dict(config.param_scheduler[0]) == {"type": "CosineAnnealingLR", "begin": 2, "end": 4, "T_max": 2}
