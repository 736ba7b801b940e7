"""A bank is built by one loader, shards are claimed as it comes to them, and packing runs beside the teacher."""

import threading

import pytest
from bank_runs import save_teacher, small_run

from cskd_bench.bank import build, labelling
from cskd_bench.bank.build import build_bank
from cskd_bench.bank.claim import Claims, ShardPlace, claim_shard
from cskd_bench.bank.store import shard_path
from cskd_bench.errors import UserError

PLACES = [ShardPlace(0, part) for part in range(4)]


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A run of one epoch: seven shards of two batches."""
    monkeypatch.setattr(build, "_SHARD_VIEWS", 128)
    return small_run(save_teacher(tmp_path), epochs=1)


@pytest.fixture
def beside(monkeypatch):
    """Pack in a thread, as on a GPU."""
    make = labelling.SecondQueue.__init__

    def pretend(self, device):
        make(self, device)
        self.runs_beside = True

    monkeypatch.setattr(labelling.SecondQueue, "__init__", pretend)


def locks(bank):
    return sorted(path.name for path in bank.rglob("*.lock"))


def test_one_loader_serves_all_shards(config, tmp_path, monkeypatch):
    started = []
    start = labelling.start_loader
    monkeypatch.setattr(labelling, "start_loader", lambda loader: (started.append(loader), start(loader))[1])
    assert build_bank(config, tmp_path / "bank").shards == 7
    assert len(started) == 1


def test_a_shard_is_claimed_when_the_one_before_is_all_asked_for(config, tmp_path, monkeypatch, beside):
    held = []
    label = labelling.Labeller._label

    def note(self, batch):
        held.append(locks(tmp_path / "bank"))
        return label(self, batch)

    monkeypatch.setattr(labelling.Labeller, "_label", note)
    build_bank(config, tmp_path / "bank")
    assert [len(names) for names in held] == [1, 1, *[2, 1] * 6], "the last batch of a shard is still being packed"
    assert locks(tmp_path / "bank") == []


def test_an_error_gives_back_what_was_claimed(config, tmp_path, monkeypatch, beside):
    label, seen = labelling.Labeller._label, []

    def fail(self, batch):
        seen.append(locks(tmp_path / "bank"))
        if len(seen) == 5:
            raise UserError("a damaged image")
        return label(self, batch)

    monkeypatch.setattr(labelling.Labeller, "_label", fail)
    with pytest.raises(UserError, match="a damaged image"):
        build_bank(config, tmp_path / "bank")
    assert seen[-1] and locks(tmp_path / "bank") == []
    assert shard_path(tmp_path / "bank", 0, 0).exists() and not shard_path(tmp_path / "bank", 0, 2).exists()


def test_packed_beside_the_teacher_a_bank_has_the_same_bytes(config, tmp_path, request):
    build_bank(config, tmp_path / "plain")
    request.getfixturevalue("beside")
    build_bank(config, tmp_path / "bank")
    shards = sorted((tmp_path / "plain").rglob("*.labels"))
    assert len(shards) == 7
    for shard in shards:
        assert shard.read_bytes() == (tmp_path / "bank" / shard.relative_to(tmp_path / "plain")).read_bytes()


def test_beside_the_teacher_a_response_that_is_not_finite_is_named(config, tmp_path, monkeypatch, beside):
    label = labelling.Labeller._label

    def spoil(self, batch):
        response = label(self, batch)
        return response._replace(dense_BKhw=response.dense_BKhw * float("nan"))

    monkeypatch.setattr(labelling.Labeller, "_label", spoil)
    with pytest.raises(UserError, match=r"epoch 0, views from 0: the teacher's response to image 0 .* is not finite"):
        build_bank(config, tmp_path / "bank")


def test_a_batch_is_packed_while_the_teacher_is_at_the_next(config, tmp_path, monkeypatch, beside):
    second, pack, label = threading.Event(), labelling.Labeller._pack, labelling.Labeller._label
    threads, begun = set(), []

    def packing(self, response):
        threads.add(threading.current_thread())
        assert second.wait(60), "the teacher waits for packing"
        return pack(self, response)

    def labelled(self, batch):
        begun.append(batch)
        if len(begun) == 2:
            second.set()
        return label(self, batch)

    monkeypatch.setattr(labelling.Labeller, "_pack", packing)
    monkeypatch.setattr(labelling.Labeller, "_label", labelled)
    build_bank(config, tmp_path / "bank")
    assert len(threads) == 1 and threads.isdisjoint({threading.main_thread()})


def test_claims_pass_over_what_is_there_or_made_by_another(tmp_path):
    done = shard_path(tmp_path, 0, 1)
    done.parent.mkdir(parents=True)
    done.touch()
    with claim_shard(shard_path(tmp_path, 0, 0), wait=False), Claims(tmp_path, PLACES) as claims:
        asked = iter(claims)
        assert locks(tmp_path) == [".part00000.labels.lock"]
        assert next(asked) == ShardPlace(0, 2) and len(locks(tmp_path)) == 2
        assert next(asked) == ShardPlace(0, 3) and len(locks(tmp_path)) == 3
        claims.release_first()
        assert locks(tmp_path) == [".part00000.labels.lock", ".part00003.labels.lock"]
        assert list(asked) == []
    assert locks(tmp_path) == []
