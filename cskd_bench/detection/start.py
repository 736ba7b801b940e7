"""What a detection run needs of its two splits before its first batch: usable files, and lists that all ranks share."""

from pathlib import Path
from typing import Any, Final

from cskd_bench.detection.annotations import CocoSplit, let_go
from cskd_bench.detection.lists import ListSettings, shared_list
from cskd_bench.detection.splits import is_published
from cskd_bench.detection.usable import usable_split
from cskd_bench.engine.distributed import Ranks
from cskd_bench.task import TaskData

LISTS: Final = "detection_lists"  # in the folder of what several cells use
_TYPES: Final = {"CocoDataset": "SharedCocoDataset", "KeyedCocoDataset": "KeyedCocoDataset"}
_KEYS: Final = {"type", "seed", "filter_cfg", "pipeline", "test_mode", "metainfo", "ann_file", "data_prefix"}
_FILTERS: Final = {"filter_empty_gt", "min_size"}


def usable_splits(
    data: TaskData, train: CocoSplit, test: CocoSplit, folder: Path, *, decode: bool = True
) -> list[tuple[CocoSplit, list[str]]]:
    """Return both splits as `usable_split` does; no image of a published split, as its authors made it, is opened."""
    skip, cap = data.on_corrupt == "skip", data.max_skipped
    return [
        usable_split(split, folder, skip=skip, cap=cap, decode=decode and not is_published(data, split))
        for split in (train, test)
    ]


def share_lists(config: Any, train: CocoSplit, test: CocoSplit, folder: Path, ranks: Ranks) -> None:
    """Make the lists of a placed configuration's data sets on the main rank, and have all ranks map them.

    Data sets of other types and settings are left to read the annotation file. Nothing is held of that afterwards.
    """
    loaders = (config.train_dataloader, config.val_dataloader)

    def make() -> list[str]:
        wanted = [(split, _list_settings(loader.dataset)) for split, loader in zip((train, test), loaders, strict=True)]
        return [str(shared_list(split, settings, folder).resolve()) if settings else "" for split, settings in wanted]

    for loader, file in zip(loaders, ranks.on_main(make), strict=True):
        if file:
            loader.dataset.list_file, loader.dataset.type = file, _TYPES[loader.dataset.type]
    let_go()


def _list_settings(dataset: Any) -> ListSettings | None:
    """Return what decides a data set's list; None for one that is not only what a list can say."""
    chosen = dataset.get("filter_cfg") or {}
    if (
        dataset.type not in _TYPES
        or set(dataset) - _KEYS
        or set(chosen) - _FILTERS
        or set(dataset.data_prefix) != {"img"}
    ):
        return None
    if dataset.get("test_mode"):  # where mmdet filters nothing
        chosen = {}
    return ListSettings(
        classes=tuple(dataset.metainfo["classes"]),
        filter_empty=bool(chosen.get("filter_empty_gt", False)),
        min_size=chosen.get("min_size", 0),
    )
