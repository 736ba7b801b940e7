"""The jobs of docs/evidence_gpu.md, at a hundredth of their size on a CPU: packed, run, brought back, gone on with."""

import re
import shlex
import shutil
import sys
import tarfile
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tomlkit
from helpers.processes import run as run_command
from PIL import Image

from cskd_bench.record import read_record

pytestmark = pytest.mark.gate

ROOT = Path(__file__).resolve().parents[1]
PLAN = ROOT / "configs" / "benchmarks" / "evidence_gpu.toml"
METHODS = ["supervised", "kd-standardised", "cskd"]  # without settings
SEEDS = [1, 2]
CELLS = 1 + len(METHODS) * len(SEEDS)
TEACHER = "tin100_64_gpu_teacher"


def call(*words: object, code: int = 0) -> str:
    done = run_command(words, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def write_small(folder: Path) -> None:
    """Write the plan and its files with fewer seeds and methods, a hundredth of the epochs, and smaller models."""
    plan = tomllib.loads(PLAN.read_text())
    for key, name in (("teacher", plan["teacher"]), ("student", plan["students"][0])):
        settings = tomllib.loads((ROOT / name).read_text())
        settings["data"]["num_classes"] = 2
        settings["recipe"] |= {"epochs": settings["recipe"]["epochs"] // 100, "batch_size": 50, "precision": "fp32"}
        settings["recipe"]["optim"]["warmup_epochs"] = 0.0
        settings["run"]["workers"] = 0
        if key == "teacher":
            settings["student"]["name"] = "test_resnet"
        else:
            settings["student"] |= {"depth": 1, "embed_dim": 24, "num_heads": 2}
            settings["teacher"] |= {"name": "test_resnet", "num_classes": 2}
        (folder / f"{key}.toml").write_text(tomlkit.dumps(settings))
    plan |= {"teacher": "teacher.toml", "students": ["student.toml"], "seeds": SEEDS}
    plan["methods"] = [method for method in plan["methods"] if method in [{"kind": kind} for kind in METHODS]]
    for family in ("primary", "exploratory"):
        plan[family] = [one for one in plan[family] if {one["method"], one["against"]} <= set(METHODS)]
    (folder / PLAN.name).write_text(tomlkit.dumps(plan))


def write_images(root: Path) -> None:
    """Write 150 training and 50 validation images of 64 px of two classes, one bright and one dark."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 75), ("val", 25)):
        for label in range(2):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(128 * label, 128 + 128 * label, (64, 64, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.JPEG")


def documented_job(number: int) -> list[str]:
    """Return the words after run.sh of a job's command in the page."""
    page = (ROOT / "docs" / "evidence_gpu.md").read_text()
    commands = re.findall(r"^bash \.gpu/run\.sh ((?:.*\\\n)*.*)$", page, re.MULTILINE)
    return shlex.split(commands[number - 1].replace("\\\n", ""))


class Jobs:
    """What is carried between this machine and a node: `kept` holds what jobs brought back."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        self.checkout, self.folder, self.count = checkout, folder, 0
        self.kept = folder / "kept"
        (self.kept / "results").mkdir(parents=True)

    def pack(self) -> Path:
        self.count += 1
        packed = self.folder / f"packed{self.count}"
        words = ["--data", self.folder / "tin100_pretrain64", "--plans", self.folder / "plans", "--records", self.kept]
        own = ["--no-wheels", "--python", sys.executable, "--output", packed]
        call("bash", self.checkout / "support/gpu/pack.sh", *own, *words)
        return packed

    def run(self, packed: Path, code: int) -> tuple[str, Path]:
        """Run the second job's command on two cores; return what the bench says and what comes back."""
        words = [PLAN.name if word.endswith(PLAN.name) else word for word in documented_job(2)]
        own = ["--parallel", 2, "--threads", 1, "--python", sys.executable, "--output", packed / "out"]
        call("bash", packed / "run.sh", *words, *own, code=code)
        return (packed / "out/plan.log").read_text(), packed / "out/plan.tar.gz"

    def unpack(self, archive: Path) -> str:
        words = ["--results", self.kept / "results", "--runs", self.kept / "runs"]
        return call(sys.executable, ROOT / "support/gpu/unpack.py", archive, *words)

    def records(self) -> set[str]:
        return {path.name for path in (self.kept / "results" / "records").glob("*.json")}


def test_jobs_bring_back_whole_cells_until_the_plan_is_finished(checkout, tmp_path):
    (tmp_path / "plans").mkdir()
    write_small(tmp_path / "plans")
    write_images(tmp_path / "tin100_pretrain64")
    jobs = Jobs(checkout, tmp_path)

    packed = jobs.pack()
    queue = packed / "code/cskd_bench/bench/queue.py"  # what is measured once seems too long, on any machine
    queue.write_text(re.sub(r"^MARGIN: Final = [\d.]+", "MARGIN: Final = 1e6", queue.read_text(), flags=re.MULTILINE))
    log, archive = jobs.run(packed, code=75)
    first = [int(number) for number in re.findall(r"^\[(\d)/7\]", log, re.MULTILINE)][-1]
    assert 1 + len(METHODS) <= first < CELLS
    assert f"{CELLS - first} of the cells are left, as they would not finish within 8 minutes" in log
    assert not list((packed / "out/work/runs").glob("*/checkpoints")), "every cell that started is finished"
    with tarfile.open(archive) as packed_runs:
        names = packed_runs.getnames()
    assert {name.split("/")[1] for name in names if name.startswith("runs/")} == {TEACHER}
    assert f"{first} new records, 0 were there" in jobs.unpack(archive)
    before = jobs.records()
    shutil.rmtree(packed)

    log, archive = jobs.run(jobs.pack(), code=0)
    assert f"{first} of {CELLS} cells were finished before" in log and TEACHER not in log
    said = jobs.unpack(archive)
    assert f"{CELLS - first} new records, {first} were there" in said
    assert f"0 problems in {CELLS} records" in said
    assert before < jobs.records() and len(jobs.records()) == CELLS
    records = [read_record(path) for path in (jobs.kept / "results" / "records").glob("*.json")]
    assert {(record.method.label, record.seed) for record in records if record.checkpoint.run != TEACHER} == {
        (method, seed) for method in METHODS for seed in SEEDS
    }


def test_the_first_job_runs_the_gate_alone_and_then_measures_steps():
    words = documented_job(1)
    assert words[:2] == ["plan", "speed"]
    assert words[words.index("--bench") + 1] == "--seeds 1 --methods supervised,kd-standardised"
    second = documented_job(2)
    assert [word for word in words if word in second] == second
