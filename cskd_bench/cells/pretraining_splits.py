"""What the splits of a pretraining must satisfy before an epoch is trained on them."""

from cskd_bench.cells.opening import main_first
from cskd_bench.config import DataConfig
from cskd_bench.data.labels import absent_classes, refuse_single_class
from cskd_bench.data.leaks import MOST, StoredImages, of_shared_sizes, shared_images
from cskd_bench.data.notes import join_notes, label_note
from cskd_bench.data.open import is_slice, open_source
from cskd_bench.data.sources import Source, data_path
from cskd_bench.engine.distributed import Ranks
from cskd_bench.errors import UserError


def open_splits(data: DataConfig, ranks: Ranks) -> tuple[Source, Source]:
    """Open train and val on every rank, as `main_first` does; UserError on every rank where it fails on one."""
    return main_first(ranks, lambda: (open_source(data, data.train), open_source(data, data.val)))


def look_at_splits(data: DataConfig) -> str:
    """Return what `check_pretraining_splits` notes; where the data set's folder is not there yet, say that instead.

    UserError for splits that a run would refuse.
    """
    try:
        train, val = open_source(data, data.train), open_source(data, data.val)
    except UserError:
        if data.root and not data_path(data.root).exists():
            return f"{data_path(data.root)}: not there yet, so its splits are not checked"
        raise
    return join_notes(check_pretraining_splits(data, train, val), note_shared(train, val))


def check_pretraining_splits(data: DataConfig, train: Source, val: Source) -> str:
    """Return a note for the record on labels, and on classes that a slice has no images of.

    UserError for a single class, for validation classes that would be scored under the numbers of other training
    classes, and for classes that one of the two splits has no images of.
    """
    refuse_single_class(f"data.train {data.train!r}", train.labels)
    for number, (ours, theirs) in enumerate(zip(train.classes, val.classes, strict=False)):
        if ours != theirs:
            raise UserError(
                f"data.val: class {number} is {theirs!r}, in data.train {ours!r}; both need the same classes"
            )
    if len(val.classes) > len(train.classes):
        raise UserError(f"data.val: has {len(val.classes)} classes, data.train has {len(train.classes)}")
    return join_notes(
        label_note(train),
        label_note(val),
        _note_absent("data.val", data.val, absent_classes(train.labels, val.labels, train.classes), "data.train"),
        _note_absent("data.train", data.train, absent_classes(val.labels, train.labels, train.classes), "data.val"),
    )


def note_shared(train: Source, val: Source) -> str:
    """Return a note on images of val that are in train as well, byte for byte, or on there being too many to look."""
    ours, theirs = StoredImages(train), StoredImages(val)
    candidates = sum(map(len, of_shared_sizes(ours, theirs)))
    if candidates > MOST:
        return f"data.train was not searched for images of data.val: {candidates:,} would have to be opened"
    shared = shared_images(ours, theirs)
    if not shared:
        return ""
    first = " = ".join(shared[0])
    found = f"{len(shared):,} of {len(val):,} images of data.val are also in data.train ({first})"
    return f"{found}: top1 is not of unseen images"


def _note_absent(key: str, split: str, absent: list[str], other: str) -> str:
    """Return a note on classes that only the other split has images of; UserError unless this one is a slice."""
    if not absent:
        return ""
    shown = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
    what = f"{key} {split!r} has no images of {len(absent)} classes that {other} has ({shown})"
    if not is_slice(split):
        raise UserError(f"{what}; both need images of the same classes")
    return what
