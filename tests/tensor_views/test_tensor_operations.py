"""Each batched operation beside PIL's, through timm's own functions: exact, but for the warps' kernel."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from timm.data import auto_augment as timm_ops

from cskd_bench.data.tensor.operations import FILL, apply_operations
from cskd_bench.data.tensor.parameters import Operation, Operations, operation_value

SIZE = 48
TIMM = {
    Operation.AUTO_CONTRAST: "AutoContrast",
    Operation.EQUALIZE: "Equalize",
    Operation.INVERT: "Invert",
    Operation.ROTATE: "Rotate",
    Operation.POSTERIZE: "PosterizeIncreasing",
    Operation.SOLARIZE: "SolarizeIncreasing",
    Operation.SOLARIZE_ADD: "SolarizeAdd",
    Operation.COLOR: "ColorIncreasing",
    Operation.CONTRAST: "ContrastIncreasing",
    Operation.BRIGHTNESS: "BrightnessIncreasing",
    Operation.SHARPNESS: "SharpnessIncreasing",
    Operation.SHEAR_X: "ShearX",
    Operation.SHEAR_Y: "ShearY",
    Operation.TRANSLATE_X: "TranslateXRel",
    Operation.TRANSLATE_Y: "TranslateYRel",
}
WARPS = [kind for kind in TIMM if kind.name.startswith(("ROTATE", "SHEAR_", "TRANSLATE"))]


def images() -> list[Image.Image]:
    """Smooth colours, noise, few levels, one flat channel, black, white."""
    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    noise = draw.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    few = draw.choice(np.array([3, 90, 91, 200], dtype=np.uint8), (SIZE, SIZE, 3))
    flat = noise.copy()
    flat[..., 1] = 77
    narrow = (100 + noise // 8).astype(np.uint8)
    arrays = [noise, few, flat, narrow, np.zeros_like(noise), np.full_like(noise, 255)]
    return [smooth, *map(Image.fromarray, arrays)]


def to_tensor(pictures: list[Image.Image]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures])


def ours(kind: Operation, value: float, pictures: list[Image.Image], interpolation: str = "bicubic") -> torch.Tensor:
    shape = (len(pictures), 1)
    operations = Operations(np.full(shape, kind, dtype=np.int8), np.full(shape, value, dtype=np.float32))
    return apply_operations(to_tensor(pictures), operations, interpolation)


def pil(kind: Operation, value: float, pictures: list[Image.Image], resample=Image.Resampling.BICUBIC) -> torch.Tensor:
    function = timm_ops.NAME_TO_OP[TIMM[kind]]
    arguments = () if timm_ops.LEVEL_TO_ARG[TIMM[kind]] is None else (value,)
    if kind in (Operation.POSTERIZE, Operation.SOLARIZE, Operation.SOLARIZE_ADD):
        arguments = (int(value),)
    return to_tensor([function(picture, *arguments, fillcolor=FILL, resample=resample) for picture in pictures])


@pytest.mark.parametrize("kind", [kind for kind in TIMM if kind not in WARPS], ids=lambda kind: kind.name)
@pytest.mark.parametrize("level", [0.0, 0.37, 0.86, 0.9, 0.95])
def test_tables_and_blends_are_exactly_pils(kind, level):
    for sign in (1.0, -1.0):
        value = float(np.float32(operation_value(kind, level, sign)))
        assert torch.equal(ours(kind, value, images()), pil(kind, value, images()))


@pytest.mark.parametrize("kind", WARPS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("level", [0.13, 0.86, 1.0])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_warps_agree_with_pil_within_the_kernels_difference(kind, level, interpolation):
    """On a smooth picture: bilinear within 1 level of 255, bicubic within 6 and 1 on average."""
    resample = Image.Resampling[interpolation.upper()]
    picture = images()[:1]
    for sign in (1.0, -1.0):
        value = operation_value(kind, level, sign)
        found, expected = ours(kind, value, picture, interpolation).int(), pil(kind, value, picture, resample).int()
        gap = (found - expected).abs().float()
        border = (gap.amax((0, 1)) > 6).float().mean()  # a pixel on the edge may fall on either side of it
        assert border < 0.01
        inner = gap[..., gap.amax((0, 1)) <= 6]
        assert inner.max() <= (1 if interpolation == "bilinear" else 6)
        assert inner.mean() < 1


@pytest.mark.parametrize("name", list(TIMM.values()))
def test_levels_are_timms(name, monkeypatch):
    kind = {value: key for key, value in TIMM.items()}[name]
    scale = timm_ops.LEVEL_TO_ARG[name]
    if scale is None:
        return
    for sign in (1.0, -1.0):
        monkeypatch.setattr(timm_ops, "_randomly_negate", lambda value, sign=sign: sign * value)
        for magnitude in (0.0, 4.9, 8.3, 9.0, 10.0):
            assert operation_value(kind, magnitude / 10, sign) == pytest.approx(scale(magnitude, {})[0])


def test_posterize_to_no_bits_is_black():
    """timm asks for it at magnitude 10, where Pillow 13 refuses and older ones gave black."""
    assert not ours(Operation.POSTERIZE, 0, images()).any()


def test_each_view_gets_its_own_operations_layer_after_layer():
    pictures = images()[:3]
    kinds = np.array([[2, -1], [9, 3], [-1, 7]], dtype=np.int8)
    values = np.array([[0, 0], [0.6, 20], [0, 1.7]], dtype=np.float32)
    found = apply_operations(to_tensor(pictures), Operations(kinds, values), "bilinear")
    for row in range(3):
        alone = to_tensor(pictures[row : row + 1])
        for layer in range(2):
            one = Operations(kinds[row : row + 1, layer : layer + 1], values[row : row + 1, layer : layer + 1])
            alone = apply_operations(alone, one, "bilinear")
        assert torch.equal(found[row], alone[0])


def test_colour_jitter_is_torchvisions_enhancers():
    factor = 1.2345
    for kind, enhancer in (
        (Operation.BRIGHTNESS, ImageEnhance.Brightness),
        (Operation.CONTRAST, ImageEnhance.Contrast),
        (Operation.COLOR, ImageEnhance.Color),
    ):
        expected = to_tensor([enhancer(picture).enhance(factor) for picture in images()])
        assert torch.equal(ours(kind, factor, images()), expected)
