"""Three-augment: one of grey, solarise and blur for every view, by its key alone, in both engines."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from timm.data.auto_augment import auto_augment_policy

from cskd_bench.config import CSKD, AugmentConfig, PretrainConfig
from cskd_bench.data.keys import ViewKey
from cskd_bench.data.tensor.blur import box_weights
from cskd_bench.data.tensor.operations import apply_operations
from cskd_bench.data.tensor.parameters import Operation, Operations, draw_operations
from cskd_bench.data.views import TrainView
from cskd_bench.errors import UserError
from cskd_bench.schema import validate

STILL = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "hflip": 0.0}
THREE = AugmentConfig(policy="three", **STILL)
PLAIN = THREE.model_copy(update={"color_jitter": 0.0})
KEYS = [ViewKey(0, 0, index, 0) for index in range(600)]


def picture(size=32, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def to_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def kind_of(view, image):
    """Tell which of the three made a view of an image."""
    if torch.equal(view, to_tensor(ImageOps.grayscale(image).convert("RGB"))):
        return Operation.COLOR
    if torch.equal(view, to_tensor(ImageOps.solarize(image))):
        return Operation.SOLARIZE
    return Operation.BLUR


def slow_blur(values, radius):
    """Blur one line of 0..255 as Pillow documents it: three box blurs, each rounded, edges repeated."""
    spread = math.sqrt(12 * radius**2 / 3 + 1)
    inner = int((spread - 1) / 2)
    outer = (2 * inner + 1) * (inner * (inner + 1) - radius**2) / (6 * (radius**2 / 3 - (inner + 1) ** 2))
    for _ in range(3):
        line = []
        for x in range(len(values)):
            total = 0.0
            for step in range(-inner - 1, inner + 2):
                near = values[min(max(x + step, 0), len(values) - 1)]
                total += near * (outer if abs(step) > inner else 1.0)
            line.append(math.floor(total / (2 * (inner + outer) + 1) + 0.5))
        values = line
    return values


@pytest.mark.parametrize("size", [1, 2, 3, 48])
def test_blur_gives_pils_very_pixels(size):
    draw = np.random.default_rng(0)
    radii = np.concatenate([[0.1, 0.5, 1.0, 1.4142, 1.7, 2.0], draw.uniform(0.1, 2.0, 40)]).astype(np.float32)
    images = [picture(size, seed) for seed in range(len(radii))]
    layer = Operations(np.full((len(radii), 1), Operation.BLUR, dtype=np.int8), radii[:, None])
    found = apply_operations(torch.stack([to_tensor(image) for image in images]), layer)
    for view, image, radius in zip(found, images, radii, strict=True):
        assert torch.equal(view, to_tensor(image.filter(ImageFilter.GaussianBlur(float(radius)))))


@pytest.mark.parametrize("radius", [0.1, 0.6, 1.3, 2.0])
def test_blur_is_three_box_blurs_along_either_axis(radius):
    """The reference is Pillow's description in plain floats: a rounding may fall either way, no more."""
    line = np.random.default_rng(1).integers(0, 256, 20).tolist()
    expected = torch.tensor(slow_blur(line, radius))
    flat = torch.tensor(line, dtype=torch.uint8).expand(1, 3, 20, 20).clone()
    layer = Operations(np.full((1, 1), Operation.BLUR, dtype=np.int8), np.full((1, 1), radius, dtype=np.float32))
    rows = apply_operations(flat.clone(), layer)[0, 0]
    columns = apply_operations(flat.transpose(2, 3).clone(), layer)[0, 0].T
    assert torch.equal(rows, columns)
    assert (rows.int() - expected).abs().max() <= 1


def test_a_box_weighs_what_it_covers():
    middle, near, outer = box_weights(np.linspace(0.1, 2.4, 100, dtype=np.float32))
    assert (np.abs(middle + 2 * near + 2 * outer - 2**24) <= 1).all()
    assert (middle >= near).all() and (near >= outer).all() and (outer >= 0).all()


@pytest.mark.parametrize(
    ("name", "kind", "value"), [("Desaturate", Operation.COLOR, 0.0), ("Solarize", Operation.SOLARIZE, 128.0)]
)
def test_the_device_does_what_timms_policy_does(name, kind, value):
    """Blur, the third, is above; its radius is drawn inside timm's operation."""
    policy = {operation.name: operation for (operation,) in auto_augment_policy("3a")}
    assert policy.keys() == {"Desaturate", "Solarize", "GaussianBlurRand"}
    layer = Operations(np.full((1, 1), kind, dtype=np.int8), np.full((1, 1), value, dtype=np.float32))
    image = picture(48)
    assert torch.equal(apply_operations(to_tensor(image)[None], layer)[0], to_tensor(policy[name](image)))


def test_workers_draw_each_of_the_three_equally_often():
    image, view = picture(), TrainView(PLAIN, 32, 0)
    counts = Counter(kind_of(view(image, key.epoch, key.index, key.repeat), image) for key in KEYS)
    assert len(counts) == 3
    assert all(count == pytest.approx(200, abs=45) for count in counts.values())  # four standard deviations


def test_the_device_draws_each_of_the_three_equally_often_and_then_jitters():
    drawn = draw_operations(KEYS, THREE, 0)
    first = Counter(drawn.kinds[:, 0].tolist())
    assert first.keys() == {Operation.COLOR, Operation.SOLARIZE, Operation.BLUR}
    assert all(count == pytest.approx(200, abs=45) for count in first.values())
    assert {tuple(sorted(row)) for row in drawn.kinds[:, 1:].tolist()} == {(7, 8, 9)}
    radii = drawn.values[:, 0][drawn.kinds[:, 0] == Operation.BLUR]
    assert 0.1 <= radii.min() < 0.2 and 1.9 < radii.max() <= 2.0
    assert radii.mean() == pytest.approx(1.05, abs=0.15)
    values = {kind: set(drawn.values[:, 0][drawn.kinds[:, 0] == kind].tolist()) for kind in (5, 7)}
    assert values == {5: {128.0}, 7: {0.0}}


def test_a_draw_is_a_function_of_the_key():
    def pil(epoch=0, index=0, repeat=0, seed=0):
        view = TrainView(THREE, 32, seed)
        return torch.stack([view(picture(), epoch, index + step, repeat) for step in range(6)])

    def tensor(epoch=0, index=0, repeat=0, seed=0):
        drawn = draw_operations([ViewKey(epoch, 0, index + step, repeat) for step in range(6)], THREE, seed)
        return torch.from_numpy(drawn.values)

    for make in (pil, tensor):
        assert torch.equal(make(), make())
        for change in ({"epoch": 1}, {"index": 6}, {"repeat": 1}, {"seed": 1}):
            assert not torch.equal(make(**change), make())


def test_settings_name_one_policy_in_one_way():
    run = PretrainConfig(name="run", method=CSKD())
    assert "policy" not in run.identity()["recipe"]["augment"]
    ways = [{}, {"auto_augment": ""}, {"auto_augment": AugmentConfig().auto_augment}]
    found = [validate(AugmentConfig, {"policy": "three", **way}, "here") for way in ways]
    assert found[0] == found[1] == found[2] and found[0].auto_augment == ""
    assert AugmentConfig.model_validate_json(found[0].model_dump_json()) == found[0]
    with pytest.raises(UserError, match="does without auto_augment 'rand-m7-inc1'; leave one"):
        validate(AugmentConfig, {"policy": "three", "auto_augment": "rand-m7-inc1"}, "here")
