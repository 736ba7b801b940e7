"""Images that appear several times count once: each test is held to one on images that appear once."""

import numpy as np
import pytest
from report_synthetic import World, add_examples, make_record

from cskd_bench.record import write_record
from cskd_bench.report.compare import compare
from cskd_bench.report.examples import Examples, read_examples
from cskd_bench.report.scores import ExampleScores
from cskd_bench.report.selection import select
from cskd_bench.report.statistics import mcnemar, over_seeds_and_examples
from cskd_bench.report.verify import verify_records

IMAGES, COPIES, SEEDS = 300, 8, 3
METHODS = ("supervised", "deit", "cskd")


def add_record(folder, label, seed, arrays, *, metric="top1", **others):
    """Write a record of given predictions: label, predicted, confidence and, perhaps, image."""
    side = add_examples(folder, f"{label}-{seed}.npz", *arrays)
    right = arrays[0] == arrays[1]
    per_class = np.mean([right[arrays[0] == k].mean() for k in np.unique(arrays[0])])
    value = float(right.mean() if metric == "top1" else per_class)
    given = {"seed": seed, "pretrain_seed": seed, "value": value, "examples": len(right), "metric": metric}
    record = make_record(label=label, per_example=side, **given, **others)
    write_record(folder, record)
    return record


def tables(folder, repeat=lambda array: array, image=None, **others):
    """Return the only table of three methods and seeds whose predictions are those of one world, repeated."""
    world = World(IMAGES, seed=5)
    for number, label in enumerate(METHODS):
        for seed in range(SEEDS):
            said = world.predict(label, 0.2 * number)
            add_record(folder, label, seed, [*map(repeat, (world.label, *said)), image], **others)
    comparison = compare(folder, select(folder))
    assert not comparison.left_out
    return comparison.tables[0]


def numbers(table):
    """Return every number of a table that rests on test images."""
    return [
        [
            (cell.mean, cell.interval, cell.bootstrap, cell.calibration.error, cell.per_class),
            *((d.mean, d.interval, d.bootstrap, d.p_value, d.adjusted, d.pairs) for d in cell.differences),
        ]
        for cell in table.cells.values()
    ]


def same(found, expected):
    """Compare nested numbers up to rounding."""
    if isinstance(expected, tuple | list):
        return len(found) == len(expected) and all(map(same, found, expected))
    return found == pytest.approx(expected, rel=1e-5, abs=1e-7) if isinstance(expected, float) else found == expected


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
@pytest.mark.parametrize("by_part", [True, False])
def test_identical_copies_give_every_number_that_one_copy_gives(tmp_path, metric, by_part):
    """Also where copies stand beside each other instead of part by part."""
    once = numbers(tables(tmp_path / "once", metric=metric))
    repeat = np.tile if by_part else np.repeat
    image = repeat(np.arange(IMAGES), COPIES)
    copies = numbers(tables(tmp_path / "copies", lambda array: repeat(array, COPIES), image, metric=metric))
    assert same(copies, once)
    alone = numbers(tables(tmp_path / "alone", lambda array: repeat(array, COPIES), metric=metric))
    (_, (low, high), *_), (_, (other_low, other_high), *_) = once[0][0], alone[0][0]
    assert other_high - other_low < high - low  # as if there were eight times as many images


def images_of(rows, image):
    """Average the examples of each image, one at a time."""
    return np.array([[np.mean([row[e] for e in np.flatnonzero(image == i)]) for i in np.unique(image)] for row in rows])


def test_copies_that_differ_are_averaged_before_they_reach_the_analysis_of_variance(tmp_path):
    """Eight corruptions of an image are right or wrong each in its own way; the order of the examples is any."""
    random = np.random.default_rng(1)
    image = random.permutation(np.repeat(np.arange(40), 5))
    label = (image % 4).astype(np.int64)
    right = {name: random.random((SEEDS, 200)) < 0.5 + 0.1 * k for k, name in enumerate(("deit", "cskd"))}
    for name, rows in right.items():
        for seed, row in enumerate(rows):
            arrays = [label, np.where(row, label, label + 1), np.full(200, 0.5), 7 * image + 3]  # any numbers
            add_record(tmp_path, name, seed, arrays)
    (table,) = compare(tmp_path, select(tmp_path)).tables
    _, cskd = table.cells.values()
    rows = {name: images_of(right[name], image) for name in right}
    assert cskd.interval == pytest.approx(over_seeds_and_examples(rows["cskd"]).interval(), rel=1e-5)
    (difference,) = cskd.differences
    estimate = over_seeds_and_examples(rows["cskd"] - rows["deit"])
    assert difference.interval == pytest.approx(estimate.interval(), rel=1e-5)
    assert difference.p_value == pytest.approx(estimate.p_value(), rel=1e-4)
    for seed, pair in enumerate(difference.pairs):
        ahead = rows["cskd"][seed] - rows["deit"][seed]
        assert (pair.only_this, pair.only_baseline) == ((ahead > 1e-9).sum(), (ahead < -1e-9).sum())
        assert pair.p_value == mcnemar(pair.only_this, pair.only_baseline)
    known = [read_examples(tmp_path, record) for record in cskd.records]
    assert sum(len(examples.correct) for examples in known) == 3 * 200  # calibration and classes see every example


def test_scores_of_images_average_to_the_metric_however_many_copies_each_has():
    random = np.random.default_rng(2)
    for _ in range(50):
        image = random.integers(0, 30, 100)
        label = random.integers(0, 5, 30)[image]
        predicted = random.integers(0, 5, 100)
        _, image = np.unique(image, return_inverse=True)
        examples = Examples(label, predicted, np.full(100, 0.5), image)
        for metric in ("top1", "mean_per_class"):
            found = examples.scores_by_image(metric)
            assert len(found) == image.max() + 1
            assert found.mean(dtype=np.float64) == pytest.approx(
                examples.scores(metric).mean(dtype=np.float64), abs=1e-6
            )


def test_images_are_numbered_in_the_order_in_which_they_appear_so_that_two_records_agree(tmp_path):
    """Also where the numbers of two side files differ; a side file without two equal ones says nothing."""
    label = np.array([0, 0, 1, 1, 0])
    for image, expected in (([5, 9, 5, 2, 9], [0, 1, 0, 2, 1]), ([4, 3, 2, 1, 0], None), (None, None)):
        array = None if image is None else np.array(image)
        folder = tmp_path / str(image)
        examples = read_examples(folder, add_record(folder, "cskd", 0, [label, label, np.full(5, 0.5), array]))
        assert expected is None if examples.image is None else examples.image.tolist() == expected


def test_models_whose_images_are_grouped_otherwise_are_not_paired(tmp_path):
    label = np.zeros(6, int)
    for name, image in (("deit", [0, 1, 2, 0, 1, 2]), ("cskd", [0, 0, 1, 1, 2, 2])):
        for seed in range(2):
            predicted = np.arange(6) % (2 + seed)
            add_record(tmp_path, name, seed, [label, predicted, np.full(6, 0.5), np.array(image)])
    (table,) = compare(tmp_path, select(tmp_path)).tables
    _, cskd = table.cells.values()
    (difference,) = cskd.differences
    assert difference.interval_kind == "seeds, on this test set"
    assert [pair.p_value for pair in difference.pairs] == [None, None]
    mixed = add_record(tmp_path, "cskd", 2, [label, label, np.full(6, 0.5), None])
    (table,) = compare(tmp_path, select(tmp_path)).tables
    _, cskd = table.cells.values()
    assert mixed in cskd.records and ExampleScores(tmp_path).matrix(cskd) is None


@pytest.mark.parametrize(
    "image", [np.zeros(5, int), np.zeros((4, 1), int), np.zeros(4), np.array(["a", "b", "c", "d"])], ids=str
)
def test_numbers_of_images_that_cannot_be_are_refused(tmp_path, image):
    add_record(tmp_path, "cskd", 0, [np.zeros(4, int), np.zeros(4, int), np.full(4, 0.5), image])
    (problem,) = verify_records(tmp_path)
    assert "numbers of images that are not one integer for each example" in problem.reason


JOINED = {"config": {"task": {"data": {"test": "val@contrast/3+val@pixelate/3"}}}, "group": "robustness"}
PART = np.array([0, 0, 1])


@pytest.mark.parametrize(
    ("label", "changes", "expected"),
    [
        (np.tile(PART, 2), {}, [0, 1, 2, 0, 1, 2]),
        (np.tile(PART, 2), {"group": "classification"}, None),
        (np.array([0, 0, 1, 0, 1, 1]), {}, None),
        (np.tile(PART, 3)[:7], {}, None),
        (np.tile(PART, 2), {"config": {"task": {"data": {"test": "val"}}}}, None),
        (np.tile(PART, 2), {"config": {"task": {"data": {"test": 7}}}}, None),
        (np.tile(PART, 2), {"config": {"task": "val+val"}}, None),
    ],
)
def test_images_of_a_record_without_numbers_are_the_same_only_where_its_task_proves_it(
    tmp_path, label, changes, expected
):
    record = add_record(tmp_path, "cskd", 0, [label, label, np.full(len(label), 0.5), None], **JOINED | changes)
    image = read_examples(tmp_path, record).image
    assert (image if image is None else image.tolist()) == expected


def test_numbers_that_a_side_file_holds_are_believed(tmp_path):
    label, image = np.tile(PART, 2), np.array([0, 1, 2, 0, 3, 4])
    record = add_record(tmp_path, "cskd", 0, [label, label, np.full(6, 0.5), image], **JOINED)
    assert read_examples(tmp_path, record).image.tolist() == image.tolist()
