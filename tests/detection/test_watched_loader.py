"""MMEngine's loaders: one that hangs can be stopped, and a worker that is gone is told in a sentence."""

import os
import signal
import time

import pytest
import torch
from torch.utils.data import DataLoader

from cskd_bench.data import loader as waiting
from cskd_bench.detection import watched_loader
from cskd_bench.detection.watched_loader import WatchedLoader
from cskd_bench.errors import Interrupted, UserError


class Numbers:
    """Numbers; some hang, kill their worker, or tell how it was begun."""

    def __init__(self, what=""):
        self.what = what

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if index == 3 and self.what == "hangs":
            time.sleep(60)
        if index == 3 and self.what == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.what == "begun":
            return index, os.environ.get("BEGUN"), signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
        return index


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(watched_loader, "LOOK", 0.2)
    monkeypatch.setattr(waiting, "STOPPING", 0.5)


def mark(worker):
    os.environ["BEGUN"] = str(worker)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order_and_again(hurried, workers):
    numbers = DataLoader(Numbers(), batch_size=2, num_workers=workers, persistent_workers=workers > 0)
    watched = WatchedLoader(numbers, lambda: True)  # a stop alone loses no batch
    for _ in range(2):
        assert torch.stack(list(watched)).tolist() == [[0, 1], [2, 3], [4, 5]]
    assert len(watched) == 3 and watched.sampler is numbers.sampler and watched.dataset is numbers.dataset


def test_a_loader_that_hangs_is_left_when_a_stop_is_asked_for(hurried):
    asked = []
    watched = WatchedLoader(DataLoader(Numbers("hangs"), num_workers=1), lambda: bool(asked))
    batches = iter(watched)
    assert [int(next(batches)) for _ in range(3)] == [0, 1, 2]
    asked.append(1)
    began = time.monotonic()
    with pytest.raises(Interrupted, match="while it waited for images"):
        next(batches)
    assert time.monotonic() - began < 20


def test_a_worker_that_is_gone_is_a_sentence(hurried):
    with pytest.raises(UserError, match=r"a loader's worker ended"):
        list(WatchedLoader(DataLoader(Numbers("killed"), num_workers=1), lambda: False))


def test_workers_leave_signals_to_the_main_process_and_begin_as_mmengine_says(hurried):
    numbers = DataLoader(Numbers("begun"), num_workers=1, batch_size=None, worker_init_fn=mark)
    assert {tuple(one[1:]) for one in WatchedLoader(numbers, lambda: False)} == {("0", True)}
