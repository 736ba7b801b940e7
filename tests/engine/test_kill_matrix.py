"""Killed at any step and at any point within it, a run ends with the same bits.

Each attempt is a forked child that kills itself on entering a chosen function at a chosen step, so that the
matrix is exact and costs no start-up time.
"""

import os
import random
import signal

import pytest

POINTS = ["learning_rate", "finished", "_agreement", "set_learning_rate", "_scores", "save"]
STEPS = 12


def attempt(run, step=None, point="learning_rate", number=signal.SIGKILL):
    """Run until the end, or until `point` is entered for the first time at or after `step`; returns the wait status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
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


def test_killed_at_every_step_of_one_run(new_run_at, reference, same_end):
    run = new_run_at("tormented")
    for step in range(2, STEPS, 2):
        assert os.WTERMSIG(attempt(run, step, "finished")) == signal.SIGKILL
    assert attempt(run) == 0
    same_end(run, reference)
