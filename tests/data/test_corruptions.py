"""Corruptions: the parameters of ImageNet-C, each beside a slow computation; the same pixels for every model."""

import colorsys
import io

import numpy as np
import pytest
from PIL import Image

from cskd_bench.config import DataConfig
from cskd_bench.data.corruptions import CORRUPTIONS, CorruptedSource
from cskd_bench.data.open import open_source
from cskd_bench.data.sources import ArraySource
from cskd_bench.errors import UserError


def photo_like(height=40, width=56):
    """Smooth colours with a few edges, away from black and white."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 7), np.cos(y / 5), np.sin((x + y) / 9)]
    pixels = np.stack([128 + 60 * wave for wave in waves], axis=2)
    pixels[10:20, 15:30] = (60, 160, 110)
    return pixels.astype(np.uint8)


CLEAN = photo_like()


def corrupted(corruption, index=0, pixels=CLEAN):
    source = ArraySource(np.stack([pixels] * (index + 1)), np.zeros(index + 1), ["only"])
    return np.asarray(CorruptedSource(source, corruption).load(index)).astype(int)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_severity_is_further_from_the_image_and_keeps_its_size(name):
    distances = [np.abs(corrupted(f"{name}/{s}") - CLEAN).mean() for s in range(1, 6)]
    assert corrupted(f"{name}/5").shape == CLEAN.shape
    assert distances[0] > 0.5
    assert distances == sorted(distances)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_draws_belong_to_the_image_and_its_severity(name):
    noisy = name.endswith("noise")
    assert np.array_equal(corrupted(f"{name}/2", index=1), corrupted(f"{name}/2", index=1))
    assert np.array_equal(corrupted(f"{name}/2", index=0), corrupted(f"{name}/2", index=1)) is not noisy


def test_noise_has_its_published_size():
    grey = np.full((200, 200, 3), 128, np.uint8)
    assert corrupted("gaussian_noise/2", pixels=grey).std() / 255 == pytest.approx(0.12, rel=0.02)
    assert corrupted("shot_noise/3", pixels=grey).std() / 255 == pytest.approx((0.5 / 12) ** 0.5, rel=0.03)
    values, counts = np.unique(corrupted("impulse_noise/4", pixels=grey), return_counts=True)
    assert values.tolist() == [0, 128, 255]
    assert (counts / counts.sum()).tolist() == pytest.approx([0.085, 0.83, 0.085], abs=0.01)


def test_defocus_is_the_mean_over_a_disc():
    radius, mirrored = 4, np.pad(CLEAN / 255, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    inside = [(i, j) for i in range(-4, 5) for j in range(-4, 5) if i * i + j * j <= radius**2]
    slow = np.mean([mirrored[4 + i : 4 + i + 40, 4 + j : 4 + j + 56] for i, j in inside], axis=0)
    assert np.abs(corrupted("defocus_blur/2") - slow * 255).max() <= 0.51


def test_an_image_smaller_than_the_disc_is_blurred_too():
    assert corrupted("defocus_blur/5", pixels=CLEAN[:3, :2]).shape == (3, 2, 3)


def test_contrast_shrinks_towards_each_channels_mean():
    means = CLEAN.mean((0, 1))
    assert np.abs(corrupted("contrast/3") - ((CLEAN - means) * 0.2 + means)).max() <= 0.51


def test_brightness_raises_value_and_keeps_hue_and_saturation():
    found = corrupted("brightness/2")
    for y, x in [(0, 0), (15, 20), (39, 55)]:
        hue, saturation, value = colorsys.rgb_to_hsv(*(CLEAN[y, x] / 255))
        expected = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.2, 1))
        assert found[y, x].tolist() == pytest.approx([255 * part for part in expected], abs=0.51)
    black = np.zeros((4, 4, 3), np.uint8)
    assert (corrupted("brightness/1", pixels=black) == 26).all()


def test_pixels_become_blocks_and_jpeg_is_jpeg():
    assert len(np.unique(corrupted("pixelate/5").reshape(-1, 3), axis=0)) <= int(40 * 0.25) * int(56 * 0.25)
    stored = io.BytesIO()
    Image.fromarray(CLEAN).save(stored, "JPEG", quality=15)
    assert np.array_equal(corrupted("jpeg_compression/3"), np.asarray(Image.open(stored)))


def test_a_split_names_its_corruption(colour_squares):
    data = DataConfig(root=str(colour_squares), num_classes=3)
    clean, foggy = open_source(data, "val"), open_source(data, "val@contrast/3")
    assert foggy.labels.tolist() == clean.labels.tolist()
    assert foggy.identity != clean.identity
    assert len(open_source(data, "val@contrast/3+val@pixelate/1")) == 2 * len(clean)


@pytest.mark.parametrize("corruption", ["fog/3", "contrast", "contrast/6", "contrast/0"])
def test_an_unknown_corruption_is_named(colour_squares, corruption):
    with pytest.raises(UserError, match=f"split ...@{corruption}: no such corruption.*gaussian_noise"):
        open_source(DataConfig(root=str(colour_squares), num_classes=3), f"val@{corruption}")
