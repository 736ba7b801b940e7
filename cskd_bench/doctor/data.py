"""Is this data set complete and readable? Layout, classes, counts against a manifest, every image decoded."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from cskd_bench.config import DataConfig
from cskd_bench.data import multilabel, segmentation
from cskd_bench.data.folders import is_image
from cskd_bench.data.labels import name_differing
from cskd_bench.data.manifests import Manifest
from cskd_bench.data.notes import folder_note
from cskd_bench.data.open import open_source
from cskd_bench.data.sources import FolderSource, Source, data_path
from cskd_bench.detection.splits import COCO, is_coco
from cskd_bench.doctor.findings import Finding
from cskd_bench.errors import UserError
from cskd_bench.task import TaskData, load_task, task_files

LISTED: Final = 20  # unreadable files named in full; of more, the number is given
ANY_CLASSES: Final = 1_000_000  # what is expected where neither a manifest nor a configuration says
FOLDERS: Final = "expected FOLDER/train/<class>/<images> and FOLDER/val (or test)/<class>/<images>"


def published_layout(root: Path, dataset: str) -> DataConfig | None:
    """Return how the shipped task of that name reads a folder laid out as its authors pack it.

    None where there is no such task, or where the folder holds splits of its own.
    """
    if not root.is_dir() or _holds_splits(root) or any(root.glob("*.npz")) or dataset not in task_files():
        return None
    data = load_task(dataset).data
    packed = data.dataset.startswith(("torch/", "torchvision/")) or data.dataset in multilabel.LAYOUTS
    return data.model_copy(update={"root": str(root)}) if packed else None


def describe(root: Path, manifest: Manifest | None) -> DataConfig | Finding:
    """Tell a data set's layout from what lies in its folder; a Finding where that cannot be told."""
    if not root.is_dir():
        return Finding("attention", "layout", f"{root}: no such folder", "name the data set's folder with --data-dir")
    if lost := sorted(path.name for path in root.iterdir() if path.is_symlink() and not path.exists()):
        return Finding("attention", "layout", f"{root}: {lost[0]} is a link that leads nowhere", "repair or remove it")
    if (root / "annotations").is_dir():
        return DataConfig(dataset=COCO, root=str(root), train="", val="", num_classes=_classes(manifest))
    archives = sorted(path.stem for path in root.glob("*.npz"))
    folders = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    names = archives or folders
    if not names:
        return Finding("attention", "layout", f"{root}: neither split folders nor .npz files in it", FOLDERS)
    if not archives and _is_split(root):
        todo = f"{FOLDERS}; name the folder above with --data-dir"
        return Finding("attention", "layout", f"{root}: holds class folders, so it is one split, not a data set", todo)
    if not archives and len(folders) == 1 and _holds_splits(root / folders[0]):
        return Finding("attention", "layout", f"{root}: one level too high", f"use --data-dir {root / folders[0]}")
    train = "train" if "train" in names else names[0]
    held_out = next((name for name in ("val", "test") if name in names), "")
    return DataConfig(
        dataset="npz" if archives else "folder",
        root=str(root),
        train=train,
        val=held_out,
        num_classes=_classes(manifest),
    )


def check_data(
    data: DataConfig, splits: tuple[str, ...], manifest: Manifest | None, *, decode: bool, threads: int
) -> Iterator[Finding]:
    """Look at the named splits of a data set; `decode` reads every image whole, in so many threads."""
    if is_coco(data):
        yield from _check_coco(data_path(data.root), splits, manifest, decode, threads)
        return
    found: dict[str, Source] = {}
    for split in splits:
        try:
            found[split] = _open(data, split)
        except UserError as error:
            by_hand = data.by_hand if isinstance(data, TaskData) else ""
            yield Finding("attention", split, str(error), by_hand or _where_from(manifest))
    if data.dataset not in segmentation.LAYOUTS:  # whose classes are in its label maps
        yield from _classes_agree(found, data)
    for split, source in found.items():
        yield _count(split, len(source), manifest)
        if skipped := folder_note(source):
            yield Finding("note", split, skipped)
        if decode:
            yield from _unreadable(split, source, threads)


def _open(data: DataConfig, split: str) -> Source:
    if isinstance(data, TaskData) and data.dataset in segmentation.LAYOUTS:
        return segmentation.open_segmentation(data, split, segmentation.IGNORED).images
    several = data.dataset in multilabel.LAYOUTS
    return multilabel.open_multilabel(data, split) if several else open_source(data, split)


def _classes_agree(found: Mapping[str, Source], data: DataConfig) -> Iterator[Finding]:
    expected = data.num_classes
    told = isinstance(data, TaskData) and _numbered(found)  # by the task's own check, which knows whose splits they are
    for split, source in found.items():
        present = len(source.classes)
        if expected == ANY_CLASSES or (told and present < expected):
            yield Finding("ok", split, f"{present:,} classes")
        elif present != expected:
            todo = "a class without images, or a folder that is none of its classes? compare the folder names"
            yield Finding("attention", split, f"{present:,} classes, {expected:,} expected", todo)
        else:
            yield Finding("ok", split, f"{present:,} classes")
    names = {split: tuple(source.classes) for split, source in found.items()}
    if len(set(names.values())) > 1 and not told:
        ours, theirs, *_ = names.values()
        differing = name_differing(ours, theirs, 5)
        todo = f"class numbers would differ between splits; only one has {differing}"
        yield Finding("attention", "classes", f"{' and '.join(names)} have different classes", todo)


def _numbered(found: Mapping[str, Source]) -> bool:
    """Whether all classes are numbers from 0, so that one split may end before another."""
    return all(list(source.classes) == [str(n) for n in range(len(source.classes))] for source in found.values())


def _count(split: str, images: int, manifest: Manifest | None) -> Finding:
    expected = manifest.splits.get(split) if manifest else None
    if manifest is None or expected is None:
        return Finding("ok", split, f"{images:,} images")
    if images == expected:
        return Finding("ok", split, f"{images:,} images, as {manifest.title} has")
    gap = f"{expected - images:,} are missing" if images < expected else f"{images - expected:,} too many"
    found = f"{images:,} images, {manifest.title} has {expected:,}: {gap}"
    todo = "unpack it again; or, if this is another data set by intention, give it another folder name"
    return Finding("attention", split, found, todo)


def _unreadable(split: str, source: Source, threads: int) -> Iterator[Finding]:
    """Decode every image; list those that fail."""

    def problem(index: int) -> str:
        try:
            source.load(index)
        except UserError as error:
            return str(error)
        except Exception as error:  # damaged files fail in many ways
            where = source.paths[index] if isinstance(source, FolderSource) else f"{split} image {index}"
            return f"{where}: not a readable image ({error})"
        return ""

    progress = Console(stderr=True)
    with ThreadPoolExecutor(threads) as pool:
        results = track(
            pool.map(problem, range(len(source))), escape(f"{split}: decoding"), len(source), console=progress
        )
        problems = [sentence for sentence in results if sentence]
    for sentence in problems[:LISTED]:
        yield Finding("attention", split, sentence)
    if problems:
        more = f" ({len(problems) - LISTED} more are not listed)" if len(problems) > LISTED else ""
        todo = 'replace them, or train with data.on_corrupt = "skip" (counted, at most data.max_skipped)'
        yield Finding("attention", split, f"{len(problems)} of {len(source):,} images cannot be read{more}", todo)
    else:
        yield Finding("ok", split, f"all {len(source):,} images decode")


def _check_coco(
    root: Path, splits: tuple[str, ...], manifest: Manifest | None, decode: bool, threads: int
) -> Iterator[Finding]:
    """Look at COCO-format data: counts from the annotations, then everything that detection checks."""
    from cskd_bench.detection.annotations import find_split, let_go, look_at
    from cskd_bench.detection.facts import check_coco, facts_of

    splits = splits or coco_splits(root)
    if not splits:
        yield Finding(
            "attention", "layout", f"{root}: no annotations/instances_<split>.json in it", _where_from(manifest)
        )
    for split in splits:
        try:
            place = find_split(root, split)
            listed = facts_of(place).names
            yield _count(split, len(listed), manifest)
            problems = check_coco(place.annotations, place.images, decode=decode, threads=threads)
        except UserError as error:
            yield Finding("attention", split, str(error), _where_from(manifest))
            continue
        let_go()
        refused = [one.sentence for one in problems if one.severity == "refuse"]
        if not decode and (absent := sum(look_at(place.images, name) is None for name in listed)):
            refused.append(f"{absent:,} of {len(listed):,} images are not in {place.images}")
        for sentence in refused[:LISTED]:
            yield Finding("attention", split, sentence)
        if len(refused) > LISTED:
            yield Finding("attention", split, f"{len(refused)} problems in all", "the first are listed above")
        for note in problems:
            if note.severity == "note":
                yield Finding("note", split, note.sentence)
        if not refused:
            yield Finding("ok", split, "annotations and images agree")


def coco_splits(root: Path) -> tuple[str, ...]:
    """Return the splits that have an annotation file in a COCO-format folder."""
    files = sorted((root / "annotations").glob("instances_*.json"))
    return tuple(file.stem.removeprefix("instances_") for file in files)


def _where_from(manifest: Manifest | None) -> str:
    return f"{manifest.title} comes from {manifest.source}" if manifest else ""


def _classes(manifest: Manifest | None) -> int:
    return manifest.classes if manifest else ANY_CLASSES


def _is_split(folder: Path) -> bool:
    """Whether images lie right inside the folders of a folder."""
    children = sorted(path for path in folder.iterdir() if path.is_dir())
    return any(is_image(path.name) for child in children[:3] for path in child.iterdir())


def _holds_splits(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in ("train", "val", "test"))
