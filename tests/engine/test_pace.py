"""The log says how a run goes, and the terminal what limits it."""

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # fault_matrix.py

from fault_matrix import Place, command, run_ranks

from cskd_bench.cells.pretrain import pretrain
from cskd_bench.config import RunConfig, load_config
from cskd_bench.engine import feed, pace
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.logs import TIMINGS
from cskd_bench.engine.pace import Pace, advice, cores_of_rank
from cskd_bench.engine.state import Progress

ALONE = Ranks(0, 1, torch.device("cpu"))


def windows(folder):
    lines = map(json.loads, (folder / "runs" / "tiny" / "log.jsonl").read_text().splitlines())
    return [line for line in lines if "total" in line]


def test_a_loader_that_slows_down_shows_in_the_windows_after_it(tiny_config, tmp_path, monkeypatch, capfd):
    """Twelve steps, and a wait of 0.3 s from the seventh on: in log.jsonl, on the epochs' lines, not in the curve."""
    real, asked = feed.next_item, []

    def slow(*arguments):
        asked.append(arguments)
        time.sleep(0.3 if len(asked) > 6 else 0)
        return real(*arguments)

    monkeypatch.setattr(feed, "next_item", slow)
    config = load_config(tiny_config, ["run.log_every=1"])
    record = pretrain(config, tmp_path / "runs", tmp_path / "results", ALONE)
    found = windows(tmp_path)
    assert len(found) == 12 and all(0 <= line["data_wait"] <= 1 for line in found)
    before, after = found[2:6], found[6:]
    assert max(line["images_per_second"] for line in after) < 16 / 0.3
    assert min(line["images_per_second"] for line in before) > max(line["images_per_second"] for line in after)
    assert min(line["data_wait"] for line in after) > max(line["data_wait"] for line in before)
    assert all(line["peak_memory"] > 10**8 for line in found), "torch alone takes more"
    assert len(record.curve) == 4 and not set(TIMINGS) & set().union(*record.curve)
    (line,) = (said for said in capfd.readouterr().err.splitlines() if "epoch 4/4" in said)
    rate, wait = found[-1]["images_per_second"], 100 * found[-1]["data_wait"]
    norm, memory = found[-1]["grad_norm"], found[-1]["peak_memory"] / 1e9
    assert line.endswith(f"  {rate:,.0f} img/s  data wait {wait:.0f} %  {memory:,.1f} GB  grad_norm {norm:.2f}")
    assert record.cost.images_per_second > 1.05 * rate, "the record's is that of the whole run"


@pytest.mark.gate
def test_the_share_that_is_logged_is_the_mean_over_ranks(tiny_config, colour_squares, tmp_path):
    place = Place(tmp_path, tiny_config, Path(), colour_squares)

    def watch(rank):
        measure, real = Pace.measure, feed.next_item

        def watched(self, waited):
            names, values = measure(self, waited)
            with (tmp_path / f"rank{rank}.jsonl").open("a") as file:
                file.write(json.dumps(dict(zip(names, values.tolist(), strict=True))) + "\n")
            return names, values

        def slow(*arguments):
            time.sleep(0.2 * rank)
            return real(*arguments)

        Pace.measure, feed.next_item = watched, slow

    words = command(place, "fp32", bank=False)
    codes, _ = run_ranks(place, [words] * 2, {rank: lambda rank=rank: watch(rank) for rank in range(2)})
    assert codes == [0, 0], place.said(0)
    ours = [[json.loads(line) for line in (tmp_path / f"rank{rank}.jsonl").open()] for rank in range(2)]
    logged = windows(tmp_path)
    assert len(logged) == len(ours[0]) == len(ours[1]) == 4
    assert all(two["data_wait"] > one["data_wait"] for one, two in zip(*ours, strict=True))
    for line, one, two in zip(logged, *ours, strict=True):
        assert all(line[name] == pytest.approx((one[name] + two[name]) / 2) for name in TIMINGS)


class Steps:
    """A run whose windows take 10 s each and wait for given shares of it."""

    def __init__(self, workers=1):
        run = RunConfig(workers=workers)
        self.progress = Progress()
        job = SimpleNamespace(title="run", run=run, recipe=SimpleNamespace(batch_size=16))
        self.pace, self.waited = Pace(job, ALONE, self.progress), 0.0

    def window(self, share, *, epoch_ends=False, seconds=10.0):
        self.progress.step += 5
        self.progress.seconds += seconds
        self.waited += share * seconds
        names, values = self.pace.measure(self.waited)
        means = dict(zip(names, values.tolist(), strict=True))
        assert means["data_wait"] == pytest.approx(share) and means["images_per_second"] == pytest.approx(80 / seconds)
        return self.pace.close_window(means, self.waited, epoch_ends=epoch_ends)


def test_what_to_do_is_said_once_and_again_where_it_changes_much():
    run = Steps()
    assert run.window(0.9) == "", "workers start in a process's first window"
    assert [run.window(0.3) for _ in range(pace.WINDOWS - 1)] == [""] * (pace.WINDOWS - 1)
    assert run.window(0.3).startswith("run: 30 % of the time waits for views")
    assert run.window(0.35, epoch_ends=True) == ""
    assert "60 %" in run.window(0.6, epoch_ends=True)
    assert run.window(0.05, epoch_ends=True) == "", "nothing to do"


def test_a_run_on_a_cpu_without_workers_takes_turns_and_waits_for_nothing():
    run = Steps(workers=0)
    assert [run.window(0.9, epoch_ends=True) for _ in range(3)] == [""] * 3


def test_the_mean_of_an_epoch_decides_and_seconds_are_not_judged():
    run = Steps()
    run.window(0.0)
    assert run.window(0.5, seconds=2.0, epoch_ends=True) == "", "two seconds"
    assert run.window(0.0, seconds=9.0, epoch_ends=True) == "", "1 s of 11"
    assert run.window(0.0, seconds=10.0) == ""
    assert "25 % of the time" in run.window(0.5, epoch_ends=True)


@pytest.mark.parametrize(
    ("workers", "cores", "cache", "says"),
    [
        (0, 4, "memory", "(no workers on 4 cores a rank): run.workers=4 may be faster; stop"),
        (8, 12, "memory", "(8 workers on 12 cores a rank): run.workers=12 may be faster; stop"),
        (8, 8, "memory", "(8 workers on 8 cores a rank): more cores would be faster; stop"),
        (0, 1, "memory", "(no workers on 1 core a rank): more cores would be faster; stop"),
        (1, 1, "none", 'more cores would be faster, and so may run.cache = "memory" if the images fit into it; stop'),
    ],
)
def test_advice_is_what_is_true_of_the_machine(workers, cores, cache, says):
    assert says in advice(0.25, workers, cores, cache)
    assert "engine" not in advice(0.25, workers, cores, cache), "other views are another recipe"


@pytest.mark.parametrize(
    ("environment", "cores"),
    [
        ({}, 6),
        ({"LOCAL_WORLD_SIZE": "4"}, 3),
        ({"SLURM_PROCID": "0", "SLURM_CPUS_PER_TASK": "5"}, 5),
        ({"SLURM_CPUS_PER_TASK": "5", "LOCAL_WORLD_SIZE": "1"}, 12),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS_PER_NODE": "2"}, 6),
    ],
)
def test_ranks_share_the_cores_of_a_machine(monkeypatch, environment, cores):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(12)), raising=False)
    assert cores_of_rank(4 if "LOCAL_WORLD_SIZE" in environment else 2, environment) == cores
