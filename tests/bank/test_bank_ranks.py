"""`bank build` under torchrun: ranks share the shards, and the bank is the one that a single process builds."""

import re
import time
from pathlib import Path

import pytest
import tomlkit
from bank_runs import save_teacher, small_run
from helpers.processes import TWO_RANKS, run

from cskd_bench.bank import build
from cskd_bench.bank.store import verify_bank

pytestmark = pytest.mark.gate


@pytest.fixture(scope="module")
def toml(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    path = folder / "run.toml"
    path.write_text(tomlkit.dumps(small_run(save_teacher(folder)).model_dump(mode="json", exclude_none=True)))
    return path


@pytest.fixture
def alone(toml, tmp_path, monkeypatch):
    """The bank of one process: two epochs of seven shards."""
    monkeypatch.setattr(build, "_SHARD_VIEWS", 128)
    monkeypatch.setenv("CSKD_BENCH_DEVICE", "cpu")
    build.build_bank(small_run(toml.with_name("teacher.safetensors")), tmp_path / "alone")
    return content(tmp_path / "alone")


def content(bank):
    return {path.relative_to(bank).as_posix(): path.read_bytes() for path in bank.rglob("*.labels")}


def two_ranks(toml, bank, fault="none"):
    (meeting := bank.with_name("meeting")).mkdir()
    script = Path(__file__).with_name("build_ranks.py")
    return run([*TWO_RANKS, script, toml, bank, meeting, fault])


def test_two_ranks_build_the_bank_of_one_process(toml, alone, tmp_path):
    done = two_ranks(toml, tmp_path / "bank")
    assert done.returncode == 0, done.stderr
    assert content(tmp_path / "bank") == alone and len(alone) == 14
    lines = re.findall(r"bank: ([\d,]+) views in (\d+) shards by rank (\d) of 2, [\d,]+ views/s", done.stdout)
    assert sorted(rank for _, _, rank in lines) == ["0", "1"], done.stdout
    assert sum(int(views.replace(",", "")) for views, _, _ in lines) == 2 * 896
    assert sum(int(shards) for _, shards, _ in lines) == 14 and all(int(shards) for _, shards, _ in lines)
    assert done.stdout.count("labelling views") == 1, "one progress bar"
    assert not list((tmp_path / "bank").rglob(".*")), "no lock and no half file is left"


def test_a_fault_on_one_rank_ends_all_and_what_was_labelled_stays(toml, alone, tmp_path):
    bank, began = tmp_path / "bank", time.monotonic()
    done = two_ranks(toml, bank, "fault")
    assert done.returncode != 0 and time.monotonic() - began < 50, "rank 0 was still at work"
    assert re.findall(r"^cskd-bench: .*$", done.stderr, re.MULTILINE) == ["cskd-bench: a damaged image"]
    assert re.search(r"exitcode\s*: 2 ", done.stderr) and 'build_ranks.py", line' not in done.stderr
    kept = content(bank)
    assert 0 < len(kept) < 14 and kept.items() <= alone.items() and verify_bank(bank) == []
    build.build_bank(small_run(toml.with_name("teacher.safetensors")), bank)
    assert content(bank) == alone
