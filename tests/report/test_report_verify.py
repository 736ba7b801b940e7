"""`verify_records` finds what has happened to a records folder since it was written."""

import json

import numpy as np
import pytest
from report_synthetic import add_examples, make_record, write_study

from cskd_bench.errors import UserError
from cskd_bench.record import write_record
from cskd_bench.report.verify import Problem, verify_records


@pytest.fixture
def folder(tmp_path):
    write_study(tmp_path, skills={"deit": 0.0, "cskd": 0.2}, seeds=2, examples=60)
    return tmp_path / "records"


def test_an_untouched_folder_has_no_problem(folder):
    assert verify_records(folder) == []


def damage_json(folder):
    path = sorted(folder.glob("*.json"))[0]
    path.write_text(path.read_text()[:-40])
    return path.name, "not a record"


def unknown_schema(folder):
    path = sorted(folder.glob("*.json"))[0]
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 9}))
    return path.name, "its schema version is not known to this release"


def unknown_key(folder):
    path = sorted(folder.glob("*.json"))[0]
    path.write_text(json.dumps({**json.loads(path.read_text()), "extra": 2}))
    return path.name, "extra"


def flip_a_byte(folder):
    path = sorted(folder.glob("*.json"))[0]
    side = folder / json.loads(path.read_text())["per_example"]["name"]
    content = bytearray(side.read_bytes())
    content[len(content) // 2] ^= 1
    side.write_bytes(content)
    return path.name, "has changed"


def lose_a_side_file(folder):
    path = sorted(folder.glob("*.json"))[0]
    (folder / json.loads(path.read_text())["per_example"]["name"]).unlink()
    return path.name, "cannot be read"


def lose_a_picture(folder):
    side = add_examples(folder, "picture.png", np.zeros(3), np.zeros(3))
    record = make_record(task="coco", pictures=(side,))
    write_record(folder, record)
    (folder / "picture.png").unlink()
    return f"{record.id}.json", "picture.png cannot be read"


def contradict(folder):
    path = sorted(folder.glob("*.json"))[0]
    data = json.loads(path.read_text())
    data["metrics"]["top1"] = 0.01
    path.write_text(json.dumps(data))
    return path.name, "the record 0.0100"


def repeat(folder):
    records = [make_record(task="repeated", created=f"2026-01-0{day}T00:00:00Z") for day in (1, 2)]
    for record in records:
        write_record(folder, record)
    return max(f"{record.id}.json" for record in records), "same cell and seed"


def stray(folder):
    (folder / "stray.npz").write_bytes(b"")
    return "stray.npz", "no record refers"


def forget_a_picture(folder):
    (folder / "picture.jpg").write_bytes(b"")
    return "picture.jpg", "no record refers"


@pytest.mark.parametrize(
    "harm",
    [
        damage_json,
        unknown_schema,
        unknown_key,
        flip_a_byte,
        lose_a_side_file,
        lose_a_picture,
        contradict,
        repeat,
        stray,
        forget_a_picture,
    ],
)
def test_every_harm_is_named_with_its_file(folder, harm):
    name, reason = harm(folder)
    problems = [problem for problem in verify_records(folder) if not problem.reason.startswith("no record refers")]
    problems = problems or verify_records(folder)
    assert [problem.file for problem in problems] == [name]
    assert reason in problems[0].reason


def test_a_renamed_record_is_found(folder):
    path = sorted(folder.glob("*.json"))[0]
    path.rename(folder / "zzz.json")
    assert verify_records(folder) == [Problem("zzz.json", f"its id is {path.stem!r}: the file was renamed or copied")]


def test_a_missing_folder_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        verify_records(tmp_path / "nowhere")
