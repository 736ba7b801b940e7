"""Images as people have them: other formats, 16 bits, odd metadata, damaged, in sub-folders or under other endings."""

import io
import json
import struct
import zlib

import numpy as np
from helpers.inputs import Input
from PIL import Image, PngImagePlugin

TITLE = "Images"
ABOUT = (
    "Every image is decoded by one function (`cskd_bench/data/decode.py`), and one list says which endings are read\n"
    "(`cskd_bench/data/folders.py`)."
)
COLOURS = {"a": 40, "b": 120, "c": 200}


def noise(level, shape=(12, 16, 3)):
    """Return pixels about a level, of one draw."""
    return np.random.default_rng(level).integers(level - 30, level + 30, shape).astype(np.uint8)


def stored(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def folder(root, name="0.png", content=None, *, split="train", more=()):
    """Write two images of each of three classes to train, one to test; `content` lies in class a under `name`.

    `more` are names below the split with their content.
    """
    for where, count in (("train", 3), ("test", 2)):
        for label, level in COLOURS.items():
            (root / where / label).mkdir(parents=True)
            for number in range(1, count):
                picture = Image.fromarray(noise(level + number + count))
                picture.save(root / where / label / f"{number}.png")
    files = dict(more) | ({} if content is None else {f"a/{name}": content})
    for path, bytes_ in files.items():
        (root / split / path).parent.mkdir(parents=True, exist_ok=True)
        (root / split / path).write_bytes(bytes_)


def image(kind, name, content, **rest):
    """Return an Input that is one image more in class a of train; `content` makes it."""
    return Input(kind, lambda root: folder(root, name, content()), **rest)


def rgb(level=50, shape=(12, 16, 3)):
    return Image.fromarray(noise(level, shape))


def grey16():
    return stored(Image.fromarray(noise(50, (12, 16)).astype(np.uint16) * 257))


def of_values(values):
    return stored(Image.fromarray(values), "TIFF")


def turned(value=6, kind=3, level=50):
    """Return a JPEG whose EXIF orientation is `value`, stored as `kind`."""
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHIII", 8, 1, 0x0112, kind, 1, value, 0)
    return stored(rgb(level), "JPEG", exif=exif)


def long_text():
    text = PngImagePlugin.PngInfo()
    text.add_text("history", "z" * 2_000_000, zip=True)
    return stored(rgb(), pnginfo=text)


def damaged_png():
    """Return a PNG of which a byte of the pixels was changed."""
    content = bytearray(stored(rgb()))
    content[content.index(b"IDAT") + 20] ^= 0xFF
    return bytes(content)


def bomb():
    """Return a PNG whose header says 30,000 x 30,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def frames(kind):
    return stored(rgb(), kind, save_all=True, append_images=[rgb(200)])


def loop(root):
    folder(root)
    (root / "train" / "a" / "again").symlink_to(root / "train")


def nothing_but(root, name):
    """Write class a with files of one name alone."""
    folder(root)
    for path in (root / "train" / "a").iterdir():
        path.rename(path.with_name(name))


def label_maps(root, *, upright):
    """Write images 16 wide and 12 high that EXIF turns, with label maps as they are turned, or as they are stored."""
    for split in ("train", "test"):
        for place in ("images", "labels"):
            (root / place / split).mkdir(parents=True)
        for number in range(3):
            (root / "images" / split / f"{number}.jpg").write_bytes(turned(level=50 + 10 * number + len(split)))
            shape = (16, 12) if upright else (12, 16)
            classes = (np.arange(192) + number).reshape(shape).astype(np.uint8) % 3
            Image.fromarray(classes).save(root / "labels" / split / f"{number}.png")


SEGMENT = ('protocols=["segment"]', 'data.dataset="segmentation"', 'metric="miou"', "segment.c_grid=[1.0]")


def coco(root, name, content, size=(16, 12)):
    """Write a COCO-format set of two images a split, one object each; the first of train is `content`."""
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (root / split).mkdir()
        files = {name if split == "train" else "0.png": content if split == "train" else stored(rgb())}
        files["1.png"] = stored(rgb(90 if split == "train" else 60))
        sizes = [size if split == "train" else (16, 12), (16, 12)]
        listed = {"categories": [{"id": 1, "name": "thing"}], "images": [], "annotations": []}
        for number, (file, bytes_) in enumerate(files.items(), 1):
            (root / split / file).write_bytes(bytes_)
            width, height = sizes[number - 1]
            listed["images"].append({"id": number, "file_name": file, "width": width, "height": height})
            square = {"bbox": [2, 2, 6, 6], "area": 36, "segmentation": [[2, 2, 8, 2, 8, 8, 2, 8]], "iscrowd": 0}
            listed["annotations"].append({"id": number, "image_id": number, "category_id": 1, **square})
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(listed))


USED = (
    image("a grey PNG of 16 bits", "0.png", grey16, done="used: the upper 8 bits of each value"),
    image(
        "a TIFF of floating-point numbers from 0 to 1",
        "0.tif",
        lambda: of_values(noise(50, (12, 16)).astype(np.float32) / 255),
        done="used: times 255",
    ),
    image(
        "a TIFF of 32-bit integers from 0 to 255",
        "0.tif",
        lambda: of_values(noise(50, (12, 16)).astype(np.int32)),
        done="used as it is",
    ),
    image("a photograph that its EXIF data turn", "0.jpg", turned, done="used as it is turned"),
    image(
        "EXIF data that name no orientation there is",
        "0.jpg",
        lambda: turned(77, kind=2),
        done="used as it is stored",
    ),
    image("a PNG with two million characters of text", "0.png", long_text, done="used without its text"),
    image("a CMYK JPEG", "0.jpg", lambda: stored(rgb().convert("CMYK"), "JPEG"), done="used as RGB"),
    image(
        "a palette with transparent colours",
        "0.png",
        lambda: stored(rgb().quantize(8), transparency=bytes(range(8))),
        done="used without its transparency",
    ),
    image(
        "an animated GIF",
        "0.gif",
        lambda: frames("GIF"),
        done="its first frame is used",
        noted="1 image of an ending that torchvision leaves out (a/0.gif)",
    ),
    image("an animated WebP", "0.webp", lambda: frames("WEBP"), done="its first frame is used"),
    image("a TIFF of two pages", "0.tif", lambda: frames("TIFF"), done="its first page is used"),
    image("an image of 1 x 10,000 pixels", "0.png", lambda: stored(rgb(50, (10_000, 1, 3))), done="its middle is used"),
    image("an upper-case ending", "0.JPG", lambda: stored(rgb(), "JPEG"), done="used"),
    image("a grey .pgm", "0.pgm", lambda: stored(rgb().convert("L"), "PPM"), done="used"),
    image(
        "an image that ends in .jfif",
        "0.jfif",
        lambda: stored(rgb(), "JPEG"),
        said="used in train",
        noted="used in train: 1 image of an ending that torchvision leaves out (a/0.jfif)",
        done="used, and noted",
    ),
    image(
        "images in a folder inside a class folder",
        "more/0.png",
        lambda: stored(rgb()),
        said="used in train",
        noted="1 image in a sub-folder of its class (a/more/0.png)",
        done="used as images of that class, and noted",
    ),
    image(
        "files of other endings",
        "0.heic",
        lambda: b"no matter",
        said="left out of train",
        noted="left out of train: 1 file of another ending (a/0.heic)",
        done="left out, and noted",
    ),
    Input(
        "hidden files and folders, of systems and of notebooks",
        lambda root: folder(
            root,
            more=[
                ("a/._1.png", b"\0"),
                (".ipynb_checkpoints/1.png", b"\0"),
                ("a/Thumbs.db", b"\0"),
                (".DS_Store", b""),
            ],
        ),
        said="left out of train",
        noted="left out of train: 4 hidden entries (.DS_Store, .ipynb_checkpoints, a/._1.png, ...)",
        done="left out, and noted",
    ),
    Input(
        "an image next to the class folders",
        lambda root: folder(root, more=[("0.png", stored(rgb()))]),
        said="left out of train",
        noted="left out of train: 1 image outside the class folders (0.png)",
        done="left out, and noted",
    ),
    Input(
        "a link to a folder that leads back to itself",
        loop,
        said="left out of train",
        noted="1 folder that leads back to itself (a/again)",
        done="left out, and noted",
    ),
    Input(
        "label maps of images that their EXIF data turn",
        lambda root: label_maps(root, upright=True),
        settings=SEGMENT,
        protocol="segment",
        done="used: a label map is of the turned image's size, and is not turned itself",
    ),
)
REFUSED = (
    image(
        "a web page saved as .jpg",
        "0.jpg",
        lambda: b"<!DOCTYPE html><html></html>",
        said="not a readable image (it is a web page, not an image)",
    ),
    image("a drawing program (EPS) saved as .jpg", "0.jpg", lambda: stored(rgb(), "EPS"), said="it is EPS, a program"),
    image("an image of zero bytes", "0.png", lambda: b"", said="not a readable image (the file is empty)"),
    image(
        "a pointer of Git LFS",
        "0.png",
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        said="it is a pointer of Git LFS; get the file itself with git lfs pull",
    ),
    image(
        "a truncated JPEG",
        "0.jpg",
        lambda: stored(rgb(), "JPEG")[:-60],
        said="not a readable image (image file is truncated",
    ),
    image("a PNG with a changed byte", "0.png", damaged_png, said="the checksum of its IDAT chunk is wrong"),
    image(
        "a header of 30,000 x 30,000 pixels",
        "0.png",
        bomb,
        said="not a readable image (it is damaged, or of a format that Pillow does not read)",
    ),
    image(
        "a TIFF of floating-point numbers above 1",
        "0.tif",
        lambda: of_values(noise(50, (12, 16)).astype(np.float32)),
        said="floating-point numbers of 32 bits from 20 to 79, and only 0 to 1 are read",
    ),
    image(
        "a TIFF of floating-point numbers that are not finite",
        "0.tif",
        lambda: of_values(np.full((12, 16), np.nan, np.float32)),
        said="some of its values are infinite or not a number",
    ),
    image(
        "a TIFF of 32-bit integers above 255",
        "0.tif",
        lambda: of_values(noise(50, (12, 16)).astype(np.int32) * 257),
        said="integers of 32 bits from 5140 to 20303, and only 0 to 255 are read",
    ),
    Input(
        "a class folder of files with another ending",
        lambda root: nothing_but(root, "1.heic"),
        said="a class folder without images (1 file of another ending (a/1.heic))",
    ),
    Input(
        "label maps of images as they are stored, which their EXIF data turn",
        lambda root: label_maps(root, upright=False),
        settings=SEGMENT,
        protocol="segment",
        said="12 x 16 once turned as its EXIF data say",
    ),
    Input(
        "a damaged PNG in COCO's format",
        lambda root: coco(root, "0.png", damaged_png()),
        said="0.png: cannot be decoded: damaged",
        detects=True,
    ),
    Input(
        "a web page in COCO's format",
        lambda root: coco(root, "0.jpg", b"<html></html>"),
        said="0.jpg: cannot be decoded: it is a web page",
        detects=True,
    ),
    Input(
        "a TIFF of floating-point numbers in COCO's format",
        lambda root: coco(root, "0.tif", of_values(noise(50, (12, 16)).astype(np.float32) / 255)),
        said="0.tif: cannot be decoded by OpenCV, which training reads with",
        detects=True,
    ),
)
INPUTS = (*USED, *REFUSED)
