"""WebDataset shards read by index: images stay in their tars, only headers are read when a split is opened."""

import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from PIL import Image

from cskd_bench.data.decode import decode
from cskd_bench.data.folders import IMAGE_SUFFIXES, FolderNotes, is_hidden
from cskd_bench.data.index import Index, index_path, pack_texts, read_index, unpack_texts, write_index
from cskd_bench.data.json_text import read_json
from cskd_bench.data.labels import class_numbers, plain_number, whole_number
from cskd_bench.data.listing import Names, NamesWriter, check_column
from cskd_bench.data.notes import join_notes
from cskd_bench.data.open_files import OpenFiles
from cskd_bench.data.sources import digest
from cskd_bench.errors import UserError
from cskd_bench.names import name_bytes, readable

_BLOCK: Final = 2**20  # bytes that are looked at at a time
_MARK: Final = b"\xef\xbb\xbf"  # that some editors put before a text
_Place = tuple[int, int]  # (offset, bytes) in a tar
_Stamp = tuple[int, int, int]


@dataclass
class _Sample:
    """Where one key's image and labels lie in its tar."""

    key: str
    image: _Place | None = None
    number: _Place | None = None  # KEY.cls
    lines: _Place | None = None  # KEY.json


@dataclass(frozen=True)
class _Shard:
    path: Path
    samples: list[_Sample] = field(default_factory=list)
    folder_note: FolderNotes = field(default_factory=FolderNotes)


@dataclass(frozen=True)
class _Samples:
    """All samples of a list of tars: image i has the key `keys[i]` and lies at `starts[i]` in tar `tar[i]`."""

    keys: Names
    tar: np.ndarray  # (n,) of the smallest unsigned type
    starts: np.ndarray  # (n,) int64 bytes
    sizes: np.ndarray  # (n,) int64 bytes
    labels: np.ndarray  # (n,) int64
    identity: str
    note: str


class ShardSource:
    """Every sample of a list of tars, in order: `KEY.jpg` with `KEY.cls` (a number) or `KEY.json` (its "label").

    Members are never extracted to disk. UserError names a tar that is damaged or a key without image or label.
    """

    def __init__(self, tars: Sequence[Path]) -> None:
        self._tars, self._opened = list(tars), OpenFiles()
        began, path = time.time_ns(), _index_path(tars)
        stamps = [_stamp(tar) for tar in tars]
        kept = read_index(path, lambda index: _from_index(index, stamps))
        self._samples = kept or _read_samples(tars)
        if kept is None:
            newest = max(max(changed) for _, *changed in stamps)
            write_index(path, _to_index(self._samples, stamps), len(self._samples.labels), newest, began)
        self.labels, self.sizes = self._samples.labels.copy(), self._samples.sizes
        self.classes = [str(label) for label in range(int(self.labels.max()) + 1)]
        self.identity, self.folder_note = self._samples.identity, self._samples.note
        self.stamp = " ".join(str(stamp[1]) for stamp in stamps)

    def __len__(self) -> int:
        return len(self.labels)

    def content(self, index: int) -> bytes:
        """Return image `index` as it is stored."""
        return self._read(index)

    def ending(self, index: int, count: int) -> bytes:
        """Return the last bytes of image `index` as it is stored; all of a smaller one."""
        return self._read(index, count)

    def _read(self, index: int, count: int | None = None) -> bytes:
        path, size = self._tars[self._samples.tar[index]], int(self.sizes[index])
        kept = size if count is None else min(count, size)
        try:
            return self._opened.read(path, int(self._samples.starts[index]) + size - kept, kept)
        except OSError as error:
            raise UserError(f"{path}: not readable ({error.strerror})") from error

    def name(self, index: int) -> str:
        """Name image `index` to a person."""
        return readable(f"{self._tars[self._samples.tar[index]].name}: {self._samples.keys[index]}")

    def load(self, index: int) -> Image.Image:
        """Return image `index` as RGB; raises UserError naming it when it cannot be decoded."""
        return decode(self.content(index), self.name(index))


def shard_source(root: Path, split: str) -> ShardSource:
    """Open the tars of a split: root/SPLIT/*.tar, else root/*SPLIT*.tar; UserError where there are none."""
    tars = sorted((root / split).glob("*.tar")) or sorted(root.glob(f"*{split}*.tar"))
    if not tars:
        raise UserError(f"{root}: no tars of split {split!r}; expected {split}/*.tar or *{split}*.tar in it")
    return ShardSource(tars)


def _stamp(tar: Path) -> _Stamp:
    """Return a tar's bytes, and when its content and it itself were changed, in ns."""
    try:
        found = tar.stat()
    except OSError:
        return -1, 0, 0  # told where it is read
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _index_path(tars: Sequence[Path]) -> Path:
    """Return where the index of these tars lies: other tars of the folder have another."""
    return index_path(tars[0].parent, digest(name_bytes("\n".join(str(path.absolute()) for path in tars))))


def _read_samples(tars: Sequence[Path]) -> _Samples:
    """Read the headers and labels of all tars."""
    shards = [_read_headers(path) for path in tars]
    samples = [sample for shard in shards for sample in shard.samples]
    labels = np.concatenate([_read_labels(shard) for shard in shards])
    places = np.asarray([sample.image for sample in samples if sample.image], np.int64)
    sizes = places[:, 1].copy()
    keys = NamesWriter()
    keys.add([sample.key for sample in samples])
    text = "\n".join(f"{sample.key} {size}" for sample, size in zip(samples, sizes.tolist(), strict=True))
    numbers = np.arange(len(tars), dtype=np.min_scalar_type(len(tars) - 1))
    return _Samples(
        keys=keys.finish(),
        tar=np.repeat(numbers, [len(shard.samples) for shard in shards]),
        starts=places[:, 0].copy(),
        sizes=sizes,
        labels=labels,
        identity=digest(name_bytes(text) + labels.tobytes()),
        note=join_notes(*(shard.folder_note.of(shard.path.name) for shard in shards)),
    )


def _to_index(found: _Samples, stamps: Sequence[_Stamp]) -> Index:
    return {
        "stamps": np.asarray(stamps, np.int64),
        "said": pack_texts([found.identity, found.note]),
        "text": found.keys.text,
        "ends": found.keys.ends,
        "tar": found.tar,
        "starts": found.starts,
        "sizes": found.sizes,
        "labels": found.labels,
    }


def _from_index(index: Index, stamps: Sequence[_Stamp]) -> _Samples | None:
    """Return what an index holds; None where a tar is not as it was."""
    if not np.array_equal(index["stamps"], np.asarray(stamps, np.int64)):
        return None
    identity, note = unpack_texts(index["said"])
    keys = Names(index["text"], index["ends"])
    keys.check()
    check_column(index["tar"], len(keys), len(stamps))
    for name in ("starts", "sizes", "labels"):
        check_column(index[name], len(keys))
    return _Samples(keys, index["tar"], index["starts"], index["sizes"], index["labels"], identity, note)


def _read_headers(path: Path) -> _Shard:
    shard, by_key = _Shard(path), dict[str, _Sample]()
    try:
        with tarfile.open(path, "r:") as archive:  # a compressed one cannot be read by index
            for member in archive:
                _add_member(member, shard, by_key)
            _refuse_rest(path, archive.offset)
    except UserError:
        raise
    except Exception as error:  # a damaged tar fails in many ways; none runs code
        raise UserError(f"{path}: not a readable tar ({error}); a compressed one must be unpacked (gunzip)") from error
    if not shard.samples:
        raise UserError(f"{path}: an empty tar")
    for sample in shard.samples:
        if sample.image is None or (sample.number is None and sample.lines is None):
            missing = "image (.jpg, .png, ...)" if sample.image is None else "label (.cls or .json)"
            raise UserError(f"{path}: key {sample.key} has no {missing}")
    return shard


def _refuse_rest(path: Path, end: int) -> None:
    """UserError for anything but zeros after a tar's end: a second tar, or members after a damaged header."""
    with path.open("rb") as file:
        file.seek(end)
        while block := file.read(_BLOCK):
            if block.strip(b"\0"):
                raise UserError(
                    f"{path}: ends after {end:,} of {path.stat().st_size:,} bytes, and more may follow: are these "
                    "tars joined by cat, or is it damaged? keep each tar in a separate file (tar -A joins them)"
                )


def _add_member(member: tarfile.TarInfo, shard: _Shard, by_key: dict[str, _Sample]) -> None:
    """Enter a tar's member as its key's image or label; UserError where the key has such a one already."""
    if member.size < 0 or member.sparse is not None:
        raise UserError(f"{shard.path}: {member.name} is not stored whole; write the tar again")
    if not member.isfile():
        return
    if any(is_hidden(part) for part in member.name.split("/") if part != "."):
        shard.folder_note.add("hidden", member.name)
        return
    folder, slash, name = member.name.rpartition("/")
    stem, _, ending = name.partition(".")  # folders may have dots
    key = folder + slash + stem
    if key not in by_key:
        by_key[key] = _Sample(key)
        shard.samples.append(by_key[key])
    kinds = {"cls": "number", "json": "lines"}
    kind = "image" if f".{ending.lower()}" in IMAGE_SUFFIXES else kinds.get(ending)
    if kind is None:
        return
    if getattr(by_key[key], kind) is not None:
        what = "images" if kind == "image" else f"labels .{ending}"
        raise UserError(f"{shard.path}: key {key} has two {what}; a key of a tar is one image with one label")
    setattr(by_key[key], kind, (member.offset_data, member.size))


def _read_labels(shard: _Shard) -> np.ndarray:
    labels = []
    with shard.path.open("rb") as file:
        for sample in shard.samples:
            try:
                labels.append(_read_label(file, sample))
            except UserError:
                raise
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise UserError(
                    f"{shard.path}: the label of key {sample.key} is not a class number ({error})"
                ) from error
    return class_numbers(labels, str(shard.path), lambda index: f"key {shard.samples[index].key}")


def _read_label(file: BinaryIO, sample: _Sample) -> int:
    """Return a sample's label; UserError where its two label files disagree."""
    if sample.number is None:
        return whole_number(read_json(_read(file, sample.lines))["label"])
    label = plain_number(_read(file, sample.number).removeprefix(_MARK).decode("ascii").rstrip())
    if sample.lines is not None:
        try:
            other = whole_number(read_json(_read(file, sample.lines))["label"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return label  # it says other things than a class number
        if other != label:
            raise UserError(f"{file.name}: {sample.key}.cls says {label}, {sample.key}.json says {other}; keep one")
    return label


def _read(file: BinaryIO, place: _Place | None) -> bytes:
    assert place is not None  # checked when headers were read
    start, size = place
    file.seek(start)
    return file.read(size)
