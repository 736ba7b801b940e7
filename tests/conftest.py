"""What several test files share: where development data lies, and tiny image folders."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("OMP_NUM_THREADS", "2")
SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with development data; tests that need it skip on a machine without."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("development data is not on this machine")
    return folder


@pytest.fixture(scope="session")
def colour_squares(tmp_path_factory) -> Path:
    """An image folder that can be learnt at a glance: three classes, one colour each, 24 px, two splits."""
    root = tmp_path_factory.mktemp("squares")
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 8), ("test", 8)):
        for label, name in enumerate(("red", "green", "blue")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 120, (24, 24, 3), dtype=np.uint8)
                pixels[:, :, label] += 120
                Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return root
