"""The gate for labels: class numbers from whatever a layout stores, and what the labels of a split must satisfy."""

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final
from unicodedata import normalize

import numpy as np

from cskd_bench.errors import UserError

MOST_CLASSES: Final = 1_000_000  # a label from here on is no class number
_HIDDEN: Final = "labels that are withheld cannot be scored: name a split whose labels are known"
_EXPECTED: Final = "expected one class number for each image, from 0"
_PLAIN: Final = re.compile(r"-?[0-9]+")
Place = Callable[[int], str]  # names image `index` to a person


def class_numbers(values: object, where: str, place: Place = "image {}".format) -> np.ndarray:
    """Return labels as class numbers, (n,) int64; an array of one column, (n, 1), is read as (n,).

    UserError says `where` the labels lie, how many are wrong and which is the first: labels that are no whole numbers,
    below 0, or too large for a class, and arrays of another shape.
    """
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise UserError(f"{where}: labels of different lengths; {_EXPECTED}") from error
    labels = _flat(array, where)
    if not len(labels):
        return np.zeros(0, np.int64)
    numbers = _from_objects(labels, where, place) if labels.dtype.kind in "USO" else _from_numbers(labels, where, place)
    _refuse_where(numbers < 0, labels, "below 0", _HIDDEN, where, place)
    _refuse_where(numbers >= MOST_CLASSES, labels, "too large", "classes are numbered from 0", where, place)
    return numbers


def plain_number(text: str) -> int:
    """Return a whole number that is written in the digits 0 to 9 alone; ValueError for any other text."""
    if not _PLAIN.fullmatch(text):
        raise ValueError(f"{_shorten(text)} is not a whole number")
    return int(text)


def whole_number(value: object) -> int:
    """Return a stored label as a whole number: 3, 3.0 or "3"; ValueError for anything else, such as true."""
    if isinstance(value, str):
        return plain_number(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise ValueError(f"{_shorten(value)} is not a whole number")


def refuse_other_count(where: str, labels: int, images: int) -> None:
    """UserError where there is not one label for each image."""
    if labels != images:
        raise UserError(f"{where}: {labels} labels for {images} images; expected one label for each image")


def refuse_beyond(where: str, labels: np.ndarray, classes: int, num_classes: int) -> None:
    """UserError for more classes, named or numbered, than data.num_classes says, and for labels without a class."""
    largest = int(labels.max())
    if classes > num_classes or largest >= num_classes:
        lowest = int(labels.min())
        from_one = f"; its labels are {lowest} to {largest}, and classes are numbered from 0" if lowest > 0 else ""
        raise UserError(
            f"{where}: has {max(classes, largest + 1)} classes, data.num_classes says {num_classes}{from_one}"
        )
    if largest >= classes:
        count = int((labels >= classes).sum())
        raise UserError(f"{where}: {count} of {len(labels)} labels go up to {largest}, it names {classes} classes")


def refuse_twice_listed(where: str, paths: Sequence[os.PathLike[str]], labels: np.ndarray) -> None:
    """UserError for a file that a split lists more than once, with the same label or another."""
    names = [os.path.normpath(path) for path in paths]
    repeated = {name for name, times in Counter(names).items() if times > 1}
    if not repeated:
        return
    first = next(name for name in names if name in repeated)
    found = sorted({int(label) for name, label in zip(names, labels, strict=True) if name == first})
    as_what = f"as classes {' and '.join(map(str, found))}" if len(found) > 1 else f"as class {found[0]} each time"
    raise UserError(
        f"{where}: {len(repeated)} images are listed more than once ({first}, {as_what}); list each image once"
    )


def refuse_single_class(where: str, labels: np.ndarray) -> None:
    """UserError where all images are of one class."""
    if len(np.unique(labels)) == 1:
        raise UserError(
            f"{where}: all {len(labels)} images are of a single class: there is nothing to tell apart; "
            "name data of two classes or more"
        )


def absent_classes(learnt: np.ndarray, scored: np.ndarray, names: Sequence[str]) -> list[str]:
    """Return the names of classes that `learnt` has images of and `scored` has not, in their order."""
    return [names[label] for label in np.setdiff1d(learnt, scored)]


def name_differing(ours: Sequence[str], theirs: Sequence[str], most: int) -> str:
    """Name up to `most` classes that only one of two splits has; as escapes where two of them read alike."""
    odd = sorted(set(ours) ^ set(theirs))
    if len({normalize("NFC", name) for name in odd}) == len(odd):
        return ", ".join(odd[:most])
    odd.sort(key=lambda name: (normalize("NFC", name), name))
    return f"{', '.join(map(ascii, odd[:most]))}; where two read alike, one is in another form of Unicode: rename it"


def _flat(array: np.ndarray, where: str) -> np.ndarray:
    """Return labels as (n,); UserError for another shape, and for values that are no numbers whatever they hold."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise UserError(f"{where}: labels of shape {array.shape}; {_mend_shape(array)}")
    if array.dtype.kind == "b":
        raise UserError(f"{where}: {len(array)} labels are true or false; write the class numbers 0 and 1")
    if array.dtype.kind not in "iufUSO":
        raise UserError(f"{where}: labels are {array.dtype}, not numbers; {_EXPECTED}")
    return array


def _mend_shape(array: np.ndarray) -> str:
    if array.ndim == 2 and array.dtype.kind in "biuf" and array.size:
        ones = (array == 1).sum(1)
        if bool(np.all(ones == 1) and np.all((array == 0).sum(1) == array.shape[1] - 1)):
            return "these are one-hot: write labels.argmax(1)"
    return f"{_EXPECTED}, in shape (n,)"


def _from_numbers(labels: np.ndarray, where: str, place: Place) -> np.ndarray:
    """Return numbers of any type as int64; what is no class number anyway is cut to the range of -1 to MOST_CLASSES."""
    if labels.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            fractional = labels % 1 != 0  # also of NaN and of infinity
        _refuse_where(fractional, labels, "no whole numbers", _EXPECTED, where, place)
    return np.clip(labels.astype(np.float64), -1, MOST_CLASSES).astype(np.int64)


def _from_objects(labels: np.ndarray, where: str, place: Place) -> np.ndarray:
    """Return text, or objects of any type, as int64, cut as `_from_numbers` does."""
    numbers, wrong = np.zeros(len(labels), np.int64), np.zeros(len(labels), bool)
    try:
        values = labels.tolist()
    except SystemError as error:  # a file can claim letters beyond Unicode's last
        raise UserError(f"{where}: labels are damaged text ({error}); {_EXPECTED}") from error
    for index, value in enumerate(values):
        try:
            number = whole_number(value.decode("ascii") if isinstance(value, bytes) else value)
            numbers[index] = max(-1, min(MOST_CLASSES, number))
        except ValueError:
            wrong[index] = True
    _refuse_where(wrong, labels, "no whole numbers", _EXPECTED, where, place)
    return numbers


def _refuse_where(bad: np.ndarray, labels: np.ndarray, what: str, todo: str, where: str, place: Place) -> None:
    if bad.any():
        first = int(bad.argmax())
        shown = f"the first is {_shorten(labels[first : first + 1].tolist()[0])}, of {place(first)}"
        raise UserError(f"{where}: {int(bad.sum())} of {len(labels)} labels are {what} ({shown}); {todo}")


def _shorten(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:37]}..."
