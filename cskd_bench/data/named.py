"""Data sets by timm's names: what timm.data.create_dataset opens, as a source."""

from typing import Any, Final

import numpy as np
from PIL import Image

from cskd_bench.data.decode import convert_to_rgb, decode
from cskd_bench.data.labels import class_numbers
from cskd_bench.data.sources import digest
from cskd_bench.errors import UserError

TEST_SPLITS: Final = ("test", "val", "valid", "validation", "eval", "evaluation")
DOWNLOADED: Final = {  # names of data sets whose class in torchvision can download them
    "torch/cifar10": "CIFAR10",
    "torch/cifar100": "CIFAR100",
    "torch/mnist": "MNIST",
    "torch/kmnist": "KMNIST",
    "torch/fashion_mnist": "FashionMNIST",
    "torchvision/flowers102": "Flowers102",
    "torchvision/oxford_pets": "OxfordIIITPet",
    "torchvision/dtd": "DTD",
    "torchvision/food101": "Food101",
    "torchvision/fgvc_aircraft": "FGVCAircraft",  # torchvision knows no MD5 of it
}
SAMPLED: Final = 16  # images whose pixels stand for the content


class TimmSource:
    """Any map-style data set that timm's create_dataset opens by name: torch/..., hfds/...

    `input_key` and `target_key` name the columns of an hfds/ data set; empty: image and label.
    """

    def __init__(self, name: str, root: str, split: str, input_key: str = "", target_key: str = "") -> None:
        from timm.data import ImageDataset, create_dataset

        self._where = f"{name}, split {split!r}"
        keys = {key: value for key, value in (("input_key", input_key), ("target_key", target_key)) if value}
        try:
            self._data = create_dataset(name, root=root or None, split=split, download=False, **keys)
        except Exception as error:
            reason = str(error).replace("You can use download=True to download it", "").strip(" .")
            raise UserError(f"{self._where}, under {root!r}: {reason}") from error
        self._reader = self._data.reader if isinstance(self._data, ImageDataset) else None
        if getattr(self._data, "train", None) is False and split not in TEST_SPLITS:  # timm opens test for any word
            raise UserError(f"{name} has no split {split!r}; its splits are train and test")
        _check_columns(self._where, self._reader)
        labels = class_numbers(_timm_labels(self._data), f"{self._where}, under {root!r}")
        if not len(labels):
            raise UserError(f"{self._where}, under {root!r}: no images in it")
        self.labels = labels
        self.classes = [str(label) for label in range(int(labels.max()) + 1)]
        content = labels.tobytes() + self._sample()
        self.identity = digest(f"{name} {split}".encode() + content)
        self.content_identity = digest(content)  # the same for two names of one split

    def __len__(self) -> int:
        return len(self.labels)

    def _sample(self) -> bytes:
        """Return what evenly spaced images look like: a name and labels do not tell two folders apart."""
        indices = np.unique(np.linspace(0, len(self) - 1, SAMPLED).round().astype(int))
        seen = []
        for index in indices:
            try:
                image = self.load(int(index))
                seen.append(f"{image.size}".encode() + image.tobytes())
            except UserError:
                seen.append(b"unreadable")
        return b"".join(seen)

    def load(self, index: int) -> Image.Image:
        where = f"{self._where}, image {index}"
        try:
            if self._reader is not None:
                return decode(_read_stored(self._reader, index), where)
            image = self._data[index][0]
            return convert_to_rgb(image) if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
        except UserError:
            raise
        except Exception as error:  # readers and decoders are others', and fail in many ways
            raise UserError(f"{where}: not a readable image ({str(error) or type(error).__name__})") from error


def _read_stored(reader: Any, index: int) -> bytes:
    """Return an image of one of timm's readers as it is stored: timm's own data set skips what it cannot decode."""
    stored = reader[index][0]
    if isinstance(stored, bytes):
        return stored
    with stored:
        return bytes(stored.read())


def _check_columns(where: str, reader: Any) -> None:
    """UserError where a table has no such columns, or labels that are no class numbers: timm looks only when it reads.

    Readers of other kinds have no columns.
    """
    table: Any = getattr(reader, "dataset", None)
    if not hasattr(table, "column_names"):
        return
    image, label = reader.image_key, reader.label_key
    there = [column for column in table.column_names if column != image or _has_values(table, column)]
    for key, column in (("input_key", image), ("target_key", label)):
        if column not in there:
            told = f"no column {column!r}; its columns are {', '.join(there)}"
            raise UserError(f"{where}: {told}: name one with data.{key}")
    stored = table.features[label]
    if not str(getattr(stored, "dtype", "")).startswith(("int", "uint")):
        told = f"column {label!r} holds {stored}, not class numbers"
        raise UserError(f"{where}: {told}; name another with data.target_key")


def _has_values(table: Any, column: str) -> bool:
    """Whether a column is more than the empty one that the library adds where timm asks for a missing one."""
    return bool(table.data.column(column).null_count < len(table))


def _timm_labels(data: object) -> object:
    """Return a data set's labels as it keeps them, (n,); UserError where it has none to be read by number."""
    for holder in (data, getattr(data, "dataset", None), getattr(data, "reader", None)):
        for name in ("targets", "_labels", "labels"):
            if (found := getattr(holder, name, None)) is not None:
                return found
        if (samples := getattr(holder, "samples", None)) is not None:
            return [sample[1] for sample in samples]
        inner = getattr(holder, "dataset", None)
        if inner is not None and hasattr(inner, "column_names"):
            return list(inner[getattr(holder, "label_key", "label")])
    raise UserError('this data set cannot be indexed by number: copy it into class folders (dataset = "folder")')
