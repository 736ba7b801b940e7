"""A split's evaluation views: decoded once where they fit, else by workers that stay."""

import multiprocessing
import os
import signal
import time
from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import Image

from cskd_bench.data import eval_views, loader
from cskd_bench.data.eval_views import SplitViews
from cskd_bench.data.views import EvalView
from cskd_bench.errors import UserError

SIDE = 8
ONE = 3 * SIDE * SIDE  # bytes of a view


class Noise:
    """Images of noise that count, over all processes, how often one is loaded."""

    def __init__(self, images: int) -> None:
        draw = np.random.default_rng(0)
        self.pixels = draw.integers(0, 256, (images, SIDE, SIDE, 3), dtype=np.uint8)
        self.labels = np.arange(images) % 3
        self.loads = multiprocessing.get_context("fork").Value("i", 0)

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, index: int) -> Image.Image:
        with self.loads.get_lock():
            self.loads.value += 1
        return Image.fromarray(self.pixels[index])


def split(source, **settings):
    return SplitViews(source, EvalView(SIDE, 1.0), **{"batch_size": 4, "workers": 0} | settings)


def one_pass(views):
    return [views.batch(turn) for turn in range(views.turns)]


def expected(source, share):
    return torch.from_numpy(source.pixels[list(share)]).permute(0, 3, 1, 2)


def workers():
    return {child.pid for child in multiprocessing.active_children()}


@pytest.mark.parametrize("count", [0, 2])
def test_what_fits_is_decoded_once_and_needs_no_workers_afterwards(count):
    source, before = Noise(11), workers()
    views = split(source, workers=count, most_bytes=11 * ONE)
    assert torch.equal(torch.cat(one_pass(views)), expected(source, range(11)))
    assert workers() == before and views.is_kept
    for _ in range(2):
        assert torch.equal(torch.cat(one_pass(views)), expected(source, range(11)))
    assert source.loads.value == 11 and workers() == before


@pytest.mark.parametrize("most", [0, 11 * ONE - 1])
def test_what_does_not_fit_is_decoded_in_every_pass(most):
    source = Noise(11)
    views = split(source, most_bytes=most)
    for number in range(2):
        assert torch.equal(torch.cat(one_pass(views)), expected(source, range(11)))
        assert source.loads.value == 11 * (number + 1)


@pytest.mark.parametrize(("left", "kept"), [(None, True), (2 * 2 * 11 * ONE, True), (2 * 2 * 11 * ONE - 1, False)])
def test_half_of_the_memory_that_is_left_holds_the_views_of_all_ranks_here(monkeypatch, left, kept):
    monkeypatch.setattr(eval_views, "available_memory", lambda: left)
    monkeypatch.setattr(eval_views, "ranks_on_this_machine", lambda world: 2)
    views = split(Noise(11), most_bytes=10**6)
    one_pass(views)
    assert views.is_kept == kept


@pytest.mark.parametrize("most", [0, 10**6])
def test_ranks_share_a_split_in_as_many_turns(most):
    source = Noise(9)
    for rank, lengths in enumerate([[2, 1], [2, None], [2, None], [2, None]]):
        views = split(source, rank=rank, world=4, batch_size=2, most_bytes=most)
        for _ in range(2):
            batches = one_pass(views)
            assert [None if batch is None else len(batch) for batch in batches] == lengths
            found = torch.cat([batch for batch in batches if batch is not None])
            assert torch.equal(found, expected(source, range(rank, 9, 4)))
    assert one_pass(split(Noise(1), rank=1, world=2, most_bytes=most)) == [None]


def test_workers_stay_and_do_not_run_ahead():
    source, before = Noise(40), workers()
    views = split(source, workers=2)
    one_pass(views)
    stayed = workers() - before
    time.sleep(0.3)
    assert len(stayed) == 2 and source.loads.value == 40
    assert torch.equal(torch.cat(one_pass(views)), expected(source, range(40)))
    assert workers() - before == stayed and source.loads.value == 80
    del views
    assert workers() == before


def kill(processes):
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def test_a_worker_that_is_killed_in_a_pass_is_a_sentence(monkeypatch):
    before = workers()
    views = split(Noise(400), workers=1)
    for _ in range(2):
        views.batch(0)
        kill(workers() - before)
        with pytest.raises(UserError, match="a loader's worker ended"):
            for turn in range(1, views.turns):
                views.batch(turn)


def test_a_worker_that_is_killed_while_it_waits_is_replaced(monkeypatch):
    monkeypatch.setattr(loader, "LOOK", 1)
    source, before = Noise(9), workers()
    views = split(source, workers=2)
    one_pass(views)
    gone = workers() - before
    kill(gone)
    assert torch.equal(torch.cat(one_pass(views)), expected(source, range(9)))
    assert not (workers() - before) & gone


def test_a_pass_that_was_left_is_begun_anew():
    source = Noise(40)
    views = split(source, workers=1, most_bytes=10**6)
    views.batch(0), views.batch(1)
    assert torch.equal(torch.cat(one_pass(views)), expected(source, range(40)))
    assert views.is_kept


@pytest.mark.parametrize(("most", "loads"), [(0, 6), (10**6, 2)])
def test_a_few_images_come_from_memory_where_they_are_kept(most, loads):
    source = Noise(9)
    views = split(source, rank=1, world=2, most_bytes=most)
    one_pass(views)
    source.loads.value = 0
    for _ in range(2):
        assert torch.equal(views.pick(np.array([3, 2, 4])), expected(source, [3, 2, 4]))
    assert source.loads.value == loads
