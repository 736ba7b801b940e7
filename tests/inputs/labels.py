"""Labels as people have them: hidden, fractional, missing, or of classes that one split lacks."""

import io

import numpy as np
from helpers.inputs import Input
from PIL import Image

TITLE = "Labels"
ABOUT = "Checked when a split is opened, whatever its layout (`cskd_bench/data/labels.py`)."


def npz(root, change):
    """Write npz splits of 6 images, three classes; `change` alters the labels of test."""
    root.mkdir()
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        content = []
        for _ in range(6):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, "PNG")
            content.append(buffer.getvalue())
        labels = np.arange(6) % 3
        offsets = np.cumsum([0, *map(len, content)])
        stored = np.frombuffer(b"".join(content), np.uint8)
        stored_labels = change(labels) if split == "test" else labels
        np.savez(root / f"{split}.npz", jpeg=stored, offsets=offsets, labels=stored_labels)


INPUTS = (
    Input(
        "whole numbers from 0, one for each image",
        lambda root: npz(root, lambda labels: labels),
        done="used",
        settings=('data.dataset="npz"',),
    ),
    Input(
        "labels below 0, as a withheld test set has them",
        lambda root: npz(root, lambda labels: labels - 3),
        said="below 0",
        settings=('data.dataset="npz"',),
    ),
)
