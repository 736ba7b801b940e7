"""Which training images a protocol uses: pure functions of labels and seed, so that lists can be published."""

import numpy as np

from cskd_bench.data.randomness import Stream, generator
from cskd_bench.errors import UserError
from cskd_bench.task import TaskSpec


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split indices into (kept, held out): `fraction` of every class, at least one image each, is held out."""
    held = []
    for members in _shuffled_classes(labels, seed):
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held.append(members[:count])
    held_out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


def low_label_indices(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Return `fraction` of every class, at least one image each; a larger fraction contains a smaller one."""
    chosen = [members[: max(1, round(fraction * len(members)))] for members in _shuffled_classes(labels, seed)]
    return np.sort(np.concatenate(chosen))


def k_shot_indices(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Return `shots` images of every class; more shots contain fewer. UserError for a class with too few images."""
    chosen = []
    for members in _shuffled_classes(labels, seed):
        if len(members) < shots:
            raise UserError(
                f"kshot.shots: {shots} training images a class are asked for, "
                f"class {labels[members[0]]} has {len(members)}"
            )
        chosen.append(members[:shots])
    return np.sort(np.concatenate(chosen))


def even_draw(labels: np.ndarray, count: int) -> np.ndarray:
    """Return `count` images (all, where there are fewer), as many of each class as possible; a larger draw has more."""
    turns = [(turn, int(index)) for members in _shuffled_classes(labels, 0) for turn, index in enumerate(members)]
    order = generator(0, Stream.SPLIT).permutation(len(turns))  # which classes come first where not all can
    drawn = sorted((turns[number] for number in order), key=lambda one: one[0])[:count]
    return np.sort([index for _, index in drawn])


def plain_draw(images: int, count: int) -> np.ndarray:
    """Return `count` of so many images (all, where there are fewer), each as likely as any other."""
    return np.sort(generator(0, Stream.SPLIT).permutation(images)[:count])


def index_lists(spec: TaskSpec, labels: np.ndarray, seed: int) -> dict[str, dict[str, list[int]]]:
    """Return the training images that `kshot` and `lowlabel` of a task use under a seed, to be published."""
    lists: dict[str, dict[str, list[int]]] = {}
    if "kshot" in spec.protocols:
        lists["kshot"] = {str(k): k_shot_indices(labels, k, seed).tolist() for k in spec.kshot.shots}
    if "lowlabel" in spec.protocols:
        fractions = spec.lowlabel.fractions
        lists["lowlabel"] = {f"{f:g}": low_label_indices(labels, f, seed).tolist() for f in fractions}
    return lists


def _shuffled_classes(labels: np.ndarray, seed: int) -> list[np.ndarray]:
    """Return the images of each class in an order that (seed, class) alone decide."""
    shuffled = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        shuffled.append(members[generator(seed, Stream.SPLIT, index=int(label)).permutation(len(members))])
    return shuffled
