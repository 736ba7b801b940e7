"""`verify_records` finds what has happened to a records folder since it was written."""

import hashlib
import io
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from report_synthetic import add_examples, make_record, write_study

from cskd_bench.cli import main
from cskd_bench.errors import UserError
from cskd_bench.record import read_record, write_record
from cskd_bench.report.manifest import MANIFEST, write_manifest
from cskd_bench.report.recompute import contradictions
from cskd_bench.report.verify import Problem, foreign_records, verify_records

RESULTS = Path(__file__).resolve().parents[2] / "results"


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
    record = make_record(task="coco", protocol="detect", metric="box_ap", pictures=(side,))
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
    coco = {"task": "repeated", "protocol": "detect", "metric": "box_ap"}
    records = [make_record(**coco, created=f"2026-01-0{day}T00:00:00Z") for day in (1, 2)]
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


# ---------------------------------------------------------------- tampering


@pytest.fixture
def results(tmp_path):
    """A few stored records of three seeds of one cell and of their pretrainings, with side files and a manifest."""
    folder = tmp_path / "results" / "records"
    folder.mkdir(parents=True)
    for seed in (1, 2):
        for words in (
            f"flowers102_64-knn-deit-imagenette64_deit_s{seed}-*",
            f"imagenette128-pretrain-deit-*-s{seed}-*",
        ):
            found = sorted((RESULTS / "records").glob(words))
            assert found
            for path in found:
                shutil.copy(path, folder)
    write_manifest(folder)
    assert verify_records(folder) == []
    return folder.parent


def change(path, key, value, *, listed=False):
    """Change a field of a record, named with dots; `listed` takes away the manifest, which would tell at once."""
    data = json.loads(path.read_text())
    *sections, name = key.split(".")
    place = data
    for section in sections:
        place = place[section]
    place[name] = value
    path.write_text(json.dumps(data))
    if not listed:
        (path.parent / MANIFEST).unlink(missing_ok=True)


def only(results, words, seed=1):
    found = [path for path in sorted((results / "records").glob(f"{words}*.json")) if f"s{seed}-" in path.name]
    return found[0]


def reasons(results, path):
    return [problem.reason for problem in verify_records(results / "records") if problem.file == path.name]


def test_a_changed_score_contradicts_its_side_file(results):
    path = only(results, "flowers102_64-knn")
    change(path, "metrics.top1", 0.9)
    (reason,) = reasons(results, path)
    assert "gives top1" in reason and "the record 0.9000" in reason


@pytest.mark.parametrize(("metric", "by"), [("top1", 9e-5), ("mean_per_class", 0.2)])
def test_a_score_that_is_changed_by_less_than_an_image_contradicts_its_side_file_and_so_does_another(
    results, metric, by
):
    path = only(results, "flowers102_64-knn")
    change(path, f"metrics.{metric}", read_record(path).metrics[metric] + by)
    (reason,) = reasons(results, path)
    assert f"gives {metric} 0." in reason


def test_a_score_that_is_changed_with_its_side_file_is_found_by_the_manifest(results):
    path = only(results, "flowers102_64-knn")
    record = json.loads(path.read_text())
    side = path.parent / record["per_example"]["name"]
    with np.load(side) as arrays:
        better = {name: arrays[name] for name in arrays.files}
    better["predicted"] = better["label"].copy()
    content = io.BytesIO()
    np.savez_compressed(content, **better)
    side.write_bytes(content.getvalue())
    change(path, "metrics.top1", 1.0, listed=True)
    change(path, "metrics.mean_per_class", 1.0, listed=True)
    change(path, "per_example.sha256", hashlib.sha256(content.getvalue()).hexdigest(), listed=True)
    changed = f"it has changed since {MANIFEST} was written"
    assert verify_records(path.parent) == [Problem(side.name, changed), Problem(path.name, changed)]
    (path.parent / MANIFEST).unlink()
    assert verify_records(path.parent) == []  # nothing else could tell


@pytest.mark.parametrize(
    ("words", "key", "value", "found"),
    [
        ("imagenette128-pretrain", "seed", 9, ["seed"]),
        ("imagenette128-pretrain", "config.seed", 9, ["id", "seed", "checkpoint.pretrain_seed"]),
        ("imagenette128-pretrain", "config.recipe.epochs", 7, ["id", "recipe", "checkpoint.pretrain_recipe"]),
        ("imagenette128-pretrain", "recipe", "0" * 16, ["recipe"]),
        ("imagenette128-pretrain", "method.teacher", "another@0123", ["id", "method.teacher"]),
        ("imagenette128-pretrain", "method.label", "cskd", ["method.label"]),
        ("imagenette128-pretrain", "method.config", {"kind": "deit"}, ["method.config"]),
        ("imagenette128-pretrain", "protocol", "evaluate", ["protocol"]),
        ("imagenette128-pretrain", "task.metric", "ema_top1", ["task.metric"]),
        ("imagenette128-pretrain", "task.group", "robustness", ["task.group"]),
        ("imagenette128-pretrain", "task.version", 2, ["task.version"]),
        ("imagenette128-pretrain", "model.image_size", 96, ["model.image_size"]),
        ("imagenette128-pretrain", "created", "1999", ["created"]),
        ("imagenette128-pretrain", "created", "2020-01-01T00:00:00-09:00", ["created"]),
        ("flowers102_64-knn", "protocol", "pretrain", ["settings cannot be read"]),
        ("flowers102_64-knn", "model.image_size", 96, ["model.image_size"]),
        ("flowers102_64-knn", "config.pretrain.teacher.name", "another", ["method.teacher"]),
        ("flowers102_64-knn", "config.task.knn.k", 3, ["id", "recipe", "task.fingerprint"]),
        ("flowers102_64-knn", "task.fingerprint", "0" * 16, ["recipe", "task.fingerprint"]),  # as an older one's
        ("flowers102_64-knn", "task.version", 9, ["task.version"]),
        ("flowers102_64-knn", "checkpoint.sha256", "0" * 64, ["id"]),
        ("flowers102_64-knn", "checkpoint.pretrain_seed", 9, ["checkpoint.pretrain_seed"]),
        ("flowers102_64-knn", "method.kind", "cskd", ["method.kind"]),
        ("flowers102_64-knn", "model.name", "another", ["model.name"]),
        ("flowers102_64-knn", "config.pretrain.recipe.epochs", "many", ["settings cannot be read"]),
    ],
)
def test_a_record_that_is_not_what_its_settings_make_it_is_named(results, words, key, value, found):
    path = only(results, words)
    change(path, key, value)
    told = reasons(results, path)
    assert len(told) == len(found)
    for name in found:
        assert any(reason.startswith(f"its {name}") for reason in told), name


def clone(path, changes):
    """Lay a record of another pretraining seed beside one, as if it had been run: all that follows from it is right."""
    data = json.loads(path.read_text())
    config = data["config"] if data["protocol"] == "pretrain" else data["config"]["pretrain"]
    data["seed"] = data["checkpoint"]["pretrain_seed"] = config["seed"] = 7
    data["checkpoint"] |= changes
    path.with_name("clone.json").write_text(json.dumps(data))
    record = read_record(path.with_name("clone.json"))
    named = [text.rpartition(" ")[2] for text in contradictions(record) if text.startswith("its id")]
    path.with_name("clone.json").unlink()
    data["id"] = named[0]
    copy = path.with_name(f"{named[0]}.json")
    copy.write_text(json.dumps(data))
    (path.parent / MANIFEST).unlink(missing_ok=True)
    return copy


def test_the_weights_of_a_cloned_seed_are_found(results):
    path = only(results, "imagenette128-pretrain")
    copy = clone(path, {})
    second = max(path, copy)  # the later of the two is named
    (said,) = [reason for reason in reasons(results, second) if "weights" in reason]
    assert said == f"has the weights of {min(path, copy).name}, whose pretraining seed is " + (
        "1, not 7" if second == copy else "7, not 1"
    )


def test_the_predictions_of_a_cloned_seed_are_found_whatever_its_weights_are_called(results):
    path = only(results, "flowers102_64-knn")
    copy = clone(path, {"sha256": "7" * 64})
    second = max(path, copy)
    shared, said = reasons(results, second)
    assert shared.startswith("its side file ") and shared.endswith(f" is that of {min(path, copy).name}")
    assert said.startswith(f"has the predictions of {min(path, copy).name}, whose pretraining seed is ")


def test_equal_predictions_of_one_pretraining_are_no_clone(results):
    """kNN draws nothing: another seed of the same checkpoint says the same."""
    path = only(results, "flowers102_64-knn")
    data = json.loads(path.read_text())
    data["seed"] = 7
    path.with_name("other.json").write_text(json.dumps(data))
    (path.parent / MANIFEST).unlink()
    assert not any("predictions" in problem.reason for problem in verify_records(path.parent))


@pytest.mark.parametrize("named", [True, False])
def test_an_accuracy_without_its_side_file_is_found(results, named):
    path = only(results, "flowers102_64-knn")
    (path.parent / json.loads(path.read_text())["per_example"]["name"]).unlink()
    (path.parent / MANIFEST).unlink()
    if not named:
        change(path, "per_example", None)
    (reason,) = reasons(results, path)
    assert ("cannot be read" if named else "its top1 has no side file") in reason


# ---------------------------------------------------------------- the manifest


def test_a_manifest_is_what_sha256sum_checks(results, capsys):
    assert main(["records", "manifest", "--results", str(results)]) == 0
    count = len(list((results / "records").iterdir())) - 1
    assert f"{MANIFEST}: {count} files" in capsys.readouterr().out
    if tool := shutil.which("sha256sum"):
        subprocess.run([tool, "--strict", "--quiet", "-c", MANIFEST], cwd=results / "records", check=True)
    lines = (results / "records" / MANIFEST).read_text().splitlines()
    assert lines == sorted(lines, key=lambda line: line[66:]) and len(lines) == count


def test_files_that_are_gone_or_not_listed_are_found(results):
    path = only(results, "flowers102_64-knn")
    side = path.parent / json.loads(path.read_text())["per_example"]["name"]
    for file in (path, side):
        file.unlink()
    record = make_record(task="coco", protocol="detect", metric="box_ap")
    write_record(path.parent, record)
    gone = f"{MANIFEST} lists it, and it is not there"
    problems = verify_records(path.parent)
    assert Problem(path.name, gone) in problems and Problem(side.name, gone) in problems
    (new,) = [problem for problem in problems if problem.reason != gone]
    assert new.file == f"{record.id}.json" and "does not list it" in new.reason
    with pytest.raises(UserError, match=r"is missing since it was listed in MANIFEST; put the file back"):
        write_manifest(path.parent)  # leaving out a run that came out badly is a change too
    (path.parent / MANIFEST).unlink()
    write_manifest(path.parent)
    assert verify_records(path.parent) == []


def test_a_changed_file_does_not_come_into_the_manifest(results):
    path = only(results, "flowers102_64-knn")
    change(path, "note", "better", listed=True)
    before = (path.parent / MANIFEST).read_bytes()
    with pytest.raises(UserError, match=rf"{path.name}: has changed since it was listed"):
        write_manifest(path.parent)
    assert (path.parent / MANIFEST).read_bytes() == before


@pytest.mark.parametrize(
    "lines",
    ["nonsense\n", "{last}\n{other}  {name}\n", "{other}  ../{name}\n", "{other}  {name}\n{last}\n", "{cut}"],
    ids=["no line", "twice, ours last", "another folder", "twice, ours first", "cut off"],
)
def test_a_manifest_that_cannot_be_read_or_says_two_things_is_a_sentence(results, capsys, lines):
    path = results / "records" / MANIFEST
    last = path.read_text().splitlines()[-1]
    path.write_text(lines.format(last=last, name=last[66:], other="0" * 64, cut=last[:40]))
    for action in ("verify", "manifest"):
        assert main(["records", action, "--results", str(results)]) == 2
        assert "MANIFEST: line " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["two\nlines.npz", "b\x0bell.npz", b"no text \xff.npz"])
def test_a_name_that_no_line_holds_does_not_come_into_the_manifest(folder, capsys, name):
    Path(os.fsdecode(os.fsencode(folder) + b"/" + os.fsencode(name))).write_bytes(b"")
    with pytest.raises(UserError, match="MANIFEST cannot list the file "):
        write_manifest(folder)
    assert any(problem.reason == "no record refers to this side file" for problem in verify_records(folder))
    assert main(["records", "verify", "--results", str(folder.parent)]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0].endswith(".npz: no record refers to this side file") and told[0].isprintable()


def test_records_without_settings_of_ours_are_counted_and_no_problem(folder, results, capsys):
    assert foreign_records(folder) == 4 and foreign_records(results / "records") == 0
    assert main(["records", "verify", "--results", str(folder.parent)]) == 0
    assert "4 of them hold no settings of ours" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["", "first_look", "methods", "small_data"])
def test_the_committed_records_have_a_manifest(name):
    assert (RESULTS / name / "records" / MANIFEST).is_file()
