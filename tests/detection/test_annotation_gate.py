"""Any annotation file is refused in sentences or can be scored: nothing else comes of it."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cskd_bench.detection import suspects as columns
from cskd_bench.detection.annotation_checks import examine
from cskd_bench.detection.annotation_mending import mend
from cskd_bench.detection.annotations import CocoSplit, read_annotations
from cskd_bench.detection.facts import check_coco
from cskd_bench.detection.masks import mask_area, mask_fault
from cskd_bench.detection.score import average_precision
from cskd_bench.detection.suspects import suspects
from cskd_bench.detection.usable import usable_split
from cskd_bench.errors import UserError

mask_tools = pytest.importorskip("pycocotools.mask", reason="the detection extra is not installed")

ODD = st.sampled_from(
    [
        None,
        "1",
        "",
        True,
        0,
        -1,
        1.0,
        2.5,
        float("nan"),
        float("inf"),
        2**53,
        2**64,
        10**400,
        1e308,
        [],
        [1],
        {},
        "\ud800",
    ]
)
SOUND_MASKS = st.sampled_from(
    [
        [[5, 5, 15, 5, 15, 15, 5, 15]],
        [[5, 5, 15, 5, 15, 15], [1, 1, 3, 1, 3, 3]],
        [[1, 2, 3, 4], [5, 5, 15, 5, 15, 15]],
        {"size": [20, 30], "counts": [100, 50, 450]},
        {"size": [20, 30], "counts": "T3b1Z<"},
    ]
)
NUMBERS = st.one_of(st.integers(-40, 60), st.floats(-40, 60), ODD)
MASKS = st.one_of(
    SOUND_MASKS,
    ODD,
    st.lists(st.lists(NUMBERS, max_size=9), max_size=3),
    st.fixed_dictionaries({"size": st.just([20, 30]), "counts": st.lists(st.integers(-5, 700), max_size=5)}),
    st.fixed_dictionaries({"size": st.one_of(ODD, st.just([20, 30])), "counts": st.one_of(ODD, st.text(max_size=6))}),
)


def entries(**keys):
    """Entries of a list in which most values are sound and any may be odd or missing."""
    mostly = {key: st.one_of(*[sound] * 12, ODD) for key, sound in keys.items()}
    return st.fixed_dictionaries({}, optional=mostly) | st.fixed_dictionaries(mostly)


CONTENT = st.fixed_dictionaries(
    {
        "images": st.lists(
            entries(id=st.integers(0, 2), file_name=st.sampled_from(["0.png", "1.png", "./0.png", "../0.png"])).flatmap(
                lambda entry: st.just({"width": 30, "height": 20} | entry)
            ),
            max_size=3,
        ),
        "annotations": st.lists(
            st.one_of(
                entries(
                    id=st.integers(0, 9),
                    image_id=st.integers(0, 2),
                    category_id=st.integers(0, 2),
                    bbox=st.lists(NUMBERS, min_size=3, max_size=5) | st.just([5, 5, 10, 10]),
                    area=NUMBERS,
                    iscrowd=st.integers(0, 1),
                    ignore=ODD,
                    segmentation=MASKS,
                ),
                ODD,
            ),
            max_size=4,
        ),
        "categories": st.lists(entries(id=st.integers(0, 2), name=st.sampled_from(["a", "b"])), max_size=3),
    }
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with two images of 30 x 20 pixels."""
    root = tmp_path_factory.mktemp("odd")
    (root / "annotations").mkdir()
    (root / "val").mkdir()
    for number in (0, 1):
        pixels = np.full((20, 30, 3), 100 * number, np.uint8)
        Image.fromarray(pixels).save(root / "val" / f"{number}.png")
    return root


def say(root, content, *, masks):
    """Write a content, and return the split and its refusals; what is accepted is scored with perfect predictions."""
    file = root / "annotations" / "instances_val.json"
    file.write_text(json.dumps(content))
    split = CocoSplit(file, root / "val")
    problems = check_coco(split.annotations, split.images, masks=masks)
    if not any(one.severity == "refuse" for one in problems):
        score(split, root, "segm" if masks else "bbox")
    return problems


def score(split: CocoSplit, root: Path, kind):
    """Assert that perfect predictions of an accepted split come to a score."""
    usable, _ = usable_split(split, root / "work", skip=False, cap=0)
    content = usable.read()
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    found = []
    for entry in content["annotations"]:
        one = {key: entry[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        if kind == "segm":
            mask = entry["segmentation"]
            rle = mask_tools.frPyObjects(mask, *sizes[entry["image_id"]]) if not is_compressed(mask) else mask
            rle = mask_tools.merge(rle) if isinstance(rle, list) else rle
            one["segmentation"] = {"size": rle["size"], "counts": as_text(rle["counts"])}
            assert mask_tools.decode(one["segmentation"]).shape == sizes[entry["image_id"]]
        found.append(one)
    (root / "found.json").write_text(json.dumps(found))
    with contextlib.redirect_stdout(io.StringIO()):
        scores = average_precision(usable.annotations, root / "found.json", kind)
    assert np.isfinite(scores["box_ap" if kind == "bbox" else "mask_ap"])


def is_compressed(mask):
    return isinstance(mask, dict) and isinstance(mask["counts"], str)


def as_text(counts):
    return counts.decode() if isinstance(counts, bytes) else counts


@settings(max_examples=150, deadline=None, derandomize=True)
@given(content=CONTENT, masks=st.booleans())
def test_any_content_is_refused_or_can_be_scored(place, content, masks):
    assert all(one.sentence.startswith(("instances_val.json", str(place))) for one in say(place, content, masks=masks))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(change=st.sampled_from(["id", "area", "iscrowd", "segmentation", "bbox", "ignore"]), value=ODD | MASKS)
def test_one_odd_value_in_a_sound_content_is_refused_or_can_be_scored(place, change, value):
    entry = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [5, 5, 10, 10], "area": 100, "iscrowd": 0}
    entry["segmentation"] = [[5, 5, 15, 5, 15, 15, 5, 15]]
    content = {
        "images": [{"id": 0, "file_name": "0.png", "width": 30, "height": 20}],
        "annotations": [entry, {**entry, "id": 2, change: value}],
        "categories": [{"id": 1, "name": "a"}],
    }
    assert len(say(place, content, masks=True)) <= 3


EDGES = (-32, -31, -2, -1.5, -1, 0.0, 0.5, 0, 1, True, 19, 20, 21, 21.5, 29, 30, 31, 41, 42, 61, 62, 2**31)
IMAGES = [{"id": number, "file_name": f"{number}.png", "width": 30, "height": 20} for number in (0, 1)]
SOUND = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [5, 5, 10, 10.5], "area": 1, "iscrowd": 0}
SOUND["segmentation"] = [[5, 5, 15, 5, 15, 15.5, 5, 15], [6, 6, 8, 6, 8, 8]]


def one_changed(values):
    """Yield a list of numbers with each of them replaced by each value where a rule ends."""
    for place in range(len(values)):
        for edge in EDGES:
            yield [*values[:place], edge, *values[place + 1 :]]


def odd_entries():
    """Yield a sound annotation with one change, of every kind that a column could overlook."""
    yield from ({**SOUND, "bbox": box} for box in one_changed([5, 5, 10, 10]))
    yield from ({**SOUND, "bbox": box} for box in one_changed([0, 0, 30, 20]))
    for key in ("id", "area", "iscrowd", "image_id", "category_id", "ignore", "bbox", "segmentation"):
        yield from (
            {**SOUND, key: value} for value in (*EDGES, 144, 150.0, 151, None, "1", [], 2**53 + 1, 2**64, 10**400)
        )
        yield {name: value for name, value in SOUND.items() if name != key}
    yield from ({**SOUND, "segmentation": [polygon]} for polygon in one_changed([5, 5, 15, 5, 15, 15]))
    yield from ({**SOUND, "segmentation": [polygon, [5, 5, 6, 6, 7, 5]]} for polygon in one_changed([1, 2, 3, 4]))
    for polygon in (
        [True, True, False, True, True, True],
        [5, 5, 15, 5, 15],
        [5, 5, None, 5, 15, 15],
        [[5, 5]] * 6,
        {},
    ):
        yield {**SOUND, "segmentation": [SOUND["segmentation"][0], polygon]}
    yield {**SOUND, "segmentation": [[5, 5, float("nan"), 5, 15, 15]]}


def assert_columns_find_the_same(content):
    """Assert that what is found by columns is what a look at each annotation finds."""
    everyone = range(len(content["annotations"]))
    one_by_one = examine(content, everyone)
    assert examine(content) == one_by_one
    if not any(one.severity == "refuse" for one in one_by_one.form + one_by_one.others):
        assert json.dumps(mend(content)) == json.dumps(mend(content, everyone))


def test_columns_find_what_a_look_at_each_annotation_finds():
    odd = list(odd_entries())
    assert len(odd) > 500
    for entry in odd:
        for among in ([entry], [SOUND, {**entry, "id": entry.get("id", 7)}, {**SOUND, "id": 9}]):
            assert_columns_find_the_same(
                {"images": IMAGES, "annotations": among, "categories": [{"id": 1, "name": "a"}]}
            )


@pytest.mark.parametrize("at_once", [1, 2, 3, 4, 100])
def test_columns_leave_the_odd_annotations_alone_to_look_at(monkeypatch, at_once):
    monkeypatch.setattr(columns, "_AT_ONCE", at_once)
    crowd = {**SOUND, "iscrowd": 1, "segmentation": {"size": [20, 30], "counts": [100, 50, 450]}}
    content = {"images": IMAGES, "annotations": [SOUND, crowd, SOUND, {**SOUND, "bbox": [5, 5, 10, 0]}]}
    content["categories"] = [{"id": 1, "name": "a"}]
    assert suspects(content) == [1, 3]
    content["images"] = [{**IMAGES[0], "width": 30.0}, IMAGES[1]]
    assert list(suspects(content)) == [0, 1, 2, 3]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(content=CONTENT)
def test_columns_find_it_in_any_content(place, content):
    file = place / "annotations" / "instances_any.json"
    file.write_text(json.dumps(content))
    with contextlib.suppress(UserError):
        assert_columns_find_the_same(read_annotations(file))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(content=st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode("utf-16")))
def test_any_bytes_are_refused(place, content):
    file = place / "annotations" / "instances_bytes.json"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"instances_bytes\.json: (not|is)"):
        read_annotations(file)


def test_a_file_in_utf16_is_read(place):
    file = place / "annotations" / "instances_utf16.json"
    content = {"images": [{"file_name": "ä.png"}], "annotations": [], "categories": [{"name": "é"}]}
    file.write_bytes(json.dumps(content, ensure_ascii=False).encode("utf-16"))
    assert read_annotations(file) == content


@settings(max_examples=100, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), share=st.floats(0.01, 1), columns=st.booleans())
def test_compressed_run_lengths_are_read_as_pycocotools_does(seed, share, columns):
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(1, 50, 2))
    mask = rng.random((height, width)) < share
    if columns:
        mask[:] = mask[:1]
    mask[0, 0] = True
    rle = mask_tools.encode(np.asfortranarray(mask.astype(np.uint8)))
    segmentation = {"size": [height, width], "counts": rle["counts"].decode()}
    assert mask_fault(segmentation, height, width) == ""
    assert mask_area(segmentation) == mask.sum()
