"""Configurations: every shipped one builds its detector; the student, the task and --set decide the rest."""

import pytest
import timm
import torch

from cskd_bench.errors import UserError
from cskd_bench.schema import shipped
from cskd_bench.task import DetectConfig

pytest.importorskip("mmdet", reason="the detection extra is not installed")

from cskd_bench.detection import operators
from cskd_bench.detection.settings import StudentFacts, complete, config_file, library_seed

operators.install()

TINY = StudentFacts(width=192, patch_size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


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
    assert config.model.rpn_head.anchor_generator.strides == [4, 8, 16, 32, 64]
    for step in config.train_dataloader.dataset.pipeline:
        if step.type == "LoadAnnotations":
            assert step.with_mask == ("mask_head" in config.model.roi_head)
    config.model.backbone.vit = timm.create_model("deit_tiny_patch16_224", depth=4)
    detector = MODELS.build(config.model)
    levels = detector.extract_feat(torch.randn(1, 3, 96, 64))
    assert [tuple(level.shape[-2:]) for level in levels] == [(24, 16), (12, 8), (6, 4), (3, 2), (2, 1)]


def test_seeds_beyond_those_of_numpy_are_folded_and_smaller_ones_stay():
    """A loader's worker adds its number to the seed, and numpy takes 32 bits."""
    assert [library_seed(seed) for seed in (0, 7, 2**32 - 2**16 - 1)] == [0, 7, 2**32 - 2**16 - 1]
    folded = [library_seed(seed) for seed in (2**32 - 1, 2**32, 2**63 - 1)]
    assert len(set(folded)) == 3 and max(folded) < 2**32 - 2**16
    config = complete(DetectConfig(config="digits"), TINY, ["cat"], seed=2**63 - 1)
    assert config.randomness.seed == folded[2] and config.train_dataloader.sampler.seed == 2**63 - 1


def test_a_configuration_is_chosen_by_the_students_width():
    assert config_file("mask_rcnn_1x", 192).name == "mask_rcnn_1x_tiny.py"
    assert config_file("mask_rcnn_1x", 384).name == "mask_rcnn_1x_small.py"
    assert config_file("mask_rcnn_1x", 768).name == "mask_rcnn_1x_base.py"
    with pytest.raises(UserError, match="there are coco_mini, digits, faster_rcnn_1x, faster_rcnn_3x, mask_rcnn_1x"):
        config_file("no_such", 192)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("model = dict(", "cannot be read"), ("1 / 0", "cannot be read"), ("model = dict(neck=dict())", "lacks what")],
)
def test_a_configuration_that_is_none_is_refused(tmp_path, content, sentence):
    file = tmp_path / "mine.py"
    file.write_text(content)
    with pytest.raises(UserError, match=f"mine.py: {sentence}"):
        complete(DetectConfig(config=str(file)), TINY, ["cat"], 0)


def test_fewer_epochs_shrink_the_schedule_in_proportion():
    config = complete(DetectConfig(config="mask_rcnn_3x", epochs=12, lr=2e-4, batch_size=8), TINY, ["cat"], 0)
    assert config.train_cfg.max_epochs == 12
    assert config.param_scheduler[1].milestones == [9, 11] and config.param_scheduler[1].end == 12
    assert config.optim_wrapper.optimizer.lr == 2e-4 and config.train_dataloader.batch_size == 8
