"""From `data.dataset` and a split to a source, whatever its layout."""

from collections import Counter
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np

from cskd_bench.config import DataConfig
from cskd_bench.data.builtin import BUILT_IN, built_in_source
from cskd_bench.data.corruptions import CorruptedSource
from cskd_bench.data.labels import class_numbers, refuse_beyond, refuse_other_count
from cskd_bench.data.listed import LISTED
from cskd_bench.data.named import DOWNLOADED, TimmSource
from cskd_bench.data.published import coco_list_source, listed, torchvision_source
from cskd_bench.data.shards import shard_source
from cskd_bench.data.slices import parse_slice
from cskd_bench.data.sources import (
    FlatSource,
    FolderSource,
    JoinedSource,
    NpzSource,
    Source,
    choose_images,
    data_path,
)
from cskd_bench.errors import UserError
from cskd_bench.task import TaskData


def open_source(data: DataConfig, split: str) -> Source:
    """Open one split, several joined by `+`, a corrupted one (`val@contrast/3`), or a slice (`train[::4]`).

    A slice is Python's, over the images in their order: by class and file name in class folders.

    UserError names what is missing and what was expected.
    """
    if "+" in split:
        if repeated := sorted(part for part, times in Counter(split.split("+")).items() if times > 1):
            raise UserError(f"split {split!r} names {repeated[0]!r} twice")
        return JoinedSource([open_source(data, part) for part in split.split("+")], split.split("+"))
    if "@" in split:
        clean, _, corruption = split.partition("@")
        return CorruptedSource(open_source(data, clean), corruption)
    if split.endswith("]") and not _is_own_name(data, split):
        return _open_slice(data, split)
    source = _open(data, split)
    _check_labels(source, f"{data.dataset} {data.root} {split}", data.num_classes)
    return source


def _check_labels(source: Source, where: str, num_classes: int) -> None:
    """Let a source's labels pass the gate for labels, whoever made them; they are int64 afterwards."""
    labels = class_numbers(source.labels, where)
    if not len(source):
        raise UserError(f"{where}: no images in it")
    refuse_other_count(where, len(labels), len(source))
    refuse_beyond(where, labels, len(source.classes), num_classes)
    if not isinstance(source.labels, np.ndarray) or source.labels.dtype != np.int64 or source.labels.ndim != 1:
        try:
            source.labels = labels
        except AttributeError as error:
            raise UserError(f"{where}: labels must be a numpy array of int64, shape (n,)") from error


def open_split(data: TaskData, split: str) -> Source:
    """Open a split of a task; where that fails, the UserError also says how to get the data."""
    try:
        return open_source(data, split)
    except UserError as error:
        ways = ["add --download"] if data.dataset in DOWNLOADED else []
        ways += [data.by_hand] if data.by_hand else []
        raise UserError(f"{error}{'; to get the data: ' if ways else ''}{', or '.join(ways)}") from error


def is_slice(split: str) -> bool:
    """Whether a split, or one of those that `+` joins, is a part of one: `val[::50]`."""
    return any(part.partition("@")[0].endswith("]") for part in split.split("+"))


def _is_own_name(data: DataConfig, split: str) -> bool:
    """Whether brackets are the data set's: a file or folder of that name, a pattern of tars, a slice of Hugging Face's.

    The last are `train[:1000]` and `train[:10%]`, without a step.
    """
    if data.dataset in ("folder", "npz", "flat"):
        return _split_path(data.dataset, data_path(data.root), split).exists()
    found = parse_slice(split)
    return found is None or (data.dataset.startswith("hfds/") and found[1].step is None)


def _open_slice(data: DataConfig, split: str) -> Source:
    found = parse_slice(split)
    if found is None:
        raise UserError(f"split {split!r}: a slice is like train[::4] (every fourth image) or train[:1000]")
    name, part = found
    whole = open_source(data, name)
    chosen = np.arange(len(whole))[part]
    if not len(chosen):
        raise UserError(f"split {split!r}: holds none of the {len(whole)} images")
    return choose_images(whole, chosen)


def _open(data: DataConfig, split: str) -> Source:
    name, root = data.dataset, data_path(data.root)
    if name in ("folder", "npz", "flat"):
        return _open_files(name, root, split)
    if name == "wds" or name.startswith("wds/"):
        return shard_source(root, split)
    if name == "coco_list":
        return coco_list_source(root, split)
    if name in LISTED:
        return listed(LISTED[name](root, split), f"{root}, split {split!r}")
    if name.startswith("torchvision/"):
        return torchvision_source(name.removeprefix("torchvision/"), root, split)
    if name in BUILT_IN:
        return built_in_source(name, split)
    if name.startswith(("torch/", "hfds/")):
        return TimmSource(name, str(root) if data.root else "", split, data.input_key, data.target_key)
    return _from_entry_point(data, split)


def _open_files(kind: str, root: Path, split: str) -> Source:
    path = _split_path(kind, root, split)
    if not path.exists():
        raise UserError(
            f"{path}: no such {'file' if kind == 'npz' else 'folder'}; give the data set's folder with --data-dir, "
            "or the folder that holds all data sets in CSKD_BENCH_DATA"
        )
    if kind == "npz":
        return NpzSource(path)
    return FolderSource(path) if kind == "folder" else FlatSource(path)


def _split_path(kind: str, root: Path, split: str) -> Path:
    return root / f"{split}.npz" if kind == "npz" else root / split


def _from_entry_point(data: DataConfig, split: str) -> Source:
    for entry in entry_points(group="cskd_bench.sources"):
        if entry.name == data.dataset:
            source: Source = entry.load()(data, split)
            return source
    raise UserError(
        f"data.dataset: no source {data.dataset!r}; use folder, flat, npz, wds, coco_list, {', '.join(BUILT_IN)}, "
        f"{', '.join(LISTED)}, a torchvision/ name such as torchvision/dtd, "
        "or a timm name such as torch/cifar100 or hfds/NAME"
    )
