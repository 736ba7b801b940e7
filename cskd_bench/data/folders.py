"""Which files of a folder are images, whatever the layout, and what is to be said of the others."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG
from typing import Final
from unicodedata import normalize

from cskd_bench.data.index import is_index
from cskd_bench.data.listing import Found
from cskd_bench.errors import UserError

IMAGE_SUFFIXES: Final = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".ppm", ".pgm", ".pbm", ".pnm"),
        *(".webp", ".tif", ".tiff", ".gif", ".jp2", ".j2k", ".avif"),
    )
)
_SYSTEM: Final = frozenset(  # what operating systems and file servers put beside files
    (
        *("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"),
        *("Thumbs.db", "ehthumbs.db", "desktop.ini"),
    )
)
_USUAL: Final = frozenset((".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"))  # torchvision's
_SHOWN: Final = 3
GONE: Final = -1  # the size of an image that was listed, and was not there when it was looked at
Stamp = tuple[int, int]  # when a folder's entries, and when it itself was changed, in ns
Seen = list[tuple[str, Stamp]]  # folders that were looked into, as paths below the root, before they were read
_CHANGES_UNSEEN: Final[Stamp] = (2**63 - 1, 2**63 - 1)  # of what may become a folder without a sign: as just changed
_LEFT_OUT: Final = {  # how it is told: one, several
    "others": ("file of another ending", "files of other endings"),
    "hidden": ("hidden entry", "hidden entries"),
    "outside": ("image outside the class folders", "images outside the class folders"),
    "folders": ("sub-folder", "sub-folders"),
    "loops": ("folder that leads back to itself", "folders that lead back to themselves"),
    "special": ("entry that is no file", "entries that are no files"),
}
_USED: Final = {
    "nested": ("image in a sub-folder of its class", "images in sub-folders of their classes"),
    "unusual": ("image of an ending that torchvision leaves out", "images of endings that torchvision leaves out"),
}


@dataclass
class FolderNotes:
    """What of a folder is left out, and what is used that others would leave out: by kind, of paths below it.

    `count` is how many there are, `first` a few that come first, the rest not kept.
    """

    count: dict[str, int] = field(default_factory=dict)
    first: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, *paths: str) -> None:
        """Note paths under one of the kinds above."""
        self._add(kind, len(paths), paths)

    def join(self, other: "FolderNotes") -> None:
        """Add what another one has found."""
        for kind, count in other.count.items():
            self._add(kind, count, other.first[kind])

    def _add(self, kind: str, count: int, paths: Iterable[str]) -> None:
        if count:
            self.count[kind] = self.count.get(kind, 0) + count
            self.first[kind] = sorted([*self.first.get(kind, ()), *paths])[:_SHOWN]

    def left_out(self) -> str:
        """List what is left out; empty where nothing is."""
        return self._list(_LEFT_OUT)

    def of(self, split: str) -> str:
        """Return a sentence for a record; empty where there is nothing to say."""
        told = {f"left out of {split}": self.left_out(), f"used in {split}": self._list(_USED)}
        return "; ".join(f"{what}: {listed}" for what, listed in told.items() if listed)

    def _list(self, kinds: Mapping[str, tuple[str, str]]) -> str:
        return ", ".join(self._tell(kind, *kinds[kind]) for kind in kinds if kind in self.count)

    def _tell(self, kind: str, one: str, several: str) -> str:
        count = self.count[kind]
        shown = ", ".join(self.first[kind]) + (", ..." if count > _SHOWN else "")
        return f"{count:,} {several if count > 1 else one} ({shown})"


def is_image(name: str) -> bool:
    """Whether a file's ending is one of an image."""
    return _ending(name) in IMAGE_SUFFIXES


def _ending(name: str) -> str:
    """Return a file's ending with its dot, in lower case; empty for a name that is nothing else."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""


def is_hidden(name: str) -> bool:
    """Whether an entry is the system's, or a program's own, and no one's image or class."""
    return name.startswith(".") or name in _SYSTEM


def class_names(root: Path, notes: FolderNotes, seen: Seen) -> list[str]:
    """Return the sorted names of a split's class folders; files beside them are left out, links to nothing `seen`."""
    classes = []
    for entry in list_folder(root):
        if is_hidden(entry.name):
            _note_hidden(entry.name, entry.name, notes)
        elif entry.is_dir():
            classes.append(entry.name)
        else:
            notes.add("outside" if is_image(entry.name) else "others", entry.name)
            _see_no_file(entry, entry.name, seen)
    return sorted(classes)


def refuse_alike(root: Path, classes: list[str]) -> None:
    """UserError for two class folders that read alike: letters with accents can be stored in two ways."""
    first: dict[str, str] = {}
    for name in classes:
        other = first.setdefault(normalize("NFC", name), name)
        if other != name:
            raise UserError(
                f"{root}: two class folders read alike ({name}), {other!a} and {name!a}: the same name in two "
                "forms of Unicode, as from two systems; join them, or rename one"
            )


def images_below(root: Path, folder: str, notes: FolderNotes, seen: Seen) -> list[tuple[str, list[Found]]]:
    """Return (folder, its images) for a class folder and all folders in it that have images, in torchvision's order.

    That is by folder, then by name. Folders are paths below `root`; all that are looked into are added to `seen`.
    An image that was gone when it was looked at has the size GONE. UserError for a folder that cannot be read.
    """
    folders = sorted(_walk(root, folder, (_identity(root),), notes, seen))
    for inside, images in folders:
        if "/" in inside:
            notes.add("nested", *(f"{inside}/{name}" for name, _, _ in images))
    return folders


def images_in(root: Path, notes: FolderNotes) -> list[Found]:
    """Return the images that lie right in a folder, by name; UserError where it cannot be read.

    One that was gone when it was looked at has the size GONE.
    """
    images, folders = _sort_entries(root, "", notes, [])
    notes.add("folders", *folders)
    return images


def list_folder(folder: Path) -> list[os.DirEntry[str]]:
    """Return a folder's entries; UserError where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from error


def describe_empty(folder: Path) -> str:
    """Say what lies in a folder below which there is no file."""
    inner = sorted(entry.name for entry in list_folder(folder))
    return f"only empty folders in it, {', '.join(inner[:3])}" if inner else "it is empty"


def stamp_folder(folder: Path) -> Stamp:
    """Return what changes when something in a folder is added, removed or renamed; UserError where it is not there."""
    return _stamp(_look_at(folder))


def _walk(
    root: Path, folder: str, above: tuple[tuple[int, int], ...], notes: FolderNotes, seen: Seen
) -> Iterator[tuple[str, list[Found]]]:
    """Yield (folder, its images) for a folder below `root` and those in it that have images; links are followed.

    `above` are the folders that lead here: one of them is not entered again.
    """
    found = _look_at(root / folder)
    here = found.st_dev, found.st_ino
    if here in above:
        notes.add("loops", folder)
        return
    seen.append((folder, _stamp(found)))  # looked at before it is read: what changes meanwhile shows later
    images, inner = _sort_entries(root / folder, f"{folder}/", notes, seen)
    for inside in inner:
        yield from _walk(root, inside, (*above, here), notes, seen)
    if images:
        yield folder, images


def _sort_entries(folder: Path, prefix: str, notes: FolderNotes, seen: Seen) -> tuple[list[Found], list[str]]:
    """Return a folder's images by name, and the folders in it; `prefix` is what its paths begin with below the root."""
    images: list[Found] = []
    folders: list[str] = []
    for entry in list_folder(folder):
        name = entry.name
        if is_hidden(name):
            _note_hidden(name, prefix + name, notes)
        elif entry.is_dir():
            folders.append(prefix + name)
        elif (ending := _ending(name)) not in IMAGE_SUFFIXES:
            notes.add("others", prefix + name)
            _see_no_file(entry, prefix + name, seen)
        elif not (found := _look_at_image(entry)):
            notes.add("special", prefix + name)
            _see_no_file(entry, prefix + name, seen)
        else:
            images.append(found)
            if ending not in _USUAL:
                notes.add("unusual", prefix + name)
    images.sort()
    return images, folders


def _note_hidden(name: str, path: str, notes: FolderNotes) -> None:
    if not is_index(name):  # what this project puts there changes no record's note
        notes.add("hidden", path)


def _see_no_file(entry: os.DirEntry[str], path: str, seen: Seen) -> None:
    """Note a link to nothing, as to a disk that is not there yet: what it leads to comes and goes without a sign."""
    if entry.is_symlink() and not entry.is_file():
        seen.append((path, _CHANGES_UNSEEN))


def _look_at_image(entry: os.DirEntry[str]) -> Found | None:
    """Return what the system says of an entry; None where it is no file."""
    try:
        found = entry.stat()
    except OSError:  # a broken link is told where the listing is whole
        return entry.name, GONE, 0
    return (entry.name, found.st_size, found.st_mtime_ns) if S_ISREG(found.st_mode) else None


def _stamp(found: os.stat_result) -> Stamp:
    return found.st_mtime_ns, found.st_ctime_ns


def _identity(folder: Path) -> tuple[int, int]:
    found = _look_at(folder)
    return found.st_dev, found.st_ino


def _look_at(folder: Path) -> os.stat_result:
    try:
        return folder.stat()
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from error
