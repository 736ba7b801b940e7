"""The measurement of how long a detection run on COCO takes to start."""

import json
from pathlib import Path

import pytest
import torch

from cskd_bench.data import index
from cskd_bench.detection import facts
from cskd_bench.detection.annotations import let_go
from cskd_bench.engine.distributed import Ranks
from cskd_bench.errors import UserError
from cskd_bench.speed import coco
from cskd_bench.speed.run import run_speed
from cskd_bench.task import load_task

pytest.importorskip("mmdet", reason="the detection extra is not installed")
from cskd_bench.speed import coco_start


@pytest.mark.gate
def test_starts_are_measured_beside_pycocotools(monkeypatch):
    """In this process, which forgets between starts what a process of its own would not know."""
    monkeypatch.setattr(index, "FEWEST", 1)
    monkeypatch.setattr(coco, "SETTLED", 2.1)
    coco_start.load_libraries()
    kept, run = [], coco._run

    def start(words):
        if words[0] == "-c":
            return run(words)
        let_go()
        monkeypatch.setattr(facts, "_known", {})
        root, work = map(Path, words[-2:])
        kept.append(len([*work.rglob("*.list"), *(root / "annotations").glob("*.index")]))
        spec = load_task("coco", None, [f"data.root={json.dumps(str(root))}"])
        ranks = Ranks(0, 1, torch.device("cpu"))
        taken = coco_start._measure(lambda: coco_start.start(spec, work, ranks))
        return [taken] * (2 if "torch.distributed.run" in words else 1)

    monkeypatch.setattr(coco, "_run", start)
    found = coco.measure_coco(200, 2, "cpu")
    assert kept == [0, 4, 0, 4] * 2  # of each split an index and a list
    sides = {row["side"]: row for row in found["sides"]}
    assert next(iter(sides)) == "pycocotools" and len(sides) == 5 and "200 objects" in found["what"]
    for row in sides.values():
        assert row["median_seconds"] > 0 and row["megabytes"] > 10 and len(row["seconds_of_ranks"]) == 2
    assert sides["pycocotools"]["times_pycocotools"] == sides["pycocotools"]["memory_times_pycocotools"] == 1
    assert len(sides["first start, 2 ranks"]["seconds_of_ranks"][0]) == 2


@pytest.mark.gate
def test_a_start_in_a_process_of_its_own_says_what_it_took(tmp_path):
    coco.make_coco(tmp_path / "coco", 100)
    (taken,) = coco._run(["-m", coco._CHILD, str(tmp_path / "coco"), str(tmp_path / "work")])
    assert taken["cpu"] > 0 and taken["peak"] > 1e7
    with pytest.raises(RuntimeError, match="expected annotations"):
        coco._run(["-m", coco._CHILD, str(tmp_path / "none"), str(tmp_path / "work")])


def test_the_data_are_the_same_every_time_and_as_odd_as_coco(tmp_path):
    files = []
    for name in ("a", "b"):
        coco.make_coco(tmp_path / name, 300)
        files.append((tmp_path / name / "annotations" / "instances_train2017.json").read_bytes())
    assert files[0] == files[1]
    content = json.loads(files[0])
    objects, images = content["annotations"], {one["id"] for one in content["images"]}
    assert len(objects) == 300 and images - {one["image_id"] for one in objects}
    assert {one["category_id"] for one in objects} == set(coco._IDS) == {one["id"] for one in content["categories"]}
    assert sum(one["bbox"][3] == 0 for one in objects) == 2
    assert any(one["iscrowd"] for one in objects)


def test_too_few_objects_are_refused():
    with pytest.raises(UserError, match="--objects 99"):
        coco.measure_coco(99, 3, "cpu")


def test_one_round_is_usual_for_coco_alone(monkeypatch):
    asked = []
    monkeypatch.setattr(
        coco, "measure_coco", lambda objects, rounds, clock: asked.append(rounds) or {"what": "", "sides": []}
    )
    for rounds in (None, 2):
        run_speed("coco", None, rounds=rounds)
    assert asked == [1, 2]
    with pytest.raises(UserError, match="--rounds 2: medians need at least 3"):
        run_speed("host", None, rounds=2)
