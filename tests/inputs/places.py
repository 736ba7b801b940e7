"""Names and places as people have them: file names that are not UTF-8, folders with quotation marks."""

import os

import numpy as np
from helpers.inputs import Input
from PIL import Image

TITLE = "Names and places"
ABOUT = (
    "A name is hashed as it is on disk, and shown with `\\xe9` for a byte that is not UTF-8 "
    "(`cskd_bench/names.py`). Folders of data, runs and results may have any name."
)

LATIN = os.fsdecode(b"caf\xe9")  # as unzip leaves it, of an archive made on Windows


def folders(root, classes=("a", "b", "c"), file="0"):
    """Write class folders of noise; `file` is the stem of one image of the first class in train."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for stem in (file if (split, name) == ("train", classes[0]) else "0", "1"):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{stem}.png", "PNG")


INPUTS = (
    Input(
        "a link that leads back to itself, as the data set's folder",
        lambda root: root.symlink_to(root.name),
        said="no such file or folder",
    ),
    Input(
        "a file name that is not UTF-8, as in an archive made on Windows",
        lambda root: folders(root, file=LATIN),
        done="used",
    ),
    Input("a class folder whose name is not UTF-8", lambda root: folders(root, (LATIN, "b", "c")), done="used"),
    Input(
        "class folders with quotation marks, brackets, percent signs or line breaks in their names",
        lambda root: folders(root, ("a\"b'", "[c]%s", "d\ne")),
        done="used",
    ),
)
