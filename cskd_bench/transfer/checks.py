"""What a task's splits must satisfy before a number is made from them."""

import numpy as np

from cskd_bench.data.labels import absent_classes, name_differing, refuse_single_class
from cskd_bench.data.leaks import StoredImages, note_contradictions, note_stored_leaks
from cskd_bench.data.named import TimmSource
from cskd_bench.data.notes import join_notes, label_note
from cskd_bench.data.open import is_slice, open_split
from cskd_bench.data.sources import JoinedSource, Source, unsliced
from cskd_bench.errors import UserError
from cskd_bench.task import TaskSpec


def check_whole(spec: TaskSpec, split: str, source: Source) -> None:
    """UserError where a split has not images of every class: a partly unpacked one is easier, and looks better.

    UserError also for a single class.
    """
    refuse_single_class(f"task {spec.name}, {split}", source.labels)
    present = len(np.unique(source.labels))
    if present != spec.data.num_classes:
        raise UserError(
            f"task {spec.name}: {split} has images of {present} classes, data.num_classes says {spec.data.num_classes}"
        )


def check_batch(spec: TaskSpec, protocol: str) -> None:
    """UserError where fine-tuning's batch is larger than its training images; `lowlabel` makes its own smaller."""
    if protocol == "finetune" and spec.finetune.batch_size > (images := len(open_split(spec.data, spec.data.train))):
        raise UserError(
            f"task {spec.name}: finetune.batch_size {spec.finetune.batch_size} is larger than the {images} training "
            "images; lower it"
        )


def check_splits(spec: TaskSpec, train: Source, test: Source) -> str:
    """Return a note for the record; UserError for a wrong class count, other classes in test or val, or leaks.

    UserError also for classes without an image in test or val, for images that contradict each other, and for too few
    images of a class for the task's protocols.
    """
    where = f"task {spec.name}"
    check_whole(spec, "train", train)
    notes = [label_note(train), label_note(test), _check_scored(spec, train, test, "test", spec.data.test)]
    if spec.data.val:
        val = open_split(spec.data, spec.data.val)
        notes += [label_note(val), _check_scored(spec, train, val, "val", spec.data.val)]
    notes.append(_check_counts(spec, train))
    if same := count_same(train, test):
        raise UserError(
            f"{where}: data.train {spec.data.train!r} and data.test {spec.data.test!r} open the same "
            f"{same} images of {spec.data.dataset}; it has no further split of that name, or slices overlap"
        )
    stored = StoredImages(train), StoredImages(test)
    notes += [note_contradictions(spec, "train", stored[0]), note_contradictions(spec, "test", stored[1])]
    notes.append(note_stored_leaks(spec, *stored))
    return join_notes(*notes)


def check_scored_alone(spec: TaskSpec, test: Source) -> str:
    """Return a note for the record on what is scored without training; UserError as `check_whole` raises it."""
    check_whole(spec, "test", test)
    return label_note(test)


def check_data(spec: TaskSpec) -> str:
    """Open a task's splits, check them, read the first image, and say how many there are."""
    test = open_split(spec.data, spec.data.test)
    test.load(0)
    if set(spec.protocols) <= {"evaluate"}:
        note = check_scored_alone(spec, test)
        return f"{len(test):,} test images" + (f" ({note})" if note else "")
    train = open_split(spec.data, spec.data.train)
    note = check_splits(spec, train, test)
    return f"{len(train):,} training and {len(test):,} test images" + (f" ({note})" if note else "")


def _check_scored(spec: TaskSpec, train: Source, other: Source, split: str, named: str) -> str:
    """Return a note on classes that a split has no image of; UserError for such in a whole split of the user's own.

    Names must agree one by one; UserError for others.
    """
    numbered = all(name.isdecimal() for name in train.classes)
    expected = train.classes[: len(other.classes)] if numbered else train.classes
    if list(other.classes) != list(expected):
        odd = name_differing(train.classes, other.classes, 3)
        raise UserError(f"task {spec.name}: train and {split} have different classes, for example {odd}")
    absent = absent_classes(train.labels, other.labels, train.classes)
    if not absent:
        return ""
    shown = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
    what = f"{split} has no images of {len(absent)} of the {len(train.classes)} classes ({shown})"
    if spec.data.splits == "own" and not is_slice(named):
        raise UserError(
            f"task {spec.name}: {what}, so a score on it would be of an easier task; add them, or say "
            'data.splits = "published" if the split is not yours'
        )
    return what


def _check_counts(spec: TaskSpec, train: Source) -> str:
    """Return a note on classes too small to choose C on; UserError for one with fewer images than `kshot` takes."""
    counts = np.bincount(train.labels, minlength=len(train.classes))
    fewest = int(counts.argmin())
    if "kshot" in spec.protocols and counts[fewest] < max(spec.kshot.shots):
        lacking = int((counts < max(spec.kshot.shots)).sum())
        raise UserError(
            f"task {spec.name}: kshot.shots: {max(spec.kshot.shots)} training images a class are asked for, "
            f"{lacking} of {len(counts)} classes have fewer (class {train.classes[fewest]} has {counts[fewest]}); "
            "set fewer shots"
        )
    if "linear" in spec.protocols and counts[fewest] == 1:
        single = int((counts == 1).sum())
        return (
            f"{single} of {len(counts)} classes have one image in train (the first is {train.classes[fewest]}): linear "
            "chooses C without them"
        )
    return ""


def _unsearched(source: Source) -> list[tuple[str, np.ndarray]]:
    """Return (content, indices) of parts whose stored bytes cannot be searched, whatever their split is called."""
    parts = [unsliced(part) for part in (source.parts if isinstance(source, JoinedSource) else [source])]
    return [(whole.content_identity, indices) for whole, indices in parts if isinstance(whole, TimmSource)]


def count_same(train: Source, test: Source) -> int:
    """Return how many images of data that cannot be searched are in both splits, by their place in that data."""
    pairs = ((ours, theirs) for ours in _unsearched(train) for theirs in _unsearched(test) if ours[0] == theirs[0])
    return sum(len(np.intersect1d(ours[1], theirs[1])) for ours, theirs in pairs)
