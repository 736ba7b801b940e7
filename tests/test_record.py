"""Records: written once, never replaced, read back exactly; broken ones are named."""

import json
import shlex
import threading
from pathlib import Path

import pytest

from cskd_bench.errors import UserError
from cskd_bench.record import (
    CheckpointRef,
    CodeRef,
    Cost,
    MethodRef,
    ModelRef,
    Record,
    TaskRef,
    read_record,
    read_records,
    record_id,
    write_record,
)
from cskd_bench.record_migration import NO_PEAK


def a_record(name="digits-knn-cskd-s0", **changes):
    return Record(
        **{
            "id": name,
            "created": "2026-01-01T00:00:00+00:00",
            "task": TaskRef(name="digits", version=1, fingerprint="f", metric="top1"),
            "protocol": "knn",
            "method": MethodRef(kind="cskd", label="cskd"),
            "model": ModelRef(name="vit", image_size=32, parameters=1),
            "checkpoint": CheckpointRef(run="run", weights="raw", sha256="0"),
            "seed": 0,
            "recipe": "r",
            "config": {"a": [1, 2]},
            "metrics": {"top1": 0.5},
            "examples": 4,
            "code": CodeRef(version="0", commit="c", dirty=False),
            "versions": {},
            "device": "CPU",
            "command": "cskd-bench",
            "cost": Cost(seconds=1.0),
            **changes,
        }
    )


def test_round_trip(tmp_path):
    record = a_record(curve=({"epoch": 1.0, "total": 0.25},))
    assert read_record(write_record(tmp_path, record)) == record


def test_a_record_is_never_overwritten(tmp_path):
    path = write_record(tmp_path, a_record())
    before = path.read_bytes()
    with pytest.raises(UserError, match="never overwritten"):
        write_record(tmp_path, a_record(metrics={"top1": 1.0}))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_two_writers_of_one_name_leave_one_whole_record(tmp_path):
    outcomes = []

    def write(value):
        try:
            write_record(tmp_path, a_record(metrics={"top1": value}))
            outcomes.append(value)
        except UserError:
            pass

    threads = [threading.Thread(target=write, args=(n / 8,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 1
    assert read_record(tmp_path / "digits-knn-cskd-s0.json").value == outcomes[0]


@pytest.mark.parametrize("text", ["", "not json", "[]", '{"id": 3}', '{"schema_version": 99}'])
def test_broken_records_are_named_and_the_rest_is_read(tmp_path, text):
    write_record(tmp_path, a_record("a"))
    (tmp_path / "b.json").write_text(text)
    write_record(tmp_path, a_record("c"))
    first, broken, last = (entry for _, entry in read_records(tmp_path))
    assert (first.id, last.id) == ("a", "c")
    assert isinstance(broken, UserError)
    assert "b.json" in str(broken)


def test_records_of_the_first_schema_are_read_as_todays_and_left_as_they_are():
    """A kept record of version 1, whose note says what labelling took."""
    path = Path(__file__).parent / "fixtures" / "record_schema_1.json"
    before = path.read_bytes()
    assert json.loads(before)["schema_version"] == 1
    record = read_record(path)
    assert record.schema_version == 3
    assert record.cost.labelling_seconds == 812.0
    assert record.metrics["top1"] == 0.6436
    assert path.read_bytes() == before


RESULTS = Path(__file__).resolve().parents[1] / "results"


def kept(word):
    """A stored record of schema 2, as its file says it and as it is read."""
    path = next(iter(sorted((RESULTS / "records").glob(f"*{word}*.json"))))
    said = json.loads(path.read_bytes())
    assert said["schema_version"] == 2
    return said, read_record(path)


def test_what_older_records_say_in_words_is_read_as_fields():
    said, record = kept("-pretrain-cskd-")
    assert said["note"] == "teacher labels from a bank" and said["device"] == "CPU, 1 threads"
    assert record.labels_from == "bank" and record.hardware.threads == 1
    assert record.argv == tuple(shlex.split(said["command"])) and record.argv[:2] == ("cskd-bench", "pretrain")
    assert record.checkpoint.pretrain_images == said["config"]["data"]["identity"]
    assert not record.hardware.known and record.started == record.lock == ""


def test_a_transfer_and_a_run_without_a_teacher_have_labels_from_nowhere():
    for word in ("-knn-cskd-", "-pretrain-supervised-"):
        assert kept(word)[1].labels_from == "none"


def test_an_older_record_with_a_teacher_and_no_bank_had_it_in_the_loop():
    path = next((RESULTS / "first_look" / "records").glob("*-pretrain-cskd-*.json"))
    assert read_record(path).labels_from == "teacher"


def test_the_peak_of_an_older_record_was_its_processs_and_is_left_out_with_a_sentence(tmp_path):
    said, record = kept("-pretrain-cskd-")
    assert said["cost"]["peak_memory_bytes"] > 0 == record.cost.peak_memory_bytes
    assert record.note == f"teacher labels from a bank; {NO_PEAK}"
    said["cost"]["peak_memory_bytes"] = 0  # nothing was measured, and nothing is left out
    (tmp_path / f"{record.id}.json").write_text(json.dumps(said))
    assert read_record(tmp_path / f"{record.id}.json").note == "teacher labels from a bank"


def test_a_command_that_no_shell_reads_has_no_words(tmp_path):
    said, _ = kept("-knn-")
    (tmp_path / "a.json").write_text(json.dumps(said | {"command": "cskd-bench 'open"}))
    assert read_record(tmp_path / "a.json").argv == ()


@pytest.mark.parametrize("version", [1, 2])
def test_a_migrated_record_is_written_and_read_as_one_of_todays(tmp_path, version):
    said, _ = kept("-pretrain-cskd-")
    if version == 1:
        said = json.loads((Path(__file__).parent / "fixtures" / "record_schema_1.json").read_bytes())
    (tmp_path / "old.json").write_text(json.dumps(said))
    record = read_record(tmp_path / "old.json")
    assert read_record(write_record(tmp_path, record)) == record


def test_a_damaged_record_of_an_older_schema_is_named_by_what_is_missing(tmp_path):
    said, _ = kept("-knn-")
    del said["device"]
    (tmp_path / "a.json").write_text(json.dumps(said))
    with pytest.raises(UserError, match="not a record: device: Field required"):
        read_record(tmp_path / "a.json")


def test_a_damaged_record_of_the_first_schema_is_named(tmp_path):
    for text in ('{"schema_version": 1}', '{"schema_version": 1, "cost": 3}', '{"schema_version": 1, "cost"'):
        (tmp_path / "old.json").write_text(text)
        with pytest.raises(UserError, match=r"old\.json: not a record"):
            read_record(tmp_path / "old.json")


def test_unknown_keys_and_infinities_are_refused(tmp_path):
    path = write_record(tmp_path, a_record())
    data = json.loads(path.read_text())
    for change in ({"colour": 1}, {"metrics": {"top1": float("inf")}}, {"hardware": {"colour": 1}}):
        path.write_text(json.dumps(data | change))
        with pytest.raises(UserError):
            read_record(path)


def test_ids_are_file_names_that_repeat_for_the_same_cell():
    assert record_id("a/b", "s0", {"x": 1}) == record_id("a/b", "s0", {"x": 1})
    assert record_id("a/b", "s0", {"x": 1}) != record_id("a/b", "s0", {"x": 2})
    assert "/" not in record_id("a/../b", "s0", {"x": 1})
