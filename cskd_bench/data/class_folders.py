"""The images of a split in class folders: listed once, and from an index afterwards."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from cskd_bench.data.folders import (
    GONE,
    FolderNotes,
    Seen,
    class_names,
    describe_empty,
    images_below,
    refuse_alike,
    stamp_folder,
)
from cskd_bench.data.index import Index, index_path, pack_texts, read_index, unpack_texts, write_index
from cskd_bench.data.listing import Listing, ListingWriter, Names, check_column, look_up
from cskd_bench.errors import UserError
from cskd_bench.names import real_path

_SPOTS: Final = 1000  # files of an index that are looked up again, evenly spaced


@dataclass(frozen=True)
class ClassFolders:
    """What lies in a split's class folders; `class_of` (folders,) int64 is the class of each folder of the listing."""

    listing: Listing
    class_of: np.ndarray
    classes: Sequence[str]
    notes: FolderNotes


def list_class_folders(root: Path) -> ClassFolders:
    """List the images of a split, from its index where that is up to date; UserError for what cannot be a split.

    An index counts while no folder has changed, and a thousand of its files, evenly spaced, have not.
    """
    place = real_path(root)
    path = index_path(place.parent, place.name)
    return read_index(path, lambda index: _from_index(root, index)) or _scan(root, path)


def _scan(root: Path, index: Path) -> ClassFolders:
    began = time.time_ns()
    seen: Seen = [("", stamp_folder(root))]
    notes, writer = FolderNotes(), ListingWriter()
    classes = class_names(root, notes, seen)
    if not classes:
        held = f", only {notes.left_out()}" if notes.left_out() else ""
        raise UserError(f"{root}: no class folders in it{held}; expected {root.name}/<class>/<image files>")
    refuse_alike(root, classes)
    class_of: list[int] = []
    gone: list[Path] = []
    for label, name in enumerate(classes):
        inside = FolderNotes()
        folders = images_below(root, name, inside, seen)
        if not folders:
            held = inside.left_out() or describe_empty(root / name)
            raise UserError(f"{root / name}: a class folder without images ({held})")
        notes.join(inside)
        for folder, images in folders:
            writer.add(str(root / folder), folder, images)
            class_of.append(label)
            gone += [root / folder / image for image, size, _ in images if size == GONE]
    for missing in gone:
        look_up(missing)
    if gone:
        raise UserError(f"{gone[0]}: came while its folder was read; start again")
    found = ClassFolders(writer.finish(), np.asarray(class_of, np.int64), classes, notes)
    newest = max(max(stamp) for _, stamp in seen)
    write_index(index, _to_index(found, seen, np.asarray(writer.times)), len(found.listing), newest, began)
    return found


def _to_index(found: ClassFolders, seen: Seen, times: np.ndarray) -> Index:
    listing, notes = found.listing, found.notes
    spots = np.unique(np.linspace(0, len(listing) - 1, _SPOTS).astype(np.int64))
    said = {"identity": listing.identity, "stamp": listing.stamp, "count": notes.count, "first": notes.first}
    return {
        "said": pack_texts([json.dumps(said)]),
        "seen": pack_texts([folder for folder, _ in seen]),
        "stamps": np.asarray([stamp for _, stamp in seen], np.int64),
        "spots": spots,
        "times": times[spots],
        "classes": pack_texts(list(found.classes)),
        "class_of": found.class_of,
        "folders": pack_texts(list(listing.shown)),
        "folder": listing.folder,
        "text": listing.names.text,
        "ends": listing.names.ends,
        "sizes": listing.sizes,
    }


def _from_index(root: Path, index: Index) -> ClassFolders | None:
    """Return what an index holds; None where folders, or some of its files, are not as they were."""
    stamps = [stamp_folder(root / folder) for folder in unpack_texts(index["seen"])]
    if not np.array_equal(np.asarray(stamps, np.int64), index["stamps"]):
        return None
    (said,), shown = map(json.loads, unpack_texts(index["said"])), unpack_texts(index["folders"])
    listing = Listing(
        folders=[str(root / folder) for folder in shown],
        shown=shown,
        folder=index["folder"],
        names=Names(index["text"], index["ends"]),
        sizes=index["sizes"],
        identity=said["identity"],
        stamp=said["stamp"],
    )
    listing.check()
    classes, class_of = unpack_texts(index["classes"]), index["class_of"]
    check_column(class_of, len(shown), len(classes))
    for spot, written in zip(index["spots"].tolist(), index["times"].tolist(), strict=True):
        if look_up(listing.path(spot))[1:] != (int(listing.sizes[spot]), written):
            return None
    notes = FolderNotes(said["count"], said["first"])
    return ClassFolders(listing, class_of, classes, notes)
