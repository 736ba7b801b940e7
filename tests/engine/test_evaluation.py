"""Evaluations of a run: several sets of weights in one pass, decoded once, stopped, resumed and counted."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.processes import TWO_RANKS, end, start
from helpers.runs import small_student
from safetensors.torch import load_file

from cskd_bench.cells.pretrain import pretrain
from cskd_bench.config import DataConfig, load_config
from cskd_bench.data.open import open_source
from cskd_bench.data.sources import FolderSource
from cskd_bench.data.views import EvalView
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.evaluate import evaluate, evaluate_all, split_views
from cskd_bench.errors import Interrupted
from cskd_bench.stopping import Stop

ALONE = Ranks(0, 1, torch.device("cpu"))
VIEW = EvalView(32)
IMAGES = 24  # of the validation split


@pytest.fixture(scope="module")
def val(colour_squares):
    return open_source(DataConfig(root=str(colour_squares), num_classes=3), "val[:23]")


@pytest.fixture(scope="module")
def students():
    return [small_student(), small_student(depth=1)]


def assert_equal(ours, theirs):
    for name in ("label", "predicted", "confidence"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("most", [0, 10**6])
def test_one_pass_says_what_a_pass_for_each_says(val, students, most, precision):
    views = split_views(val, VIEW, ALONE, batch_size=4, workers=0, most_bytes=most)
    for _ in range(2):
        together = evaluate_all([student.predict for student in students], views, ALONE, precision=precision)
        for student, ours in zip(students, together, strict=True):
            theirs = evaluate(student.predict, val, VIEW, ALONE, batch_size=4, workers=0, precision=precision)
            assert_equal(ours, theirs)
    assert not np.array_equal(together[0].confidence, together[1].confidence)
    exact = evaluate(students[0].predict, val, VIEW, ALONE, batch_size=4, workers=0)
    assert np.array_equal(together[0].confidence, exact.confidence) == (precision == "fp32")


@pytest.mark.gate
@pytest.mark.parametrize("most", [0, 10**6])
def test_two_ranks_decode_their_shares_once_and_say_what_one_says(colour_squares, val, students, tmp_path, most):
    script = Path(__file__).with_name("evaluation_ranks.py")
    end(start([*TWO_RANKS, script, colour_squares, tmp_path, most]))
    for rank, share in enumerate((12, 11)):
        found = np.load(tmp_path / f"rank{rank}.npz")
        assert found["decoded"].tolist() == [share, 0 if most else share]
        for turn, which in itertools.product(range(2), range(2)):
            alone = evaluate(students[which].predict, val, VIEW, ALONE, batch_size=4, workers=0)
            assert np.array_equal(found[f"predicted-{turn}-{which}"], alone.predicted)
            assert found[f"confidence-{turn}-{which}"] == pytest.approx(alone.confidence, rel=1e-5)


def test_a_request_to_stop_ends_an_evaluation_at_its_next_batch(val, students):
    views = split_views(val, VIEW, ALONE, batch_size=4, workers=0, most_bytes=10**6)
    for _ in range(2):  # decoded, and kept
        asked, seen = itertools.count(), []

        def predict(pixels, seen=seen):
            seen.append(len(pixels))
            return students[0].predict(pixels)

        with pytest.raises(Interrupted):
            evaluate_all([predict], views, ALONE, stop=lambda asked=asked: next(asked) >= 2)
        assert len(seen) < 3
        evaluate_all([students[0].predict], views, ALONE)
        assert views.is_kept


def run(config, folder, *settings, stop=None):
    loaded = load_config(config, ["recipe.epochs=3", "run.eval_batch_size=5", *settings])
    return pretrain(loaded, folder / "runs", folder / "results", ALONE, stop=stop)


@pytest.fixture
def loads(monkeypatch):
    """Count how often an image of the validation split is loaded, the search for shared images apart."""
    load, counted = FolderSource.load, []

    def counting(self, index):
        if len(self) == IMAGES:
            counted.append(index)
        return load(self, index)

    monkeypatch.setattr(FolderSource, "load", counting)
    return counted


@pytest.mark.parametrize("measures", ["true", "false"])
def test_a_run_decodes_its_validation_split_once(tiny_config, tmp_path, loads, measures):
    kept = run(tiny_config, tmp_path / "kept", f"run.patch_measures={measures}")
    assert sorted(loads) == list(range(IMAGES))
    loads.clear()
    again = run(tiny_config, tmp_path / "again", f"run.patch_measures={measures}", "run.eval_memory=0")
    assert len(loads) == 3 * IMAGES * (2 if measures == "true" else 1)
    assert kept.id == again.id and kept.metrics == again.metrics and kept.curve == again.curve


def test_time_in_evaluations_is_part_of_the_cost_and_not_of_the_rate(tiny_config, tmp_path, monkeypatch):
    from cskd_bench.engine import training

    now = itertools.count()
    monkeypatch.setattr(training.time, "perf_counter", lambda: float(next(now)))
    record = run(tiny_config, tmp_path)
    cost = record.cost
    assert cost.evaluation_seconds >= 3 and cost.seconds > cost.evaluation_seconds
    assert cost.images_per_second == pytest.approx(16 * 9 / (cost.seconds - cost.evaluation_seconds))


@pytest.mark.parametrize(("before", "most"), [(1000.0, 10**6), (None, 0)])
def test_a_run_that_goes_on_counts_the_evaluations_before(tiny_config, tmp_path, before, most):
    """Checkpoints of earlier releases do not say what evaluations took."""
    stop, cache = Stop(), f"run.eval_memory={most}"
    stop.requested = True
    with pytest.raises(Interrupted):
        run(tiny_config, tmp_path, stop=stop)
    (state,) = (tmp_path / "runs").glob("*/checkpoints/*/state.json")
    kept = json.loads(state.read_text())
    assert kept.pop("evaluation_seconds") == 0
    state.write_text(json.dumps(kept if before is None else kept | {"evaluation_seconds": before}))
    record = run(tiny_config, tmp_path, cache)
    assert record.resumptions == 1
    assert (before or 0) < record.cost.evaluation_seconds < (before or 0) + 200
    whole = run(tiny_config, tmp_path / "whole")
    assert record.metrics == whole.metrics and record.curve == whole.curve
    (ours,) = (tmp_path / "runs").glob("*/model.safetensors")
    (theirs,) = (tmp_path / "whole" / "runs").glob("*/model.safetensors")
    weights = load_file(theirs)
    assert all(torch.equal(value, weights[name]) for name, value in load_file(ours).items())
