"""Each number of a report against a slow reference, and the tests' error rates by simulation."""

import itertools
import math
import runpy
import statistics as standard
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import integrate, stats
from sklearn.calibration import calibration_curve

from cskd_bench.report import bootstrap, statistics

SCRIPT = Path(__file__).resolve().parents[2] / "support" / "simulate_tests.py"
simulated = SimpleNamespace(**runpy.run_path(str(SCRIPT)))

shares = st.floats(0, 1, allow_nan=False)


@given(st.lists(shares, min_size=2, max_size=8))
def test_mean_spread_and_t_test_are_those_of_the_library(values):
    estimate = statistics.over_seeds(values)
    assert estimate.mean == pytest.approx(standard.fmean(values))
    assert statistics.spread(values) == pytest.approx(standard.stdev(values))
    if standard.stdev(values) > 1e-6:
        reference = stats.ttest_1samp(values, 0)
        assert estimate.p_value() == pytest.approx(reference.pvalue, rel=1e-6)
        assert estimate.interval() == pytest.approx(tuple(reference.confidence_interval()), rel=1e-6)


def test_one_seed_or_no_spread_gives_no_test():
    for values in ([0.7], [0.7, 0.7, 0.7]):
        estimate = statistics.over_seeds(values)
        assert estimate.p_value() is None and estimate.interval() is None
        assert statistics.detectable(estimate) is None and estimate.equivalence_p(1.0) is None
    assert statistics.spread([0.7]) is None


def slow_variance_components(scores):
    """Both parts of the variance of the mean by their definition: every deviation written out."""
    seeds, examples = len(scores), len(scores[0])
    grand = sum(map(sum, scores)) / (seeds * examples)
    seed_mean = [sum(row) / examples for row in scores]
    example_mean = [sum(row[e] for row in scores) / seeds for e in range(examples)]
    ms_seed = examples * sum((m - grand) ** 2 for m in seed_mean) / (seeds - 1)
    ms_example = seeds * sum((m - grand) ** 2 for m in example_mean) / (examples - 1)
    residual = sum(
        (scores[s][e] - seed_mean[s] - example_mean[e] + grand) ** 2 for s in range(seeds) for e in range(examples)
    )
    ms_residual = residual / ((seeds - 1) * (examples - 1))
    return ms_seed / (seeds * examples), max(0.0, ms_example - ms_residual) / (seeds * examples)


@given(st.integers(2, 5), st.integers(2, 40), st.integers(0, 10_000))
def test_seeds_and_examples_agree_with_the_variance_components_written_out(seeds, examples, seed):
    scores = np.random.default_rng(seed).integers(-1, 2, (seeds, examples)).astype(float)
    estimate = statistics.over_seeds_and_examples(scores)
    if not estimate.seed_variance:
        assert np.ptp(scores.mean(1)) < 1e-6
        return
    by_seed, by_example = slow_variance_components(scores.tolist())
    assert estimate.seed_variance == pytest.approx(by_seed)
    assert estimate.example_variance == pytest.approx(by_example, abs=1e-12)


@given(st.floats(0.01, 50), st.integers(1, 30), st.floats(0, 20))
def test_generalised_p_value_is_the_integral_over_the_unknown_variance(distance, freedom, example_variance):
    def tail(q):
        variance = freedom / q + example_variance
        return 2 * stats.norm.sf(distance / math.sqrt(variance)) * stats.chi2.pdf(q, freedom)

    cuts = [0, 1e-6, 1e-4, 1e-2, 0.1, 1, 5, 20, 60, 200]
    slow = sum(integrate.quad(tail, low, high, limit=200)[0] for low, high in itertools.pairwise(cuts))
    fast = statistics.EstimatedMean(distance, 1.0, freedom, example_variance).p_value()
    assert fast == pytest.approx(slow, rel=1e-4, abs=1e-9)


@given(st.floats(1e-6, 1), st.integers(1, 8), st.floats(0, 1))
def test_the_interval_holds_the_means_that_the_test_does_not_refute(seed_variance, freedom, example_variance):
    low, high = statistics.EstimatedMean(0.0, seed_variance, freedom, example_variance).interval()
    assert low == -high
    edge = statistics.EstimatedMean(high, seed_variance, freedom, example_variance)
    assert edge.p_value() == pytest.approx(0.05, rel=1e-3)


@given(st.integers(0, 1000), st.integers(2, 5), st.integers(2, 40))
def test_a_contrast_of_sums_of_products_is_that_of_the_scores_themselves(seed, seeds, examples):
    scores = np.random.default_rng(seed).integers(0, 2, (2 * seeds, examples)).astype(np.float32)
    signs = np.hstack([np.eye(seeds), -np.eye(seeds)])
    found = statistics.sum_products(scores).combine(signs).estimate()
    paired = scores[:seeds].astype(np.float64) - scores[seeds:]
    slow = (paired - paired.mean()) ** 2
    by_seed, by_example = paired.mean(1) - paired.mean(), paired.mean(0) - paired.mean()
    assert found.mean == pytest.approx(paired.mean(), abs=1e-12)
    if found.seed_variance:
        ms_example = seeds * (by_example**2).sum() / (examples - 1)
        residual = slow.sum() - examples * (by_seed**2).sum() - seeds * (by_example**2).sum()
        expected = max(ms_example - residual / ((seeds - 1) * (examples - 1)), 0) / (seeds * examples)
        assert found.example_variance == pytest.approx(expected, abs=1e-12)
        assert found.seed_variance == pytest.approx((by_seed**2).sum() / (seeds - 1) / seeds, abs=1e-12)


def test_products_are_summed_over_all_examples_of_a_large_test_set(monkeypatch):
    scores = np.random.default_rng(0).random((3, 1000))
    monkeypatch.setattr(statistics, "CHUNK", 64)
    found = statistics.sum_products(scores)
    assert found.products_SS == pytest.approx(scores @ scores.T) and found.sums_S == pytest.approx(scores.sum(1))


def test_without_variation_between_examples_the_crossed_test_is_the_test_over_seeds():
    scores = np.repeat([[0.1], [0.3], [0.2]], 50, axis=1)
    crossed, seeds = statistics.over_seeds_and_examples(scores), statistics.over_seeds([0.1, 0.3, 0.2])
    assert crossed.p_value() == pytest.approx(seeds.p_value())
    assert crossed.interval() == pytest.approx(seeds.interval())


@given(st.lists(shares, min_size=2, max_size=8), st.floats(0.01, 0.5))
def test_equivalence_is_the_larger_of_two_one_sided_t_tests(values, band):
    assume(standard.stdev(values) > 1e-6)
    above = stats.ttest_1samp(values, -band, alternative="greater").pvalue
    below = stats.ttest_1samp(values, band, alternative="less").pvalue
    found = statistics.over_seeds(values).equivalence_p(band)
    assert found == pytest.approx(max(above, below), rel=1e-6, abs=1e-12)


@given(st.floats(-0.02, 0.02), st.floats(1e-6, 1e-4), st.integers(1, 8), st.floats(0, 1e-4))
def test_a_mean_is_equivalent_where_its_ninety_percent_interval_lies_within_the_band(mean, variance, freedom, images):
    estimate, band = statistics.EstimatedMean(mean, variance, freedom, images), 0.03
    low, high = estimate.interval(0.1)
    assume(abs(max(-low, high) - band) > 1e-6)  # at the edge rounding decides
    assert (estimate.equivalence_p(band) < 0.05) == (-band < low and high < band)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_test_on_discordant_pairs(first, second):
    reference = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert statistics.mcnemar(first, second) == pytest.approx(reference)


@given(st.lists(shares, max_size=12))
def test_holm_is_what_the_step_down_procedure_rejects(p_values):
    adjusted = statistics.holm(p_values)
    for level in (0.01, 0.05, 0.2):
        rejected = set()
        for step, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
            if p_values[index] * (len(p_values) - step) > level:
                break
            rejected.add(index)
        assert {i for i, p in enumerate(adjusted) if p <= level} == rejected


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_ranks_are_those_of_the_library(scores):
    assert statistics.ranks(scores) == pytest.approx(stats.rankdata([-score for score in scores]).tolist())


def test_bootstrap_over_examples_matches_drawing_every_image():
    scores = np.random.default_rng(0).random((2, 30))
    means = bootstrap.bootstrap_examples(scores, 4000)
    drawn = np.random.default_rng(1).integers(0, 30, (4000, 30))
    slow = np.stack([scores[:, images].mean(1) for images in drawn])
    assert means.mean(0) == pytest.approx(scores.mean(1), abs=0.005)
    assert means.std(0) == pytest.approx(slow.std(0), rel=0.06)
    paired, slow_paired = means[:, 0] - means[:, 1], slow[:, 0] - slow[:, 1]
    assert paired.std() == pytest.approx(slow_paired.std(), rel=0.06)


def test_models_meet_the_same_resampled_test_sets_whoever_is_beside_them():
    scores = np.random.default_rng(0).random((3, 900))
    together = bootstrap.bootstrap_examples(scores, 100)
    assert together[:, :1] == pytest.approx(bootstrap.bootstrap_examples(scores[:1], 100), abs=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 5, 8])
@pytest.mark.parametrize("examples", [1, 900, 5000])
def test_images_that_models_get_right_are_counted_exactly(rows, examples):
    scores = (np.random.default_rng(rows).random((rows, examples)) < 0.9).astype(np.float32)
    scores[-1] = 1
    weights = bootstrap._resampled_test_sets(examples, 50).astype(np.int64)
    expected = weights @ scores.T.astype(np.int64) / examples
    assert np.array_equal(bootstrap.bootstrap_examples(scores, 50), expected)


def test_no_part_of_a_test_set_holds_more_images_than_are_counted_exactly(monkeypatch):
    weights = np.full((2, 3000), 100, np.float32)
    monkeypatch.setattr(bootstrap, "_resampled_test_sets", lambda *_: weights)
    bootstrap._parts.cache_clear()
    parts = bootstrap._parts(2, 3000)
    bootstrap._parts.cache_clear()
    assert max(weights[:, part].sum(1).max() for part in parts) < bootstrap.BASE
    assert sorted(place for part in parts for place in range(3000)[part]) == list(range(3000))


def test_large_test_sets_are_resampled_as_small_ones_are(monkeypatch):
    """Their weights are kept as bytes and multiplied part by part."""
    scores = np.random.default_rng(0).random((3, 5000)).astype(np.float32)
    expected = bootstrap.bootstrap_examples(scores)
    monkeypatch.setattr(bootstrap, "KEPT_WEIGHTS", 0)
    bootstrap._resampled_test_sets.cache_clear()
    assert bootstrap._resampled_test_sets(5000, 1000).dtype == np.uint8
    assert bootstrap.bootstrap_examples(scores) == pytest.approx(expected, abs=1e-6)
    bootstrap._resampled_test_sets.cache_clear()


@given(st.integers(1, 5), st.integers(2, 60), st.integers(0, 3), st.floats(0.001, 0.4))
def test_a_bootstrap_interval_is_the_quantiles_of_the_resampled_means(seeds, resamples, seed, level):
    means = np.random.default_rng(seeds).random((resamples, seeds))
    drawn = np.random.default_rng((seed, seeds)).integers(0, seeds, means.shape)
    resampled = [means[row, places].mean() for row, places in enumerate(drawn)]
    expected = np.quantile(resampled, [level / 2, 1 - level / 2])
    assert bootstrap.bootstrap_interval(means, seed, level) == pytest.approx(tuple(expected), rel=1e-12)
    assert bootstrap.bootstrap_interval(means.T.copy().T, seed, level) == pytest.approx(tuple(expected), rel=1e-12)


def test_bootstrap_interval_over_seeds_is_that_of_all_possible_resamples():
    means = np.tile([0.1, 0.2, 0.6], (20_000, 1))
    every = [np.mean(drawn) for drawn in itertools.product([0.1, 0.2, 0.6], repeat=3)]
    expected = np.quantile(every, [0.025, 0.975], method="inverted_cdf")
    assert bootstrap.bootstrap_interval(means) == pytest.approx(tuple(expected))


@given(st.lists(st.tuples(st.floats(0, 1, width=16), st.booleans()), min_size=1, max_size=50))
def test_calibration_of_half_precision_confidences_is_that_of_the_same_numbers(answers):
    confidence = np.array([value for value, _ in answers], np.float16)
    correct = np.array([right for _, right in answers])
    found = statistics.calibration(confidence, correct)
    expected = statistics.calibration(confidence.astype(np.float64), correct)
    for name in ("error", "share", "confidence", "accuracy"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=1e-12)


def test_calibration_error_and_bins_by_hand():
    random = np.random.default_rng(0)
    confidence = random.random(5000)
    correct = random.random(5000) < confidence**1.3
    found = statistics.calibration(confidence, correct, bins=10)
    slow = 0.0
    for k in range(10):
        inside = (confidence > k / 10) & (confidence <= (k + 1) / 10)
        slow += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    assert found.error == pytest.approx(slow)
    accuracy, mean_confidence = calibration_curve(correct, confidence, n_bins=10)
    assert found.accuracy == pytest.approx(accuracy.tolist())
    assert found.confidence == pytest.approx(mean_confidence.tolist())
    assert statistics.calibration(np.ones(4), np.ones(4, bool)).error == 0
    assert statistics.calibration(np.zeros(4), np.ones(4, bool)).error == 1


def test_per_class_accuracy_counts_each_class():
    label, correct = np.array([0, 0, 3, 3, 3]), np.array([True, False, True, True, False])
    assert statistics.per_class(label, correct) == pytest.approx([0.5, math.nan, math.nan, 2 / 3], nan_ok=True)


# ---------------------------------------------------------------- error rates, by simulation


def simulate(random, seeds, examples, difference=0.0, seed_spread=0.01, taste=0.1):
    """Return per-example differences (S, E) of two methods: luck of the seed, taste for images, noise.

    `taste` is what one method makes of an image and the other does not; it averages to zero over the images
    that could have been in the test set, not over those that are.
    """
    luck = random.normal(0, seed_spread, (seeds, 1))
    images = random.normal(0, taste, (1, examples))
    return difference + luck + images + random.normal(0, 0.5, (seeds, examples))


def p_of(estimate):
    return 1.0 if estimate.p_value() is None else estimate.p_value()


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("seed_spread", [0.0, 0.01, 0.05])
def test_a_planted_null_is_marked_in_five_percent_of_tables(seeds, seed_spread):
    """1,000 tables of four columns: any mark in a table after Holm, and each single test."""
    random = np.random.default_rng(seeds)
    single, family = [], []
    for _ in range(1000):
        columns = [simulate(random, seeds, 200, 0, seed_spread) for _ in range(4)]
        p_values = [p_of(statistics.over_seeds_and_examples(scores)) for scores in columns]
        single.extend(p < 0.05 for p in p_values)
        family.append(min(statistics.holm(p_values)) < 0.05)
    assert 0.035 <= np.mean(family) <= 0.065
    assert 0.035 <= np.mean(single) <= 0.065


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("taste", [0.0, 0.2, 0.4])
def test_a_null_is_never_marked_too_often_even_where_methods_prefer_different_images(seeds, taste):
    """With few seeds and strong preferences the test is cautious; a test over seeds alone is not."""
    random = np.random.default_rng(seeds)
    tables = [simulate(random, seeds, 200, 0, 0.01, taste) for _ in range(1500)]
    marked = np.mean([p_of(statistics.over_seeds_and_examples(scores)) < 0.05 for scores in tables])
    assert marked <= 0.065
    if taste == 0:
        assert marked >= 0.03
    if taste == 0.4 and seeds == 5:
        over_seeds = [p_of(statistics.over_seeds(scores.mean(1).tolist())) < 0.05 for scores in tables]
        assert np.mean(over_seeds) > 0.15


@pytest.mark.parametrize("methods", [3, 12])
@pytest.mark.parametrize("seeds", [2, 3, 12])
@pytest.mark.parametrize("ratio", [1, 4, 10])
@pytest.mark.parametrize("pair", ["UNSTEADY", "STEADY"])
def test_each_class_of_pair_is_marked_in_five_percent_however_unsteady_one_method_is(methods, seeds, ratio, pair):
    """4,000 tables without a true difference; method 0 spreads `ratio` times as much as the others."""
    setting = (methods, seeds, ratio)
    marked = simulated.false_positives(simulated.own_spread, getattr(simulated, pair), setting)
    assert 0.035 <= marked <= 0.065


def test_a_spread_pooled_over_methods_marks_pairs_of_an_unsteady_one_too_often_and_steady_pairs_too_rarely():
    """Why each pair keeps its own spread, and why an estimated prior does not help."""
    for rule in (simulated.pooled_spread, simulated.moderated):
        assert simulated.false_positives(rule, simulated.UNSTEADY, (12, 2, 10), 500) > 0.15
        assert simulated.false_positives(rule, simulated.STEADY, (12, 2, 10), 500) < 0.035


def test_a_difference_is_found_as_often_as_a_paired_t_test_must():
    for seeds, shift in ((3, 5.0), (12, 1.25)):
        found, expected = simulated.power(seeds, shift)
        assert found == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("real", [0, 2, 4])
def test_a_plan_is_given_a_false_mark_in_five_percent_primary_or_behind_the_gate(real):
    random = np.random.default_rng(real)
    assert np.mean([simulated.plan_errors(random, real) for _ in range(2000)]) <= 0.065


@pytest.mark.parametrize("seeds", [3, 12])
def test_a_difference_at_the_edge_of_the_band_is_called_equivalent_in_five_percent(seeds):
    assert 0.035 <= simulated.false_equivalences(seeds, 1.0) <= 0.065
    assert simulated.false_equivalences(seeds, 1.25) < 0.01


def test_a_planted_null_over_seeds_alone_is_marked_in_five_percent():
    random = np.random.default_rng(3)
    hits = [p_of(statistics.over_seeds(random.normal(0, 0.01, 3).tolist())) < 0.05 for _ in range(4000)]
    assert 0.035 <= np.mean(hits) <= 0.065


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("taste", [0.0, 0.5])
def test_a_planted_difference_is_found_as_often_as_the_power_note_says(seeds, taste):
    random = np.random.default_rng(seeds)
    seed_spread, examples = 0.02, 200
    truth = statistics.EstimatedMean(0, (seed_spread**2 + 0.25 / examples) / seeds, seeds - 1, taste**2 / examples)
    difference = statistics.detectable(truth)
    tables = [simulate(random, seeds, examples, difference, seed_spread, taste) for _ in range(1000)]
    found = np.mean([p_of(statistics.over_seeds_and_examples(scores)) < 0.05 for scores in tables])
    assert found == pytest.approx(0.8, abs=0.05)


def test_a_large_difference_is_found_and_the_interval_covers_it():
    random = np.random.default_rng(9)
    estimates = [statistics.over_seeds_and_examples(simulate(random, 3, 400, 0.3)) for _ in range(500)]
    assert np.mean([estimate.p_value() < 0.05 for estimate in estimates]) > 0.95
    covered = [low <= 0.3 <= high for low, high in (estimate.interval() for estimate in estimates)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.03)


def test_the_plain_bootstrap_is_too_narrow_for_three_seeds_which_is_why_no_mark_rests_on_it():
    random = np.random.default_rng(5)
    missed = []
    for _ in range(300):
        means = bootstrap.bootstrap_examples(simulate(random, 3, 100, 0.0, 0.1, 0.0), 200)
        low, high = bootstrap.bootstrap_interval(means)
        missed.append(not low <= 0 <= high)
    assert np.mean(missed) > 0.1
