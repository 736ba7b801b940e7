"""A node without a network: what is packed here runs there, and its records come back (on a CPU, offline)."""

import json
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from helpers.processes import run as run_command
from helpers.tiny import PLAIN_VIEWS, write_run
from PIL import Image

from cskd_bench.record import read_record
from cskd_bench.report.manifest import read_manifest, write_manifest

pytestmark = pytest.mark.gate

SUPPORT = Path(__file__).resolve().parents[1] / "support" / "gpu"
SCRIPTS = ["pack.sh", "run.sh"]
STUDENT = {"name": "tiny", "method.kind": "supervised", "data.dataset": "sklearn/digits", "data.num_classes": 10}
STUDENT |= {"data.eval_crop": 1.0, "student.patch_size": 16, "student.depth": 1, "recipe.epochs": 1}
STUDENT |= {"recipe.batch_size": 64, "recipe.ema_decay": 0.0, "recipe.optim.warmup_epochs": 0.0}
STUDENT |= {"recipe.augment.auto_augment": "", **PLAIN_VIEWS}
PLAN = """
students = ["student.toml"]
seeds = [0]
tasks = ["digits"]
protocols = ["knn"]
[[methods]]
kind = "supervised"
"""


def call(*words: object, code: int = 0) -> str:
    """Run a script and return what it says; all of it where the exit code is another one."""
    done = run_command(words, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def pack(checkout: Path, output: Path, *words: object, code: int = 0) -> str:
    own = ("--no-wheels", "--python", sys.executable, "--output", output)
    return call("bash", checkout / "support/gpu/pack.sh", *own, *words, code=code)


def run(packed: Path, output: Path, *words: object, code: int = 0) -> str:
    return call("bash", packed / "run.sh", "--python", sys.executable, "--output", output, *words, code=code)


def unpack(source: Path, results: Path, *words: object, code: int = 0) -> str:
    return call(sys.executable, SUPPORT / "unpack.py", source, "--results", results, *words, code=code)


@pytest.fixture
def plans(tmp_path) -> Path:
    folder = tmp_path / "my plans"
    folder.mkdir()
    write_run(folder / "student.toml", STUDENT)
    (folder / "plan.toml").write_text(PLAN)
    return folder


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_read_by_bash_and_list_their_options(script):
    call("bash", "-n", SUPPORT / script)
    assert "--python FILE" in call("bash", SUPPORT / script, "--help")


def test_a_plan_is_packed_run_brought_back_and_goes_on(checkout, git, plans, tmp_path):
    packed, out = tmp_path / "packed", tmp_path / "out"
    said = pack(checkout, packed, "--plans", plans, "--limit", 16)
    assert f'"commit": "{git("rev-parse", "HEAD")}", "dirty": false' in said and "all: " in said
    measure = "--part teacher --teacher test_resnet --batch 1 --rounds 3"
    parts = ["--tests", "tests/test_schema.py", "--speed", measure, "--plan", "plan.toml"]
    said = run(packed, out, "tests", "speed", "plan", *parts, "--keep-runs", "--threads", 1)
    assert said.index(git("rev-parse", "HEAD")) < said.index("device: CPU") < said.index("tests: done")
    assert "speed: done" in said and "2 records are there" in said
    with tarfile.open(out / "speed.tar.gz") as archive:
        (member,) = [name for name in archive.getnames() if name.endswith(".json")]
        measured = json.load(archive.extractfile(member))
    assert measured["machine"]["device"] and measured["code"]["commit"] == git("rev-parse", "HEAD")

    said = unpack(out / "plan.tar.gz", tmp_path / "back/results", "--runs", tmp_path / "back/runs")
    assert "2 new records, 0 were there" in said and "0 problems in 2 records" in said and "unknown" not in said
    (path,) = (tmp_path / "back/results/records").glob("digits-knn-*.json")
    record = read_record(path)
    assert (record.code.commit, record.code.dirty) == (git("rev-parse", "HEAD"), False)
    assert record.device.startswith("CPU")

    path.unlink()  # the next job makes this one alone, from the weights that are carried in
    path.with_suffix(".examples.npz").unlink(missing_ok=True)
    pack(checkout, tmp_path / "again", "--plans", plans, "--records", tmp_path / "back")
    run(tmp_path / "again", tmp_path / "more", "plan", "--plan", "plan.toml")
    assert "1 of 2 cells were finished before" in (tmp_path / "more/plan.log").read_text()
    said = unpack(tmp_path / "more/plan.tar.gz", tmp_path / "back/results")
    assert "1 new records, 1 were there" in said and path.is_file()


def test_a_changed_tree_is_packed_as_changed(checkout, git, tmp_path):
    with (checkout / "cskd_bench" / "errors.py").open("a") as file:
        file.write("# changed\n")
    (checkout / "cskd_bench" / "untracked.py").touch()
    (checkout / "tasks" / "digits.toml").unlink()
    pack(checkout, tmp_path / "packed")
    code = tmp_path / "packed" / "code"
    found = json.loads((code / "cskd_bench" / "commit.json").read_text())
    assert found == {"commit": git("rev-parse", "HEAD"), "dirty": True}
    assert (code / "cskd_bench" / "errors.py").read_text().endswith("# changed\n")
    assert not (code / "cskd_bench" / "untracked.py").exists() and not (code / "tasks" / "digits.toml").exists()


def test_a_tree_without_its_history_is_packed_as_unknown(checkout, tmp_path):
    shutil.rmtree(checkout / ".git")
    assert '{"commit": "", "dirty": true}' in pack(checkout, tmp_path / "packed")
    assert (tmp_path / "packed/code/configs/quickstart/student.toml").is_file()


def test_data_are_copied_or_encoded_smaller_and_the_limit_is_held(checkout, tmp_path):
    images = tmp_path / "squares"
    for number in range(2):
        (images / str(number)).mkdir(parents=True)
        Image.effect_noise((120, 90), 80).save(images / str(number) / "a.JPEG", quality=95)
    (images / "classes.txt").write_text("two")
    words = ("--data", images, "--reencode", f"{images}=small", 80, 48, "--reencode", f"{images}=same", 80, 0)
    pack(checkout, tmp_path / "packed", *words)
    data = tmp_path / "packed" / "data"
    sizes = {name: Image.open(data / name / "1/a.JPEG").size for name in ("squares", "small", "same")}
    assert sizes == {"squares": (120, 90), "small": (64, 48), "same": (120, 90)}
    assert (data / "squares/0/a.JPEG").read_bytes() == (images / "0/a.JPEG").read_bytes()
    assert (data / "same/0/a.JPEG").stat().st_size < (images / "0/a.JPEG").stat().st_size
    assert (data / "small/classes.txt").read_text() == "two"
    said = pack(checkout, tmp_path / "packed", *words, "--limit", 1, code=1)
    assert "MiB, more than the limit of 1 MiB" in said


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--records", "."], ".: holds no results/"),
        (["--records"], "--records: unknown, or without its value"),
        (["--limit", "many"], "--limit many: a whole number of MiB is needed"),
    ],
)
def test_packing_says_what_is_wrong_before_it_packs(tmp_path, monkeypatch, words, reason):
    monkeypatch.chdir(tmp_path)
    own = ["--output", tmp_path / "packed", "--no-wheels"]
    assert reason in call("bash", SUPPORT / "pack.sh", *own, *words, code=2)
    assert not (tmp_path / "packed").exists()


def test_packing_never_empties_a_folder_of_something_else(tmp_path):
    (tmp_path / "data").mkdir()
    assert "holds other files" in call("bash", SUPPORT / "pack.sh", "--output", tmp_path, "--no-wheels", code=2)
    assert (tmp_path / "data").is_dir()


@pytest.fixture
def node(checkout, tmp_path) -> Path:
    """A packed folder whose `cskd-bench` sleeps until it is asked to stop; torch is as quick to import."""
    pack(checkout, tmp_path / "packed")
    (tmp_path / "packed/plans/plan.toml").touch()
    code = tmp_path / "packed" / "code"
    (code / "torch.py").write_text(
        "class cuda:\n    def is_available():\n        return False\n\n__version__ = 'a stand-in'\n"
    )
    (code / "cskd_bench/cli.py").write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        "print('at work', flush=True)\n"
        "time.sleep(60)\n"
    )
    return tmp_path / "packed"


@pytest.mark.parametrize("limit", ["--plan-seconds", "--total-seconds"])
def test_a_part_ends_at_its_limit_and_at_the_whole_jobs(node, tmp_path, limit):
    words = ["--plan", "plan.toml", limit, 3]
    began = time.monotonic()
    said = run(node, tmp_path / "out", "plan", "speed", "--speed", "--part step", "--speed-seconds", 1, *words, code=75)
    assert time.monotonic() - began < 25  # two commands that would take a minute each
    assert "plan: stopped by its limit" in said
    assert ("speed: not started, no time is left" in said) == (limit == "--total-seconds")
    assert (tmp_path / "out/plan.tar.gz").is_file()


def test_a_signal_ends_the_part_that_runs_and_starts_no_other(node, tmp_path):
    command = ["bash", node / "run.sh", "--python", sys.executable, "--output", tmp_path / "out", "plan", "tests"]
    process = subprocess.Popen([*map(str, command), "--plan", "plan.toml"], stdout=subprocess.PIPE, text=True)
    log, until = tmp_path / "out/plan.log", time.monotonic() + 60
    while not (log.is_file() and "at work" in log.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    process.terminate()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert "plan: stopped by a signal" in said and "tests: not started" in said


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["plan"], 1, "plan: not run, --plan names none"),
        (["plan", "--plan", "no.toml"], 1, "plan: not run, no.toml is not here, in code/ or in plans/"),
        ([], 2, "name a part"),
        (["tests", "--parallel", "two"], 2, "--parallel two: a whole number is needed"),
        (["everything", "x"], 2, "everything: unknown"),
    ],
)
def test_running_says_what_is_missing(node, tmp_path, words, code, reason):
    assert reason in run(node, tmp_path / "out", *words, code=code)


def test_a_failing_test_fails_the_job_and_later_parts_still_run(node, tmp_path):
    said = run(node, tmp_path / "out", "tests", "plan", "--tests", "tests/not_there.py", code=1)
    assert "tests: failed, exit code 4; ERROR: file or directory not found" in said and "plan: not run" in said


def test_a_record_of_the_same_name_and_other_content_is_refused(tmp_path, job):
    there = tmp_path / "results" / "records"
    shutil.copytree(job / "results" / "records", there)
    (path,) = there.glob("*.json")
    path.write_text(path.read_text() + " ")
    said = unpack(job, tmp_path / "results", code=2)
    assert said.count("\n") == 1 and f"{path.name}: " in said and "nothing was copied" in said


def test_records_that_do_not_verify_are_refused(tmp_path, job):
    (path,) = (job / "results" / "records").glob("*.json")
    path.rename(path.with_name("renamed.json"))
    said = unpack(job, tmp_path / "results", code=2)
    assert "renamed.json: its id is" in said and "nothing was copied" in said and not (tmp_path / "results").exists()
    path.with_name("renamed.json").unlink()
    assert "holds no records" in unpack(job, tmp_path / "results", code=2)


def test_a_manifest_that_is_here_lists_what_came(tmp_path, job):
    records = tmp_path / "results" / "records"
    records.mkdir(parents=True)
    write_manifest(records)
    unpack(job, tmp_path / "results")
    assert len(read_manifest(records)) == len(list((job / "results" / "records").iterdir())) == 2


def test_runs_that_are_here_stay_as_they_are(tmp_path, job):
    (job / "runs" / "a").mkdir(parents=True)
    assert "no such folder" not in unpack(job, tmp_path / "results", "--runs", tmp_path / "runs")
    (tmp_path / "runs/a/mine").touch()
    assert "is there, and stays" in unpack(job, tmp_path / "results", "--runs", tmp_path / "runs")
    assert (tmp_path / "runs/a/mine").is_file()


@pytest.fixture
def job(tmp_path) -> Path:
    """What a job left: one record, unpacked."""
    records = tmp_path / "job" / "results" / "records"
    records.mkdir(parents=True)
    stored = Path(__file__).parents[1] / "results" / "first_look" / "records"
    path = next(iter(sorted(stored.glob("*-knn-*.json"))))
    for file in (path, stored / json.loads(path.read_text())["per_example"]["name"]):
        shutil.copy(file, records)
    return tmp_path / "job"
