"""One process or two under torchrun: the same views, the same weights, each image evaluated once."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch
from helpers.processes import TORCHRUN, TWO_RANKS, end, finish, kill, start

pytestmark = pytest.mark.gate

SETTINGS = ["student.drop_path=0.0", "recipe.epochs=7", "run.save_every=3"]


def torchrun(run, *overrides, restarts=0):
    return start([*TWO_RANKS, f"--max-restarts={restarts}", *run.command(*SETTINGS, *overrides)])


@pytest.fixture(scope="module")
def one_process(new_run_at):
    run = new_run_at("one")
    run.finish(*SETTINGS)
    return run


@pytest.fixture(scope="module")
def two_ranks(new_run_at):
    run = new_run_at("two")
    run.said = end(torchrun(run))
    return run


def record(run):
    return json.loads(next((run.folder / "results" / "records").glob("*.json")).read_text())


def test_two_ranks_end_with_the_weights_of_one(one_process, two_ranks):
    """21 steps with mixup, cutmix and repeated augmentation on; see tests/data/test_loader.py for the views.

    Key biases stand apart: softmax cancels them, so their gradient is nothing but rounding, which Adam scales up.
    """
    ours, theirs = two_ranks.weights(), one_process.weights()
    for name in ours:
        difference = (ours[name] - theirs[name]).abs()
        if name.endswith("qkv.bias"):
            query, key, value = difference.chunk(3)
            assert key.max() < 1e-4
            difference = torch.cat([query, value])
        assert difference.max() < 1e-6, name
    for mine, reference in zip(record(two_ranks)["curve"], record(one_process)["curve"], strict=True):
        assert mine["total"] == pytest.approx(reference["total"], rel=1e-5)


def test_ranks_have_nothing_to_warn_of(two_ranks):
    assert "Warning" not in two_ranks.said


def test_each_image_is_evaluated_once(one_process, two_ranks):
    assert record(two_ranks)["examples"] == record(one_process)["examples"] == 24
    assert record(two_ranks)["metrics"]["top1"] == record(one_process)["metrics"]["top1"]


def test_a_rank_that_dies_once_changes_no_bit(new_run_at, two_ranks):
    run = new_run_at("dies")
    process = torchrun(run, restarts=1)
    while not list(run.checkpoints.glob("step-*")):
        assert process.poll() is None, finish(process, 30)
        time.sleep(0.05)
    os.kill(rank_one(process.pid), signal.SIGKILL)
    output, _ = finish(process)
    assert process.returncode == 0, output
    assert "resuming from step" in output
    ours, theirs = run.weights(), two_ranks.weights()
    assert all((ours[name] == theirs[name]).all() for name in ours)
    assert run.log() == two_ranks.log()


def rank_one(launcher):
    """Find the process whose environment says RANK=1."""
    children = subprocess.run(["pgrep", "-P", str(launcher)], capture_output=True, text=True, check=True).stdout.split()
    for child in map(int, children):
        if b"\0RANK=1\0" in b"\0" + Path(f"/proc/{child}/environ").read_bytes():
            return child
    raise AssertionError("no rank 1")


def test_a_batch_that_does_not_split_is_refused(new_run_at):
    process = torchrun(new_run_at("odd"), "recipe.augment.mix_group=16")
    output, _ = finish(process)
    assert process.returncode != 0
    assert "does not split into 2 ranks" in output


BUFFERS = """
import torch
from torch import distributed, nn
from cskd_bench.engine.distributed import joined_ranks
with joined_ranks() as ranks:
    norm = nn.BatchNorm1d(2)
    norm(torch.full((4, 2), 1.0 + ranks.rank))
    ranks.share_buffers(norm, None)
    found = ranks.gather(norm.running_mean.tolist())
    assert found[0] == found[1] and abs(found[0][0] - 0.1) < 1e-6, found
"""


def test_every_rank_scores_with_the_statistics_that_are_saved(tmp_path):
    """A batch norm's running statistics come from each rank's own images; the main rank's are kept."""
    (tmp_path / "buffers.py").write_text(BUFFERS)
    end(start([*TWO_RANKS, tmp_path / "buffers.py"]))


def two_nodes(run, *overrides, on_second=(), stored_by=0):
    """Start one agent a node, as on two machines: one rank each, meeting at an address that both are told.

    The agent that comes first keeps the store; the first process has rank 0.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    agents = []
    for node in range(2):
        meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", address, "--rdzv-id", "cskd"]
        launcher = ["--nnodes", "2", "--node-rank", str(node), "--nproc-per-node", "1", *meeting]
        settings = [*SETTINGS, *overrides, *(on_second if node else ())]
        agents.append(start([*TORCHRUN, *launcher, *run.command(*settings)]))
        if stored_by > node:
            agents[node].send_signal(signal.SIGSTOP)
    if stored_by:
        wait_for(address)
        agents[0].send_signal(signal.SIGCONT)
    return agents


def wait_for(address):
    """Wait until somebody listens at an address."""
    host, port = address.split(":")
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with socket.socket() as caller:
            if caller.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("nobody listens")


def ends(agents):
    """Return code and output of every agent; where one hangs, all are killed with their ranks."""
    try:
        return [(agent, finish(agent)[0]) for agent in agents]
    finally:
        for agent in agents:
            if agent.poll() is None:
                kill(agent)


def test_two_nodes_end_with_the_weights_of_two_ranks_of_one(new_run_at, two_ranks):
    run = new_run_at("nodes")
    for agent, output in ends(two_nodes(run)):
        assert agent.returncode == 0, output
    ours, theirs = run.weights(), two_ranks.weights()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert run.log() == two_ranks.log()


LR, GROUP = "recipe.optim.lr=0.5", "recipe.augment.mix_group=16"
BAD = [
    ([], [LR], 0, "rank 1 has another configuration than rank 0: recipe.optim.lr was"),
    ([], [LR], 1, "rank 1 has another configuration than rank 0: recipe.optim.lr was"),
    ([GROUP], [], 0, "does not split into 2 ranks"),
]


@pytest.mark.parametrize(("everywhere", "on_second", "stored_by", "sentence"), BAD, ids=["one", "one, swapped", "both"])
def test_a_bad_setting_ends_both_nodes_with_its_sentence(new_run_at, everywhere, on_second, stored_by, sentence):
    """The agent that keeps the store may go first; torchrun's other one then adds words of its own about that."""
    run, began = new_run_at("bad"), time.monotonic()
    ended = ends(two_nodes(run, *everywhere, on_second=on_second, stored_by=stored_by))
    for agent, output in ended:
        assert agent.returncode == 1, output
        assert output.count("cskd-bench: ") == 1 and sentence in output, output
    assert any("exitcode  : 2 " in output for _, output in ended)
    assert time.monotonic() - began < 60 and not list(run.checkpoints.glob("step-*"))
