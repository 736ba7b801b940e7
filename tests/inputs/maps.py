"""Label maps as tools write them: of few bits, lossy, shared by two images, or of a single class."""

import struct
import zlib
from functools import partial

import numpy as np
from helpers.inputs import Input
from PIL import Image

TITLE = "Label maps"
ABOUT = "Of segmentation: all of them are read before anything is computed (`cskd_bench/data/segmentation.py`)."
SEGMENT = ('protocols=["segment"]', 'data.dataset="segmentation"', 'metric="miou"', "segment.c_grid=[1.0]")


def scenes(root, change=lambda classes: classes, splits=("train", "test"), images=3, write=None):
    """Write images of 16 x 16 px with label maps of three classes; `change` alters the maps of `splits`.

    `write(file, classes)` writes the maps of `splits` otherwise.
    """
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for place in ("images", "labels"):
            (root / place / split).mkdir(parents=True)
        for number in range(images if split == "train" else 3):
            classes = np.roll((np.arange(256).reshape(16, 16) // 86).astype(np.uint8), 4 * number, 0)
            pixels = 80 * classes[..., None] + rng.integers(0, 60, (16, 16, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(root / "images" / split / f"{number}.png")
            file = root / "labels" / split / f"{number}.png"
            changed = split in splits
            classes = change(classes) if changed else classes
            if changed and write is not None:
                write(file, classes)
            else:
                Image.fromarray(classes).save(file)


def grey_of_bits(file, classes, bits):
    """Write a grey PNG of few bits a pixel, as programs that make PNGs small do."""
    spread = np.unpackbits(classes[..., None], axis=-1)[..., 8 - bits :]
    rows = np.packbits(spread.reshape(len(classes), -1), axis=-1)
    header = struct.pack(">IIBBBBB", classes.shape[1], classes.shape[0], bits, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    written = (
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(written))


def shared(root):
    """Write two images of one name, with other endings."""
    scenes(root)
    Image.fromarray(np.full((16, 16, 3), 9, np.uint8)).save(root / "images" / "train" / "0.bmp")


def maps(kind, make, **rest):
    """Return an Input of segmentation."""
    return Input(kind, make, settings=rest.pop("settings", SEGMENT), protocol="segment", **rest)


INPUTS = (
    maps("whole numbers from 0, in a grey PNG", scenes, done="used"),
    maps(
        "a grey PNG of 4 bits",
        partial(scenes, write=partial(grey_of_bits, bits=4)),
        done="used: values as they are stored, not spread to 255",
    ),
    maps("a grey PNG of 2 bits", partial(scenes, write=partial(grey_of_bits, bits=2)), done="used, as of 4 bits"),
    maps(
        "a grey PNG of 16 bits",
        partial(scenes, change=lambda classes: classes.astype(np.uint16)),
        done="used",
    ),
    maps(
        "a class that no pixel of test has",
        partial(scenes, change=lambda classes: np.minimum(classes, 1), splits=("test",)),
        noted="no pixel of test is of: 2",
        done="used, and noted: mIoU is the mean over the other classes",
    ),
    maps("two images of one name with two endings", shared, said="would be the label map of both 0.bmp and 0.png"),
    maps(
        "a JPEG",
        partial(scenes, write=lambda file, classes: Image.fromarray(classes).save(file, "JPEG")),
        said="it is a JPEG, which changes the values of pixels",
    ),
    maps(
        "a mask of 0 and 255",
        partial(scenes, change=lambda classes: np.where(classes > 0, 255, 0).astype(np.uint8)),
        settings=(*SEGMENT, "data.num_classes=2"),
        said="a mask of 0 and 255 must be written as 0 and 1",
    ),
    maps(
        "a single class in test",
        partial(scenes, change=lambda classes: 0 * classes, splits=("test",)),
        said="task task, test: all pixels that count are of the single class 0",
    ),
    maps(
        "colours",
        partial(scenes, write=lambda file, classes: Image.fromarray(classes).convert("RGB").save(file)),
        said="its mode is RGB",
    ),
    maps(
        "values above 255 in a PNG of 16 bits",
        partial(scenes, change=lambda classes: classes.astype(np.uint16) * 300),
        said="which is none of the 3 classes and not ignored",
    ),
    maps("a single image in train", partial(scenes, images=1), said="train has a single image"),
)
