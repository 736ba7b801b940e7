"""The gate for images: what comes out of each kind, and that anything else is a sentence."""

import io
import os
import struct
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from cskd_bench.data.decode import decode, upright_size
from cskd_bench.data.exif import jpeg_orientation, read_orientation
from cskd_bench.data.views import EvalView
from cskd_bench.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS)


def stored(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def grey(content):
    """Return the values of a grey image, whose three channels must be equal."""
    pixels = np.asarray(decode(content, "x"))
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def exif(value, *, kind=3, order="<", entries=1):
    """Return EXIF data with one entry, an orientation."""
    head = {"<": b"II*\0", ">": b"MM\0*"}[order]
    field = struct.pack(f"{order}HHI", 0x0112, kind, 1) + struct.pack(order + {3: "HH", 2: "HH", 4: "I"}[kind], *value)
    return b"Exif\0\0" + head + struct.pack(f"{order}IH", 8, entries) + field + b"\0\0\0\0"


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_sixteen_bits_lose_their_lower_eight(kind):
    values = np.asarray([[0, 255, 256, 511, 32_768, 65_279, 65_280, 65_535]], np.uint16).repeat(4, 0)
    content = stored(Image.fromarray(values), kind)
    assert np.array_equal(grey(content), values >> 8)


def test_sixteen_bits_in_the_other_byte_order_are_the_same():
    values = np.asarray([[0, 255, 4096, 65_535]], np.uint16)
    content = stored(Image.frombytes("I;16B", (4, 1), values.astype(">u2").tobytes()), "TIFF")
    assert np.array_equal(grey(content), values >> 8)


def test_twelve_packed_bits_lose_their_lower_four():
    """A TIFF of two values in three bytes, as some cameras write it."""
    tags = [(256, 4, 2), (257, 4, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 200), (277, 3, 1), (278, 4, 1)]
    tags.append((279, 4, 3))
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    content = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0" * 4
    content = content.ljust(200, b"\0") + bytes([0xFF, 0xF0, 0x80])  # 4095 and 128
    assert grey(content).tolist() == [[255, 8]]


def test_values_of_32_bits_are_taken_as_one_range_or_refused():
    whole, share = np.asarray([[0, 7, 255]], np.int32), np.asarray([[0, 0.5, 1]], np.float32)
    beyond = np.asarray([[np.nan, np.inf, 3e38]], np.float32)
    assert grey(stored(Image.fromarray(whole), "TIFF")).tolist() == [[0, 7, 255]]
    assert grey(stored(Image.fromarray(share), "TIFF")).tolist() == [[0, 128, 255]]
    for wrong in (whole + 1, whole - 1, share * 255, share - 1, *beyond.T[..., None]):
        said = "its values are .* of 32 bits from" if np.isfinite(wrong).all() else "some of its values are infinite or"
        with pytest.raises(UserError, match=rf"x: not a readable image \({said}"):
            decode(stored(Image.fromarray(wrong), "TIFF"), "x")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB"])
def test_every_mode_of_eight_bits_is_what_pillow_makes_of_it(mode):
    image = Image.new("LAB", (7, 5), (120, 3, 9)) if mode == "LAB" else PICTURE.convert(mode)
    content = stored(image, "TIFF")
    with Image.open(io.BytesIO(content)) as again:
        assert again.mode == mode
        expected = again.convert("RGB")
    assert np.array_equal(np.asarray(decode(content, "x")), np.asarray(expected))


def test_transparency_is_dropped_without_a_warning():
    palette = PICTURE.quantize(8)
    for transparency in (3, bytes(range(8))):
        content = stored(palette, transparency=transparency)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.array_equal(np.asarray(decode(content, "x")), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_of_several_frames_the_first_is_taken(kind):
    frames = [Image.new("RGB", (7, 5), colour) for colour in ((0, 0, 0), (255, 255, 255))]
    content = stored(frames[0], kind, save_all=True, append_images=frames[1:])
    assert np.asarray(decode(content, "x")).max() == 0


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "MPO"])
@pytest.mark.parametrize("value", range(1, 9))
def test_an_image_is_turned_as_its_exif_says(kind, value):
    data = Image.Exif()
    data[0x0112] = value
    content = stored(PICTURE, kind, exif=data)
    with Image.open(io.BytesIO(content)) as opened:
        expected = ImageOps.exif_transpose(opened).convert("RGB")
    found = decode(content, "x")
    assert np.array_equal(np.asarray(found), np.asarray(expected))
    assert found.size == upright_size(content) == ((5, 7) if value > 4 else (7, 5))
    if kind in ("JPEG", "MPO"):
        assert jpeg_orientation(content) == value


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (exif((6, 0)), 6),
        (exif((6, 0), order=">"), 6),
        (exif((6,), kind=4), 6),
        (exif((6, 0), kind=2), 1),  # a text
        (exif((0, 0)), 1),
        (exif((9, 0)), 1),
        (exif((6, 0), entries=60_000), 6),
        (exif((6, 0))[:16], 1),
        (b"Exif\0\0II*\0\xff\xff\xff\xff", 1),
        (b"no EXIF data", 1),
        (b"", 1),
    ],
)
def test_odd_exif_data_leave_an_image_as_it_is_stored(data, value):
    assert read_orientation(data) == value
    content = stored(PICTURE, "JPEG", exif=data)
    assert jpeg_orientation(content) == value
    assert decode(content, "x").size == ((5, 7) if value == 6 else (7, 5))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000", "PPM"])
def test_a_truncated_file_is_refused_whatever_another_library_set(kind, monkeypatch):
    content = stored(Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)), kind)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)

    def refused(part):
        with pytest.raises(UserError, match=r"x: not a readable image \(.+\)"):
            decode(content[: len(content) * part // 10], "x")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(refused, [1, 5, 8] * 4))
    assert ImageFile.LOAD_TRUNCATED_IMAGES  # as it was told


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"\0" * 2000, "its 2,000 bytes are all zero"),
        (b"\n<!DOCTYPE html>", "it is a web page, not an image"),
        (b"<HTML>", "it is a web page, not an image"),
        (b"version https://git-lfs.github.com/spec/v1", "it is a pointer of Git LFS"),
        (b"words", "it is damaged, or of a format that Pillow does not read"),
    ],
)
def test_the_reason_is_said(content, reason):
    with pytest.raises(UserError, match=rf"^a/0\.jpg: not a readable image \({reason}"):
        decode(content, "a/0.jpg")


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("deep"), KeyError("tag"), struct.error("4 bytes")])
def test_whatever_a_decoder_raises_is_one_sentence(error, monkeypatch):
    def fail(file):
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(UserError, match=r"^x: not a readable image \(\S.*\)$"):
        decode(b"content", "x")


def test_a_large_image_is_used_without_a_warning(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(stored(PICTURE), "x").size == (7, 5)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(UserError, match="exceeds limit"):
        decode(stored(PICTURE), "x")


def test_of_a_very_long_image_the_middle_is_seen(monkeypatch):
    pixels = np.zeros((1, 9_000, 3), np.uint8)
    pixels[:, 4_490:4_510] = 255
    view = EvalView(8, 1.0)
    for image in (Image.fromarray(pixels), Image.fromarray(pixels.transpose(1, 0, 2))):
        assert view(image).shape == (3, 8, 8) and view(image).min() == 255
    usual = Image.fromarray(pixels[:, 4_484:4_516])  # 32 times as long as high: as timm resizes it
    assert np.array_equal(view(usual), view(Image.fromarray(pixels)))
    seen = []
    monkeypatch.setattr(view, "_transform", lambda image: seen.append(image.size) or np.zeros(3))
    for image in (Image.fromarray(pixels), Image.fromarray(pixels.transpose(1, 0, 2)), usual):
        view(image)
    assert seen == [(32, 1), (1, 32), (32, 1)]


def _seeds():
    """Return small files of each format, and of the kinds that break decoders."""
    turned = Image.Exif()
    turned[0x0112] = 6
    kinds = {"PNG": {"exif": turned}, "JPEG": {"exif": turned}, "WEBP": {}, "BMP": {}, "GIF": {}, "PPM": {}}
    files = [stored(PICTURE, kind, **options) for kind, options in kinds.items()]
    files += [stored(PICTURE, "TIFF", compression=kind) for kind in (None, "tiff_lzw", "tiff_deflate", "jpeg")]
    files.append(stored(Image.fromarray(PIXELS[..., 0].astype(np.uint16)), "PNG"))
    files.append(stored(Image.fromarray(PIXELS[..., 0].astype(np.float32)), "TIFF"))
    return files


@st.composite
def damaged(draw):
    """Draw a file with some bytes changed, left out or put in."""
    content = bytearray(draw(st.sampled_from(_seeds())))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, len(content)))
        gone = draw(st.integers(0, 4))
        content[place : place + gone] = draw(st.binary(max_size=4))
    return bytes(content[: draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))])


@contextmanager
def nothing_printed():
    """Fail where anything is written to the process's stderr, by C libraries too."""
    with tempfile.TemporaryFile() as printed:
        kept = os.dup(2)
        os.dup2(printed.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
        printed.seek(0)
        assert printed.read() == b""


def decode_or_refuse(content):
    try:
        image = decode(content, "x")
        assert image.mode == "RGB" and min(image.size) > 0 and upright_size(content) == image.size
    except UserError as error:
        assert str(error).startswith("x: not a readable image (") and len(str(error).splitlines()) == 1


@settings(max_examples=150, deadline=None)
@given(content=st.one_of(damaged(), st.binary(max_size=200)))
def test_any_bytes_give_an_image_or_a_sentence_and_print_nothing(content):
    with nothing_printed():
        decode_or_refuse(content)


@pytest.mark.parametrize("kind", [None, "tiff_lzw", "tiff_deflate", "jpeg"])
def test_libtiff_prints_nothing_of_a_tiff_with_a_changed_byte(kind):
    content = stored(PICTURE, "TIFF", compression=kind)
    with nothing_printed():
        for place in range(8, len(content)):
            decode_or_refuse(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])


@given(st.binary(max_size=60))
def test_any_bytes_are_read_as_exif_data(data):
    assert read_orientation(data) in range(1, 9) and read_orientation(b"II*\0" + data) in range(1, 9)
    assert jpeg_orientation(b"\xff\xd8\xff" + data) in range(1, 9)
