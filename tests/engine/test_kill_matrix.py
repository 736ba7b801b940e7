"""Killed at any step and at any point within it, a run ends with the same bits.

Each attempt is a forked child that kills itself on entering a chosen function at a chosen step, so that the
matrix is exact and costs no start-up time.
"""

import itertools
import json
import os
import random
import signal
import sys

import pytest
from helpers.processes import wait_for_fork

pytestmark = pytest.mark.gate

POINTS = ["learning_rate", "finish_batch", "_agreement", "set_learning_rate", "scores_of_epoch", "save"]
STEPS = 12


def attempt(run, step=None, point="learning_rate", number=signal.SIGKILL):
    """Run until the end, or until `point` is entered for the first time at or after `step`; returns the wait status."""
    child = os.fork()
    if child:
        return wait_for_fork(child)
    try:
        import torch

        from cskd_bench import cli
        from cskd_bench.engine import training

        torch.set_num_threads(1)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1), os.dup2(quiet, 2)
        now = {"step": -1}
        rate = training.learning_rate

        def counting(config, at, *rest):
            now["step"] = at
            return rate(config, at, *rest)

        training.learning_rate = counting
        original = getattr(training, point)

        def deadly(*args, **kwargs):
            if point == "learning_rate":
                now["step"] = args[1]
            if step is not None and now["step"] >= step:
                os.kill(os.getpid(), number)
            return original(*args, **kwargs)

        setattr(training, point, deadly)
        os._exit(cli.main(run.command()[2:]))
    finally:
        os._exit(99)


@pytest.fixture(scope="module")
def reference(new_run_at):
    run = new_run_at("reference")
    assert attempt(run) == 0
    return run


BATCHES = 24  # of evaluation: 4 epochs, 6 batches of 4 images


def attempt_in_evaluation(run, at=None, number=signal.SIGKILL):
    """Run until the end, or until batch `at` of all batches of evaluation is asked for; it is noted in a file."""
    child = os.fork()
    if child:
        return wait_for_fork(child)
    try:
        import torch

        from cskd_bench import cli
        from cskd_bench.data.eval_views import SplitViews

        torch.set_num_threads(1)
        sys.stdout = sys.stderr = (run.folder / "said.txt").open("w", buffering=1)
        real, asked = SplitViews.batch, itertools.count()

        def deadly(views, turn, stop):
            now = next(asked)
            if at is not None and now > at:
                with (run.folder / "after.txt").open("a") as file:
                    file.write("one more batch\n")
            if now == at:
                (run.folder / "inside.txt").write_text("evaluate")
                os.kill(os.getpid(), number)
            return real(views, turn, stop)

        SplitViews.batch = deadly
        os._exit(cli.main([*run.command()[2:], "--set", "run.eval_batch_size=4"]))
    finally:
        os._exit(99)


draw = random.Random(0)
KILLS = [(step, draw.choice(POINTS)) for step in draw.sample(range(STEPS), 12)]


@pytest.mark.parametrize(("step", "point"), KILLS)
def test_sigkill(new_run_at, reference, same_end, step, point):
    run = new_run_at("killed")
    assert os.WTERMSIG(attempt(run, step, point)) == signal.SIGKILL
    assert attempt(run) == 0
    same_end(run, reference)


@pytest.mark.parametrize("step", sorted(draw.sample(range(STEPS - 1), 4)))
def test_sigterm(new_run_at, reference, same_end, step):
    run = new_run_at("stopped")
    assert os.WEXITSTATUS(attempt(run, step, number=signal.SIGTERM)) == 75
    assert attempt(run) == 0
    same_end(run, reference)


draw_batches = random.Random(1)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
@pytest.mark.parametrize("at", sorted(draw_batches.sample(range(BATCHES), 10)))
def test_ended_inside_an_evaluation_nothing_is_lost(new_run_at, reference, same_end, number, at):
    """Its epoch is scored by the process that goes on: weights, log, scores and record are the same."""
    run = new_run_at("evaluation")
    status = attempt_in_evaluation(run, at, number)
    assert (run.folder / "inside.txt").read_text() == "evaluate"
    if number == signal.SIGKILL:
        assert os.WTERMSIG(status) == signal.SIGKILL
    else:
        assert os.WEXITSTATUS(status) == 75
        assert "was scored" in (run.folder / "said.txt").read_text()
        after = run.folder / "after.txt"
        assert not after.exists() or len(after.read_text().splitlines()) == 1  # it takes a batch, not an evaluation
    kept = sorted(path.name for path in run.checkpoints.glob("step-*"))[-1]
    assert kept == f"step-{3 * (at // 6 + 1):09d}"  # of the epoch's end, written before its evaluation
    assert attempt_in_evaluation(run) == 0
    same_end(run, reference)
    assert scored(run) == scored(reference)


def scored(run):
    """What a record says of a run's result: all but times, place and process."""
    (file,) = (run.folder / "results" / "records").glob("*.json")
    record = json.loads(file.read_text())
    predictions = file.with_name(record["per_example"]["name"]).read_bytes()
    return [record[key] for key in ("id", "metrics", "curve", "examples", "checkpoint")], predictions


def test_killed_at_every_step_of_one_run(new_run_at, reference, same_end):
    run = new_run_at("tormented")
    for step in range(2, STEPS, 2):
        assert os.WTERMSIG(attempt(run, step, "finish_batch")) == signal.SIGKILL
    assert attempt(run) == 0
    same_end(run, reference)
