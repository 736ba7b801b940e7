"""Which images of a joined split are one image, and which are only called alike."""

import numpy as np
import pytest
from PIL import Image

from cskd_bench.config import DataConfig
from cskd_bench.data.copies import number_images
from cskd_bench.data.open import open_source
from cskd_bench.data.sources import ArraySource, JoinedSource

CORRUPTED = "val@contrast/3+val@pixelate/3+val@contrast/5"


def numbered(root, split, **known):
    image = number_images(open_source(DataConfig(root=str(root), num_classes=3), split), **known)
    return image if image is None else image.tolist()


@pytest.mark.parametrize("alike", [False, True])
def test_corruptions_of_one_split_are_of_the_same_images(colour_squares, alike):
    assert numbered(colour_squares, CORRUPTED, parts_alike=alike) == 3 * list(range(24))
    assert numbered(colour_squares, "val+val@contrast/3", parts_alike=alike) == 2 * list(range(24))


def test_only_those_parts_that_corrupt_the_same_split_are(colour_squares):
    """Files of two splits are called alike, and as many in each class, without being the same images."""
    first, second = list(range(24)), list(range(24, 48))
    assert numbered(colour_squares, "val@contrast/3+test@contrast/3+val+test") == 2 * (first + second)
    assert numbered(colour_squares, "val+test") is None
    assert numbered(colour_squares, "val@contrast/3+test@contrast/3") is None


@pytest.mark.parametrize("alike", [False, True])
def test_a_split_of_one_part_has_every_image_once(colour_squares, alike):
    assert numbered(colour_squares, "val", parts_alike=alike) is None
    assert numbered(colour_squares, "val@contrast/3", parts_alike=alike) is None


def write_images(root, part, names):
    for name in names:
        path = root / part / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((8, 8, 3), len(list(root.rglob("*.bmp"))), np.uint8)
        Image.fromarray(pixels).save(path)


def test_parts_that_a_task_calls_alike_are_matched_by_class_and_file_name(tmp_path):
    names = ["a/1.bmp", "a/2.bmp", "b/1.bmp"]
    write_images(tmp_path, "fog/1", names)
    write_images(tmp_path, "snow/1", names)
    assert numbered(tmp_path, "fog/1+snow/1", parts_alike=True) == [0, 1, 2, 0, 1, 2]
    assert numbered(tmp_path, "fog/1+snow/1@contrast/3", parts_alike=True) == [0, 1, 2, 0, 1, 2]
    assert numbered(tmp_path, "fog/1+snow/1") is None


@pytest.mark.parametrize(
    "other", [["a/1.bmp", "a/3.bmp", "b/1.bmp"], ["a/1.bmp", "b/1.bmp"], ["a/1.bmp", "b/1.bmp", "b/2.bmp"]]
)
def test_parts_whose_names_are_not_all_the_same_are_not_matched_at_all(tmp_path, other):
    """A name that both have may be chance where others are missing."""
    write_images(tmp_path, "fog/1", ["a/1.bmp", "a/2.bmp", "b/1.bmp"])
    write_images(tmp_path, "snow/1", other)
    assert numbered(tmp_path, "fog/1+snow/1", parts_alike=True) is None
    assert numbered(tmp_path, "fog/1+snow/1+snow/1@contrast/3", parts_alike=True) == [
        *range(3),
        *2 * [*range(3, 3 + len(other))],
    ]


def in_memory(labels, seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (len(labels), 4, 4), np.uint8)
    return ArraySource(pixels, np.array(labels), ["a", "b"])


def test_images_without_names_are_matched_by_position_where_a_task_says_so_and_labels_agree():
    first, second = in_memory([0, 1, 1, 0], 0), in_memory([0, 1, 1, 0], 1)
    joined = JoinedSource([first, second], "ab")
    assert number_images(joined, parts_alike=True).tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert number_images(joined) is None
    for other in ([0, 0, 1, 1], [0, 1, 1], [0, 1, 1, 0, 0]):
        assert number_images(JoinedSource([first, in_memory(other, 1)], "ab"), parts_alike=True) is None
