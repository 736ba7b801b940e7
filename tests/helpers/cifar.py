"""CIFAR-100 in miniature, packed as its authors pack it: three images of each class, two to train on."""

import hashlib
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets import CIFAR100

ARCHIVE, INNER = "cifar-100-python.tar.gz", "cifar-100-python"
NAMES = [f"class {label:02d}" for label in range(100)]


def pack(folder: Path) -> Path:
    """Write the archive into a folder and return its path."""
    rng, inner = np.random.default_rng(0), folder / "packing" / INNER
    inner.mkdir(parents=True)
    for split, copies in (("train", 2), ("test", 1)):
        labels = list(range(100)) * copies
        batch = {"data": rng.integers(0, 256, (len(labels), 3072), np.uint8), "fine_labels": labels}
        (inner / split).write_bytes(pickle.dumps(batch))
    (inner / "meta").write_bytes(pickle.dumps({"fine_label_names": NAMES}))
    with tarfile.open(folder / ARCHIVE, "w:gz") as tar:
        tar.add(inner, INNER)
    return folder / ARCHIVE


def expect(monkeypatch, archive: Path, url: str = "") -> None:
    """Let torchvision expect this archive, and the files in it, in place of the authors'."""
    md5 = {name: hashlib.md5((archive.parent / "packing" / INNER / name).read_bytes()).hexdigest() for name in FILES}
    monkeypatch.setattr(CIFAR100, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(CIFAR100, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": md5["meta"]})
    monkeypatch.setattr(CIFAR100, "url", url or CIFAR100.url)


FILES = ("train", "test", "meta")


def unpacked(archive: Path, root: Path) -> Path:
    """Lay the data out in a root as torchvision does; return the root."""
    shutil.copytree(archive.parent / "packing" / INNER, root / INNER)
    return root


def as_class_folders(archive: Path, root: Path) -> Path:
    """Write a copy as PNGs in class folders and return its root."""
    for split in ("train", "test"):
        batch = pickle.loads((archive.parent / "packing" / INNER / split).read_bytes())
        for number, (pixels, label) in enumerate(zip(batch["data"], batch["fine_labels"], strict=True)):
            folder = root / split / NAMES[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.reshape(3, 32, 32).transpose(1, 2, 0)).save(folder / f"{number}.png")
    return root
