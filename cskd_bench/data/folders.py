"""Which files of a folder are images, whatever the layout, and what is to be said of the others."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from unicodedata import normalize

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
    """What of a folder is left out, and what is used that others would leave out: paths below it, by kind."""

    found: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, path: str) -> None:
        """Note a path under one of the kinds above."""
        self.found.setdefault(kind, []).append(path)

    def join(self, other: "FolderNotes") -> None:
        """Add what another one has found."""
        for kind, paths in other.found.items():
            self.found.setdefault(kind, []).extend(paths)

    def left_out(self) -> str:
        """List what is left out; empty where nothing is."""
        return self._list(_LEFT_OUT)

    def of(self, split: str) -> str:
        """Return a sentence for a record; empty where there is nothing to say."""
        told = {f"left out of {split}": self.left_out(), f"used in {split}": self._list(_USED)}
        return "; ".join(f"{what}: {listed}" for what, listed in told.items() if listed)

    def _list(self, kinds: Mapping[str, tuple[str, str]]) -> str:
        return ", ".join(self._tell(kind, *kinds[kind]) for kind in kinds if kind in self.found)

    def _tell(self, kind: str, one: str, several: str) -> str:
        paths = sorted(self.found[kind])
        shown = ", ".join(paths[:_SHOWN]) + (", ..." if len(paths) > _SHOWN else "")
        return f"{len(paths):,} {several if len(paths) > 1 else one} ({shown})"


def is_image(name: str) -> bool:
    """Whether a file's ending is one of an image."""
    stem, _, ending = name.rpartition(".")
    return bool(stem) and f".{ending.lower()}" in IMAGE_SUFFIXES


def is_hidden(name: str) -> bool:
    """Whether an entry is the system's, or a program's own, and no one's image or class."""
    return name.startswith(".") or name in _SYSTEM


def class_names(root: Path, notes: FolderNotes) -> list[str]:
    """Return the sorted names of a split's class folders; files beside them are left out."""
    classes = []
    for entry in list_folder(root):
        if is_hidden(entry.name):
            notes.add("hidden", entry.name)
        elif entry.is_dir():
            classes.append(entry.name)
        else:
            notes.add("outside" if is_image(entry.name) else "others", entry.name)
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


def images_below(root: Path, folder: str, notes: FolderNotes) -> list[str]:
    """Return the images of a class folder and all folders in it, as paths below `root`, in torchvision's order.

    That is by folder, then by name. UserError for a folder that cannot be read.
    """
    ordered = sorted(_walk(root, folder, (_identity(root),), notes))
    paths = [f"{inside}/{name}" for inside, names in ordered for name in sorted(names)]
    for path in paths:
        if path.count("/") > 1:
            notes.add("nested", path)
    return paths


def images_in(root: Path, notes: FolderNotes) -> list[str]:
    """Return the sorted names of the images that lie right in a folder; UserError where it cannot be read."""
    names = []
    for entry in list_folder(root):
        if kind := _reason(entry):
            notes.add(kind, entry.name)
        elif entry.is_dir():
            notes.add("folders", entry.name)
        else:
            names.append(_noted(entry.name, entry.name, notes))
    return sorted(names)


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


def _walk(
    root: Path, folder: str, above: tuple[tuple[int, int], ...], notes: FolderNotes
) -> Iterator[tuple[str, list[str]]]:
    """Yield (folder, names of its images) for a folder below `root` and those in it; links are followed.

    `above` are the folders that lead here: one of them is not entered again.
    """
    here = _identity(root / folder)
    if here in above:
        notes.add("loops", folder)
        return
    names = []
    for entry in list_folder(root / folder):
        inside = f"{folder}/{entry.name}"
        if kind := _reason(entry):
            notes.add(kind, inside)
        elif entry.is_dir():
            yield from _walk(root, inside, (*above, here), notes)
        else:
            names.append(_noted(entry.name, inside, notes))
    yield folder, names


def _noted(name: str, path: str, notes: FolderNotes) -> str:
    """Return the name of an image that is used, with a note where torchvision would not read it."""
    if f".{name.rpartition('.')[2].lower()}" not in _USUAL:
        notes.add("unusual", path)
    return name


def _reason(entry: os.DirEntry[str]) -> str:
    """Say why an entry is neither an image nor a folder to look into; empty for those."""
    if is_hidden(entry.name):
        return "hidden"
    if entry.is_dir():
        return ""
    if not is_image(entry.name):
        return "others"
    is_there = entry.is_file() or not Path(entry.path).exists()  # a broken link is told where it is opened
    return "" if is_there else "special"


def _identity(folder: Path) -> tuple[int, int]:
    try:
        found = folder.stat()
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from error
    return found.st_dev, found.st_ino
