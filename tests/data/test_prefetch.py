"""How many batches workers hold ready: as many as the memory holds, between one and eight."""

import shutil
from types import SimpleNamespace

import pytest

from cskd_bench.config import RunConfig
from cskd_bench.data.prefetch import batch_bytes, batches_ahead, free_shared_memory
from cskd_bench.engine import feed
from cskd_bench.launcher import ranks_on_this_machine

BATCH = batch_bytes(1024, 224)


def test_a_batch_is_its_bytes_as_made():
    assert BATCH == 1024 * 150_528


@pytest.mark.parametrize(
    ("memory", "workers", "ahead"),
    [(16 * BATCH, 8, 2), (16 * BATCH - 1, 8, 1), (BATCH // 2, 8, 1), (64 * BATCH, 8, 8), (900 * BATCH, 8, 8)],
)
def test_the_memory_decides(memory, workers, ahead):
    assert batches_ahead(memory, workers, BATCH) == ahead


@pytest.mark.parametrize(
    ("free", "asked", "world", "ahead"),
    [
        (10**12, 2_000_000_000, 1, 3),  # 4 workers x 154 MB
        (10**12, 2_000_000_000, 8, 8),  # 4 workers x 19 MB
        (10**12, 700_000_000, 1, 1),
        (1_300_000_000, 2_000_000_000, 1, 2),  # /dev/shm has less
        (1_300_000_000, 2_000_000_000, 2, 2),  # half of it for each rank, whose batches are half as large
        (None, 2_000_000_000, 1, 3),
    ],
)
def test_a_run_asks_for_what_it_allows_and_the_system_has(monkeypatch, free, asked, world, ahead):
    monkeypatch.setattr(feed, "free_shared_memory", lambda: free)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    run = RunConfig(workers=4, prefetch_memory=asked)
    job = SimpleNamespace(run=run, recipe=SimpleNamespace(batch_size=1024), view_size=224)
    assert feed.views_ahead(job, world) == ahead


def test_shared_memory_is_what_is_free(tmp_path):
    assert 0 < free_shared_memory(tmp_path) <= shutil.disk_usage(tmp_path).total
    assert free_shared_memory(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("environment", "here"),
    [({}, 16), ({"LOCAL_WORLD_SIZE": "8"}, 8), ({"SLURM_NTASKS_PER_NODE": "4"}, 4), ({"LOCAL_WORLD_SIZE": "x"}, 16)],
)
def test_ranks_of_this_machine_are_those_that_the_launcher_names(environment, here):
    assert ranks_on_this_machine(16, environment) == here
