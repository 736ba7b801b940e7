"""Sources: indexed images with integer labels, from folders, npz files and memory; data/open.py chooses."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from cskd_bench.data.class_folders import list_class_folders
from cskd_bench.data.decode import decode
from cskd_bench.data.folders import FolderNotes, images_in
from cskd_bench.data.labels import class_numbers, refuse_other_count
from cskd_bench.data.listing import Listing, Paths, list_paths
from cskd_bench.data.npz import image_starts, read_npz
from cskd_bench.errors import UserError
from cskd_bench.names import readable


class Source(Protocol):
    """Images by index. `identity` changes with the content that is known without decoding."""

    labels: np.ndarray  # (n,) int64
    identity: str

    @property
    def classes(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def load(self, index: int) -> Image.Image:
        """Return image `index` as RGB; raises UserError naming it when it cannot be decoded."""
        ...


@runtime_checkable
class ContentSource(Source, Protocol):
    """A source that can be searched for duplicates without decoding.

    Of one with a method `ending(index, count)`, the last bytes of `content(index)`, most images need not be read whole.
    """

    sizes: np.ndarray  # (n,) bytes of each image as stored

    def content(self, index: int) -> bytes:
        """Return image `index` as it is stored."""
        ...

    def name(self, index: int) -> str:
        """Name image `index` to a person."""
        ...


class PathSource:
    """Image files with a label each; sources of files on disk derive from it.

    Folder and file name tell the images apart, to a person and in the identity.
    """

    folder_note = label_note = ""  # what a record should say of the folder and of the labels: data/notes.py

    def __init__(
        self, files: Sequence[Path] | Listing, labels: Sequence[int] | np.ndarray, classes: Sequence[str]
    ) -> None:
        self._files = files if isinstance(files, Listing) else list_paths(files)
        self.labels = np.asarray(labels, dtype=np.int64)
        self.classes = [readable(name) for name in classes]
        self.sizes, self.stamp, self.identity = self._files.sizes, self._files.stamp, self._files.identity

    def __len__(self) -> int:
        return len(self._files)

    @property
    def paths(self) -> Sequence[Path]:
        """The files, each a Path where it is asked for."""
        return Paths(self._files)

    def content(self, index: int) -> bytes:
        return self._read_from(index, 0)

    def ending(self, index: int, count: int) -> bytes:
        """Return the last bytes of image `index`; all of a smaller one."""
        return self._read_from(index, max(0, int(self.sizes[index]) - count))

    def _read_from(self, index: int, start: int) -> bytes:
        path = self._files.path(index)
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(start)
                return file.read()
        except OSError as error:
            raise UserError(f"{path}: not a readable image ({error.strerror})") from error

    def name(self, index: int) -> str:
        return readable(self._files.name(index))

    def choose(self, indices: np.ndarray) -> "PathSource":
        """Return chosen images, in the given order."""
        chosen = PathSource(self._files.choose(indices.tolist()), self.labels[indices], self.classes)
        chosen.folder_note, chosen.label_note = self.folder_note, self.label_note
        return chosen

    def load(self, index: int) -> Image.Image:
        return decode(self.content(index), str(self._files.path(index)))


class FolderSource(PathSource):
    """One folder per class, class order = sorted folder names; images in folders inside belong to the class too."""

    def __init__(self, root: Path) -> None:
        found = list_class_folders(root)
        super().__init__(found.listing, found.class_of[found.listing.folder], found.classes)
        self.folder_note = found.notes.of(root.name)


class FlatSource(PathSource):
    """Files in one folder; each file is a class of its own, named by its stem."""

    def __init__(self, root: Path) -> None:
        notes = FolderNotes()
        paths = [root / name for name, _, _ in images_in(root, notes)]
        if not paths:
            held = f", only {notes.left_out()}" if notes.left_out() else ""
            raise UserError(f"{root}: no image files in it{held}")
        super().__init__(paths, np.arange(len(paths)), [path.stem for path in paths])
        self.folder_note = notes.of(root.name)


class NpzSource:
    """Encoded images in one npz: `jpeg` (all bytes), `offsets` (n + 1), `labels`."""

    def __init__(self, path: Path, classes: Sequence[str] | None = None) -> None:
        self._bytes, offsets, labels = read_npz(path)
        self._offsets = image_starts(path, offsets, self._bytes)
        refuse_other_count(str(path), len(np.atleast_1d(labels)), len(self._offsets) - 1)
        self.labels = class_numbers(labels, f"{path}, labels")
        self.label_note = f"{path.name}: labels of shape {labels.shape} read as one column" if labels.ndim > 1 else ""
        self._path = path
        self.stamp = str(path.stat().st_mtime_ns)
        self.sizes = np.diff(self._offsets)
        self.classes = classes or [str(label) for label in range(int(self.labels.max()) + 1)]
        self.identity = digest(offsets.tobytes() + self.labels.tobytes() + self._bytes[:65536].tobytes())

    def __len__(self) -> int:
        return len(self.labels)

    def content(self, index: int) -> bytes:
        start, end = int(self._offsets[index]), int(self._offsets[index + 1])
        return bytes(self._bytes[start:end].tobytes())

    def name(self, index: int) -> str:
        return f"{self._path.name} image {index}"

    def load(self, index: int) -> Image.Image:
        return decode(self.content(index), f"{self._path} image {index}")


class ArraySource:
    """Images in memory: (n, H, W) grey or (n, H, W, 3) colour, uint8."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> None:
        self._images = images
        self.labels = labels.astype(np.int64)
        self.classes = classes
        self.sizes = np.full(len(images), images[0].nbytes)
        self.identity = digest(images.tobytes() + self.labels.tobytes())

    def __len__(self) -> int:
        return len(self.labels)

    def content(self, index: int) -> bytes:
        return bytes(self._images[index].tobytes())

    def name(self, index: int) -> str:
        return f"image {index}"

    def load(self, index: int) -> Image.Image:
        return Image.fromarray(self._images[index]).convert("RGB")


class JoinedSource:
    """Several splits as one, in order: `train+val`; `names` are theirs, as they were asked for."""

    def __init__(self, parts: Sequence[Source], names: Sequence[str]) -> None:
        self.parts, self.names = parts, names
        self._starts = np.cumsum([0, *map(len, parts)])
        self.labels = np.concatenate([part.labels for part in parts])
        self.classes = max((part.classes for part in parts), key=len)
        if any(list(part.classes) != list(self.classes[: len(part.classes)]) for part in parts):
            raise UserError("splits joined by '+' have different classes: their class folders must have the same names")
        self.identity = digest(" ".join(part.identity for part in parts).encode())
        self.stamp = " ".join(map(stamp, parts))

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, index: int) -> Image.Image:
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.parts[part].load(index - int(self._starts[part]))


class SubsetSource:
    """Chosen images of a source, in the given order."""

    def __init__(self, source: Source, indices: np.ndarray) -> None:
        self.source, self.indices = source, indices
        self.labels = source.labels[indices]
        self.classes = source.classes
        self.identity = digest(source.identity.encode() + indices.astype(np.int64).tobytes())
        self.stamp = stamp(source)

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, index: int) -> Image.Image:
        return self.source.load(int(self.indices[index]))


class StoredSubset(SubsetSource):
    """Chosen images of a source that can be searched for duplicates, which can be searched as well."""

    def __init__(self, source: ContentSource, indices: np.ndarray) -> None:
        super().__init__(source, indices)
        self._stored, self.sizes = source, source.sizes[indices]

    def content(self, index: int) -> bytes:
        return self._stored.content(int(self.indices[index]))

    def name(self, index: int) -> str:
        return self._stored.name(int(self.indices[index]))


def unsliced(source: Source) -> tuple[Source, np.ndarray]:
    """Return what a source's images were chosen from, and their indices there."""
    if not isinstance(source, SubsetSource):
        return source, np.arange(len(source))
    whole, indices = unsliced(source.source)
    return whole, indices[source.indices]


def choose_images(source: Source, indices: np.ndarray) -> Source:
    """Return chosen images of a source, in the given order; they stay files on disk, or stored bytes."""
    if isinstance(source, PathSource):
        return source.choose(indices)
    return StoredSubset(source, indices) if isinstance(source, ContentSource) else SubsetSource(source, indices)


def data_path(root: str) -> Path:
    """Resolve a relative path under $CSKD_BENCH_DATA, else under ./data."""
    return Path(os.environ.get("CSKD_BENCH_DATA", "data")) / root


def stamp(source: Source) -> str:
    """Return what tells when a source's files were written, on this machine; empty where it has none."""
    return str(getattr(source, "stamp", ""))


def digest(content: bytes) -> str:
    """Return 16 hexadecimal digits of the SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]
