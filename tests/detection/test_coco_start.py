"""An annotation file is read once: what is made of it serves every later look, cell and rank, and is the same."""

import json
import os
import pickle
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.processes import TWO_RANKS, end, start
from PIL import Image

from cskd_bench.data import index
from cskd_bench.data import manifests as manifests_module
from cskd_bench.detection import annotations, decoded, lists
from cskd_bench.detection.annotations import find_split, let_go, read_annotations
from cskd_bench.detection.decoded import undecodable
from cskd_bench.detection.digits import make_digits
from cskd_bench.detection.facts import facts_of
from cskd_bench.detection.lists import ListSettings, listed_entry, listed_images, map_list, shared_list
from cskd_bench.detection.splits import is_published, splits_identity
from cskd_bench.detection.start import usable_splits
from cskd_bench.doctor.data import check_data
from cskd_bench.speed.coco import make_coco
from cskd_bench.task import load_task

OBJECTS = 300


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An invented COCO of a few objects, whose images are all black, and older than what may still change."""
    root = tmp_path_factory.mktemp("made") / "coco"
    make_coco(root, OBJECTS)
    for split in ("train2017", "val2017"):
        found = find_split(root, split)
        for image in read_annotations(found.annotations)["images"]:
            Image.new("RGB", (image["width"], image["height"])).save(found.images / image["file_name"])
    return root


@pytest.fixture
def coco(made, tmp_path):
    """A copy that a test may change."""
    shutil.copytree(made, tmp_path / "coco")
    for file in (tmp_path / "coco").rglob("*.*"):
        age(file)
    yield tmp_path / "coco"
    let_go()


def age(file, seconds=60):
    """Give a file a time that lies back."""
    then = time.time() - seconds
    os.utime(file, (then, then))


@pytest.fixture
def reads(monkeypatch):
    """The annotation files that are read."""
    found, load = [], annotations._load
    monkeypatch.setattr(annotations, "_load", lambda file: found.append(file.name) or load(file))
    return found


def forget(monkeypatch):
    """Begin as another process would, but for the indexes in files."""
    let_go()
    monkeypatch.setattr("cskd_bench.detection.facts._known", {})


def test_a_file_is_read_once_and_again_when_it_has_changed(coco, reads):
    split = find_split(coco, "train2017")
    assert facts_of(split).problems(split, masks=True) and split.read() is split.read()
    assert facts_of(split) is facts_of(split) and reads == ["instances_train2017.json"]
    content = json.loads(split.annotations.read_text())
    content["categories"][0]["name"] = "other"
    split.annotations.write_text(json.dumps(content))
    assert facts_of(split).classes[0] == "other"
    age(split.annotations)
    assert facts_of(split).classes[0] == "other" and facts_of(split).classes[0] == "other"
    assert len(reads) == 3


def test_another_process_reads_a_large_file_s_index_alone(coco, reads, monkeypatch):
    monkeypatch.setattr(index, "FEWEST", 1)
    split = find_split(coco, "train2017")
    before = facts_of(split), splits_identity(split, split)
    forget(monkeypatch)
    assert (facts_of(split), splits_identity(split, split)) == before and len(reads) == 1
    forget(monkeypatch)
    monkeypatch.setattr("cskd_bench.detection.facts.code_digest", lambda: "of other rules")
    assert facts_of(split) == before[0] and len(reads) == 2
    forget(monkeypatch)
    content = split.annotations.read_bytes()
    split.annotations.write_bytes(content.replace(b"class 1", b"thing 1"))
    age(split.annotations, 30)
    assert facts_of(split).classes[0] == "thing 1" and facts_of(split).sha256 != before[0].sha256


def test_a_list_is_what_mmdet_makes_of_the_file(coco, tmp_path):
    """Crowds, boxes without height, ids with gaps, digits; all filters; a part of the classes."""
    pytest.importorskip("mmdet", reason="the detection extra is not installed")
    from cskd_bench.detection import operators

    operators.install()
    from mmdet.datasets import CocoDataset

    digits = find_split(make_digits(tmp_path / "digits", train=8, val=2), "train")
    odd = find_split(coco, "train2017")
    content = json.loads(odd.annotations.read_text())
    content["annotations"][5]["ignore"] = 1
    content["annotations"][6]["bbox"][0] = 3000
    content["annotations"][7]["segmentation"] = []
    content["images"].reverse()
    odd.annotations.write_text(json.dumps(content))
    for split in (digits, odd):
        names = facts_of(split).classes
        for classes in (names, names[3:5][::-1]):
            for chosen, is_test in (
                (None, False),
                ({"filter_empty_gt": True}, False),
                ({"filter_empty_gt": True, "min_size": 450}, False),
                ({"min_size": 50}, True),
            ):
                theirs = CocoDataset(
                    ann_file=str(split.annotations),
                    data_prefix={"img": "there/"},
                    metainfo={"classes": classes},
                    filter_cfg=chosen,
                    test_mode=is_test,
                    serialize_data=False,
                    lazy_init=True,
                )
                theirs.data_list = theirs.load_data_list()
                expected = theirs.filter_data()
                used = {} if is_test else chosen or {}
                settings = ListSettings(tuple(classes), used.get("filter_empty_gt", False), used.get("min_size", 0))
                ours = [
                    {**entry, "img_path": f"there/{entry['img_path']}"}
                    for entry in listed_images(split.read(), settings)
                ]
                assert json.dumps(ours) == json.dumps(expected)


def test_a_data_set_maps_its_list_and_reads_the_file_where_there_is_none(coco, tmp_path, reads):
    pytest.importorskip("mmdet", reason="the detection extra is not installed")
    from cskd_bench.detection import operators

    operators.install()
    from cskd_bench.detection.components import KeyedCocoDataset

    split = find_split(coco, "train2017")
    settings = {
        "ann_file": str(split.annotations),
        "data_prefix": {"img": f"{split.images}/"},
        "metainfo": {"classes": facts_of(split).classes},
        "filter_cfg": {"filter_empty_gt": True},
        "seed": 0,
    }
    path = shared_list(split, ListSettings(facts_of(split).classes, filter_empty=True), tmp_path / "lists")
    read = KeyedCocoDataset(**settings)
    split.annotations.unlink()
    mapped = KeyedCocoDataset(**settings, list_file=str(path))
    assert len(mapped) == len(read) > 10 and isinstance(mapped.data_bytes, np.memmap)
    for number in (0, 1, len(read) - 1, len(read) + 2):
        assert mapped.get_data_info(number) == read.get_data_info(number)
    assert reads == ["instances_train2017.json"]


def test_a_damaged_list_is_made_again_and_a_whole_one_is_not(coco, tmp_path, monkeypatch):
    split, settings = find_split(coco, "val2017"), ListSettings(("class 1", "class 2"))
    path = shared_list(split, settings, tmp_path)
    whole = path.read_bytes()
    for damaged in (whole[:-100], whole[:40] + b"?" + whole[41:], b""):
        path.write_bytes(damaged)
        assert shared_list(split, settings, tmp_path) == path and path.read_bytes() == whole
    monkeypatch.setattr(lists, "hold_annotations", None)
    assert shared_list(split, settings, tmp_path) == path
    assert len(map_list(path)[1]) == len(facts_of(split).names)


def test_a_list_runs_nothing():
    stored = np.frombuffer(pickle.dumps(Path), np.uint8)
    with pytest.raises(pickle.UnpicklingError, match="an entry of a list with"):
        listed_entry(stored, np.array([len(stored)]), 0)


def test_images_are_decoded_once_and_again_when_one_has_changed(coco, monkeypatch):
    decodings, decode = [], decoded.broken_images
    monkeypatch.setattr(decoded, "broken_images", lambda *given: decodings.append(1) or decode(*given))
    split = find_split(coco, "val2017")
    assert undecodable(split) == undecodable(split) == {} and len(decodings) == 1
    image = split.images / facts_of(split).names[0]
    image.write_bytes(image.read_bytes()[:-200])
    age(image, 30)
    broken = undecodable(split)
    assert list(broken) == [image.name] and undecodable(split) == broken and len(decodings) == 2
    image.unlink()
    assert "no such image" in undecodable(split)[image.name] and len(decodings) == 3


def test_no_image_of_a_published_data_set_is_decoded_and_a_missing_one_is_told(coco, tmp_path, monkeypatch):
    monkeypatch.setattr(decoded, "broken_images", None)
    splits = [find_split(coco, name) for name in ("train2017", "val2017")]
    counts = {split.images.name: len(facts_of(split).names) for split in splits}
    known = manifests_module.manifests()["coco"]
    data = load_task("coco", None, [f"data.root={json.dumps(str(coco))}", 'data.on_corrupt="skip"']).data
    assert not is_published(data, splits[0])  # it has fewer images than COCO
    monkeypatch.setattr(manifests_module, "manifests", lambda: {"coco": known.model_copy(update={"splits": counts})})
    (splits[1].images / facts_of(splits[1]).names[1]).unlink()
    (_, all_there), (_, left_out) = usable_splits(data, *splits, tmp_path / "work")
    assert all_there == [] and len(left_out) == 1 and "no such image" in left_out[0]


def test_the_doctor_is_content_with_coco_as_it_is(coco):
    """Two boxes have no height in train2017: a note. Crowds are run lengths, ids have gaps, images have no objects."""
    data = load_task("coco", None, [f"data.root={json.dumps(str(coco))}"]).data
    found = list(check_data(data, ("train2017", "val2017"), None, decode=True, threads=1))
    assert {one.verdict for one in found} == {"ok", "note"}
    notes = [one.found for one in found if one.verdict == "note"]
    assert len(notes) == 1 and "boxes under a pixel wide or high: 2" in notes[0]
    content = read_annotations(find_split(coco, "train2017").annotations)
    assert any(
        entry["iscrowd"] and isinstance(entry["segmentation"]["counts"], list) for entry in content["annotations"]
    )


PROGRAM = """
import sys, time
from datetime import timedelta
from functools import partial
from pathlib import Path
from torch import distributed
from cskd_bench.data import index
from cskd_bench.detection import annotations
from cskd_bench.engine.distributed import joined_ranks
from cskd_bench.speed import coco_start
from cskd_bench.task import load_task

index.FEWEST = 1
distributed.init_process_group = partial(distributed.init_process_group, timeout=timedelta(seconds=3))
read, load = [], annotations._load
def slowly(file):
    read.append(file.name)
    time.sleep(3)
    return load(file)
annotations._load = slowly
with joined_ranks() as ranks:
    coco_start.load_libraries()
    coco_start.start(load_task("coco", None, [f'data.root="{sys.argv[1]}"']), Path(sys.argv[2]), ranks)
    found = ranks.gather(len(read))
    if ranks.is_main:
        print("read", *found)
"""


@pytest.mark.gate
@pytest.mark.timeout(240)
def test_of_two_ranks_one_reads_and_the_other_waits_longer_than_a_collective(coco, tmp_path):
    pytest.importorskip("mmdet", reason="the detection extra is not installed")
    (tmp_path / "start.py").write_text(PROGRAM)
    words = [*TWO_RANKS, tmp_path / "start.py", coco, tmp_path / "work"]
    assert "read 2 0" in end(start(words))
    assert "read 0 0" in end(start(words))
