"""Crops and their parameters are functions of the key, and close to what PIL and timm make."""

import numpy as np
import pytest
import torch
from PIL import Image

from cskd_bench.config import AugmentConfig, DataConfig
from cskd_bench.data.keys import ViewKey
from cskd_bench.data.open import open_source
from cskd_bench.data.tensor.crops import TensorViews, cut
from cskd_bench.data.tensor.parameters import Crop, Operation, draw_crop, draw_operations, parse_rand_augment
from cskd_bench.data.view_plan import ViewPlan
from cskd_bench.errors import UserError

RECIPE = AugmentConfig()


@pytest.fixture
def photographs(tmp_path):
    """Two classes of three JPEGs each, smooth colours; one file is a PNG by another name."""
    draw = np.random.default_rng(0)
    for number in range(6):
        picture = Image.fromarray(draw.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((90, 75))
        folder = tmp_path / "train" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{number}.jpg", "PNG" if number == 3 else "JPEG", quality=90)
    return DataConfig(root=str(tmp_path), num_classes=2)


def views(data: DataConfig, keys, augment=RECIPE, size=32, seed=0):
    return TensorViews(open_source(data, "train"), augment, size, seed, data).__getitems__(keys)


def test_a_view_does_not_depend_on_its_batch(photographs):
    keys = ViewPlan(6, 6, 3, 2, 0).keys(1)
    together = views(photographs, keys)
    assert together.pixels.shape == (6, 3, 32, 32) and together.pixels.dtype == torch.uint8
    for row, key in enumerate(keys):
        alone = views(photographs, [key])
        assert torch.equal(alone.pixels[0], together.pixels[row])
        assert np.array_equal(alone.operations.kinds[0], together.operations.kinds[row])
    assert not torch.equal(together.pixels[0], together.pixels[1])  # two repeats of one image


def test_decoding_is_pils_within_rounding(photographs):
    whole = AugmentConfig(crop_scale=(1.0, 1.0), crop_ratio=(1.2, 1.2), hflip=0.0, auto_augment="")
    source = open_source(photographs, "train")
    for index in range(6):
        batch = views(photographs, [ViewKey(0, 0, index, 0)], whole, 60)
        expected = source.load(index).resize((60, 60), Image.Resampling.BICUBIC)
        gap = np.abs(batch.pixels[0].permute(1, 2, 0).numpy().astype(int) - np.asarray(expected).astype(int))
        assert gap.max() <= 3 and gap.mean() < 0.5


def test_a_photograph_is_turned_as_pil_turns_it(photographs):
    source = open_source(photographs, "train")
    exif = Image.Exif()
    exif[0x0112] = 8
    with Image.open(source.paths[0]) as image:
        image.save(source.paths[0], exif=exif)
    whole = AugmentConfig(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), hflip=0.0, auto_augment="")
    crop = draw_crop(ViewKey(0, 0, 0, 0), (90, 75), whole, 0)
    batch = views(photographs, [ViewKey(0, 0, 0, 0)], whole, 60)
    upright = torch.from_numpy(np.array(source.load(0))).permute(2, 0, 1)
    assert upright.shape == (3, 90, 75)
    assert torch.equal(batch.pixels[0], cut(upright, crop, 60, whole.interpolation))


def test_a_damaged_file_follows_the_policy(photographs):
    source = open_source(photographs, "train")
    source.paths[2].write_bytes(source.paths[2].read_bytes()[:200])
    with pytest.raises(UserError, match=r"4\.jpg: not a readable image"):
        views(photographs, [ViewKey(0, 0, 2, 0)])
    skipping = photographs.model_copy(update={"on_corrupt": "skip"})
    batch = views(skipping, [ViewKey(0, 0, 2, 0)])
    assert len(batch.skipped) == 1 and batch.labels.tolist() == [1]


def test_flip_and_crop_are_the_ones_drawn():
    image = torch.arange(3 * 8 * 8, dtype=torch.uint8).view(3, 8, 8)
    assert torch.equal(cut(image, Crop(2, 1, 4, 4, False), 4, "bicubic"), image[:, 2:6, 1:5])
    assert torch.equal(cut(image, Crop(2, 1, 4, 4, True), 4, "bicubic"), image[:, 2:6, 1:5].flip(-1))


def test_crops_cover_the_recipes_range_of_area_and_ratio():
    crops = [draw_crop(ViewKey(0, 0, index, 0), (300, 400), RECIPE, 0) for index in range(2000)]
    area = np.array([crop.height * crop.width for crop in crops]) / (300 * 400)
    ratio = np.array([crop.width / crop.height for crop in crops])
    assert 0.07 < area.min() < 0.1 and area.max() > 0.9
    assert 0.74 < ratio.min() < 0.77 and 1.3 < ratio.max() < 1.36
    assert np.mean([crop.flip for crop in crops]) == pytest.approx(0.5, abs=0.04)
    assert all(crop.top + crop.height <= 300 and crop.left + crop.width <= 400 for crop in crops)


def test_a_very_wide_image_falls_back_to_its_centre():
    crop = draw_crop(ViewKey(0, 0, 0, 0), (10, 1000), AugmentConfig(crop_scale=(0.9, 1.0)), 0)
    assert (crop.top, crop.left, crop.height, crop.width) == (0, 493, 10, 13)


def test_operations_are_drawn_as_often_as_timm_does():
    keys = [ViewKey(0, 0, index, 0) for index in range(4000)]
    drawn = draw_operations(keys, RECIPE, 0)
    assert drawn.kinds.shape == drawn.values.shape == (4000, 2)
    assert np.mean(drawn.kinds == Operation.NONE) == pytest.approx(0.5, abs=0.02)
    counts = np.bincount(drawn.kinds[drawn.kinds >= 0].ravel(), minlength=15)
    assert counts.min() > 180 and counts.max() < 360
    degrees = drawn.values[drawn.kinds == Operation.ROTATE]
    assert np.abs(degrees).mean() == pytest.approx(27, abs=0.3) and np.abs(degrees).max() <= 30
    assert np.mean(degrees > 0) == pytest.approx(0.5, abs=0.12)


def test_operations_are_a_function_of_epoch_image_and_repeat_alone():
    def drawn(epoch=0, position=0, index=0, repeat=0, seed=0):
        return draw_operations([ViewKey(epoch, position, index + i, repeat) for i in range(30)], RECIPE, seed)

    once = drawn()
    assert np.array_equal(drawn(position=5).kinds, once.kinds) and np.array_equal(drawn(position=5).values, once.values)
    for change in ({"epoch": 1}, {"index": 30}, {"repeat": 1}, {"seed": 1}):
        assert not np.array_equal(drawn(**change).kinds, once.kinds)


def test_without_rand_augment_colours_jitter_in_random_order():
    drawn = draw_operations([ViewKey(0, 0, i, 0) for i in range(200)], AugmentConfig(auto_augment=""), 0)
    assert {tuple(sorted(row)) for row in drawn.kinds.tolist()} == {(7, 8, 9)}
    assert len({tuple(row) for row in drawn.kinds.tolist()}) == 6
    assert drawn.values.min() >= 0.7 and drawn.values.max() <= 1.3


@pytest.mark.parametrize(
    "text",
    [
        *("augmix-m5", "rand-m9", "rand-m9-inc1-tweights", "original", "rand-m9-inc1-mmax20"),
        *("rand-m9-n2.5-inc1", "rand-m9.1.1-inc1", "rand-m-inc1"),
    ],
)
def test_other_policies_are_refused(text):
    with pytest.raises(UserError, match=r"use recipe\.augment\.engine"):
        parse_rand_augment(text)
