"""What several test files share: where development data lies, and tiny image folders."""

import os
import shutil
import struct
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny import write_colour_squares

os.environ.setdefault("OMP_NUM_THREADS", "2")
SHARED = Path(__file__).resolve().parents[1].parent / "shared"


def pytest_collection_modifyitems(items):
    """Start first what may take longer than any other test: begun last, it would run alone."""
    limits = {item: item.get_closest_marker("timeout") for item in items}
    items.sort(key=lambda item: -limits[item].args[0] if limits[item] else 0)


@pytest.fixture
def one_thread():
    """One thread for torch's own kernels, as measurements and bit-equal runs need it."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
    return write_colour_squares(tmp_path_factory.mktemp("squares"))


@pytest.fixture
def checkout(tmp_path_factory) -> Path:
    """A clean checkout of one commit that holds this tree's code."""
    source, root = Path(__file__).resolve().parents[1], tmp_path_factory.mktemp("checkout") / "project"
    root.mkdir()
    for file in (*source.glob("*.*"), source / ".gitignore", source / "LICENSE"):
        if file.is_file():
            shutil.copy(file, root)
    for folder in ("cskd_bench", "configs", "tasks", "support", "tests"):
        shutil.copytree(source / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", "commit.json"))
    _git(root, "init", "--quiet")
    _git(root, "add", "--all")
    _git(root, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--no-verify", "--message", "Begin")
    return root


@pytest.fixture
def git(checkout):
    """Run git in the checkout and return what it says."""
    return partial(_git, checkout)


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def mnist(tmp_path):
    """Digits as torchvision unpacks them: 30 to train on, 20 to test on, of random pixels."""
    raw, rng = tmp_path / "MNIST" / "raw", np.random.default_rng(0)
    raw.mkdir(parents=True)
    for prefix, count in (("train", 30), ("t10k", 20)):
        pixels, labels = rng.integers(0, 256, (count, 28, 28), np.uint8), np.arange(count, dtype=np.uint8) % 10
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, count, 28, 28) + pixels.tobytes())
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, count) + labels.tobytes())
    return tmp_path
