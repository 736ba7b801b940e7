"""What stands together in a report, what is left out, and the reason that is given."""

import hashlib
import io
import json
import resource
import signal
import zipfile

import numpy as np
import pytest
from report_synthetic import TEACHERS, add_examples, make_record, write_study

from cskd_bench.errors import UserError
from cskd_bench.record import SideFile, write_record
from cskd_bench.report import words
from cskd_bench.report.build import build_report
from cskd_bench.report.compare import compare
from cskd_bench.report.rows import standing_head, standing_rows
from cskd_bench.report.selection import Method, method_order, select
from cskd_bench.report.verify import verify_records


def write(results, *records):
    folder = results / "records"
    folder.mkdir(parents=True, exist_ok=True)
    for record in records:
        write_record(folder, record)
    return folder


def only_cell(selection):
    ((key, records),) = selection.cells.items()
    return key, records


def test_records_that_agree_share_a_cell(tmp_path):
    folder = write(tmp_path, *(make_record(seed=seed, pretrain_seed=seed) for seed in range(3)))
    _, records = only_cell(select(folder))
    assert [record.seed for record in records] == [0, 1, 2]


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": "knn"},
        {"recipe": "c" * 16},
        {"pretrain_recipe": "c" * 16},
        {"pretrain_data": "imagenette128"},
        {"model": "vit_small"},
        {"image_size": 64},
        {"label": "cskd (decay=local)"},
        {"teacher": "regnety_160"},
        {"weights": "ema"},
        {"task": "flowers102"},
        {"version": 2},
        {"version": 2, "created": "2025-01-01T00:00:00Z"},
        {"fingerprint": "e" * 16},
        {"fingerprint": "e" * 16, "created": "2025-01-01T00:00:00Z"},
    ],
)
def test_records_that_differ_are_never_averaged(tmp_path, change):
    folder = write(tmp_path, make_record(seed=0), make_record(seed=1, **change))
    selection = select(folder)
    assert [len(records) for records in selection.cells.values()] == [1, 1]
    assert not selection.left_out


def test_two_recipes_are_shown_apart_and_said_to_be(tmp_path):
    folder = write(tmp_path, make_record(seed=0), make_record(seed=1, recipe="c" * 16))
    assert select(folder).notes == ["vit_tiny, digits, linear: 2 recipes, shown apart and never averaged"]


@pytest.mark.parametrize("protocol", ["pretrain", "linear"])
def test_what_two_recipes_differ_in_is_said(tmp_path, protocol):
    """Of a transfer, what its task says and what its pretraining said, but not whose checkpoint and which images."""
    recipes = [{"epochs": 15, "augment": {"mixup": 0.8}}, {"epochs": 100, "augment": {"mixup": 0.8}}]
    records = []
    for number, recipe in enumerate(recipes):
        run = {"recipe": recipe, "data": {"root": "digits", "identity": str(number)}, "method": {"kind": number}}
        config = run if protocol == "pretrain" else {"pretrain": run}
        records.append(make_record(protocol=protocol, seed=number, config=config, pretrain_recipe=16 * str(number)))
    (note,) = select(write(tmp_path, *records)).notes
    prefix = "" if protocol == "pretrain" else "pretrain."
    assert note.endswith(f"2 recipes, shown apart and never averaged; they differ in {prefix}recipe.epochs (15, 100)")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dirty": True}, "uncommitted changes"),
        ({"commit": "", "dirty": True}, "not known (no commit)"),
        ({"commit": "", "dirty": False}, "not known (no commit)"),  # as release 0.1.0 wrote it outside a checkout
        ({"version": 2, "seed": 1, "created": "2026-05-01T00:00:00Z"}, "repeats seed 1"),
        ({"version": 2, "value": 76.3}, "not a fraction"),
        ({"version": 2, "seconds": 1e300}, "cost is impossible"),
        ({"version": 2, "labelling_seconds": 1e300}, "cost is impossible"),
    ],
)
def test_what_must_not_be_averaged_is_left_out_with_its_reason(tmp_path, changes, reason):
    good = [make_record(version=2, seed=seed) for seed in (1, 2)]
    bad = make_record(**{"seed": 7, **changes})
    selection = select(write(tmp_path, *good, bad))
    _, records = only_cell(selection)
    assert {record.id for record in records} == {record.id for record in good}
    (left,) = selection.left_out
    assert left.name == f"{bad.id}.json" and reason in left.reason


def test_dirty_records_are_shown_when_asked_for(tmp_path):
    folder = write(tmp_path, make_record(dirty=True), make_record(seed=1, commit="", dirty=True))
    _, records = only_cell(select(folder, include_dirty=True))
    assert len(records) == 2


def test_of_a_repeated_seed_the_oldest_counts_so_that_nobody_can_repeat_until_it_comes_out_well(tmp_path):
    first = make_record(value=0.8, created="2026-01-01T00:00:00Z")
    luckier = make_record(value=0.9, created="2026-01-02T00:00:00Z")
    _, (kept,) = only_cell(select(write(tmp_path, luckier, first)))
    assert kept.value == 0.8


def test_broken_files_are_named_and_the_rest_is_shown(tmp_path):
    good = make_record()
    folder = write(tmp_path, good)
    (folder / "not_json.json").write_text("{oops")
    (folder / "empty.json").write_text("")
    (folder / "future.json").write_text(json.dumps({**good.model_dump(mode="json"), "schema_version": 9}))
    (folder / "copied.json").write_bytes((folder / f"{good.id}.json").read_bytes())
    selection = select(folder)
    assert only_cell(selection)[1] == [good]
    reasons = {item.name: item.reason for item in selection.left_out}
    assert set(reasons) == {"not_json.json", "empty.json", "future.json", "copied.json"}
    assert "schema version" in reasons["future.json"]
    assert "renamed or copied" in reasons["copied.json"]


def test_strange_but_valid_json_harms_nothing(tmp_path):
    record = make_record()
    folder = write(tmp_path, record)
    text = json.dumps({**record.model_dump(mode="json"), "id": "strange"})
    deep = "[" * 5000 + "]" * 5000
    for name, old, new in [
        ("nan", '"batch_size": 64', '"batch_size": NaN'),
        ("deep", '"batch_size": 64', f'"batch_size": {deep}'),
        ("surrogate", "cskd-bench transfer", "\\ud800"),
        ("huge", '"batch_size": 64', '"batch_size": ' + "9" * 5000),
    ]:
        assert old in text
        (folder / f"{name}.json").write_text(text.replace(old, new).replace("strange", name))
    report = build_report(tmp_path, tmp_path / "out")
    shown = report.comparison.records + len(report.comparison.left_out)
    assert shown == 5 and all("out" in str(path) for path in report.files.values())


def test_cells_that_failed_are_named_with_their_errors(tmp_path):
    write(tmp_path, make_record())
    failed = [{"cell": "digits knn student_kd_s0", "error": "UserError: no such folder", "time": "2026-01-01"}]
    (tmp_path / "failures.json").write_text(json.dumps(failed))
    report = build_report(tmp_path, tmp_path, formats=["md"])
    (left,) = report.comparison.left_out
    assert (left.name, left.reason) == ("digits knn student_kd_s0", "failed: UserError: no such folder")
    assert "no such folder" in report.files["md"].read_text()


def test_an_error_that_is_not_text_is_shown_on_every_page(tmp_path):
    """A file name need not be UTF-8; json writes what it is not as a lone surrogate."""
    write(tmp_path, make_record())
    failed = [{"cell": "knn caf\udce9", "error": "UserError: caf\udce9.png"}]
    (tmp_path / "failures.json").write_text(json.dumps(failed))
    report = build_report(tmp_path, tmp_path)
    for name in ("md", "html", "json"):
        assert "xe9" in report.files[name].read_text(), name


def test_a_report_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path):
    """The limit on a file's size stands in for a full disk."""
    write(tmp_path, make_record())
    build_report(tmp_path, tmp_path / "out", formats=["html"])
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"leaderboard.html: cannot be written"):
            build_report(tmp_path, tmp_path / "out", formats=["html"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_linked_file_stays_a_link(tmp_path):
    write(tmp_path, make_record())
    (tmp_path / "real.md").write_text("old")
    (tmp_path / "LEADERBOARD.md").symlink_to("real.md")
    build_report(tmp_path, tmp_path, formats=["md"])
    assert (tmp_path / "LEADERBOARD.md").is_symlink() and "# Leaderboard" in (tmp_path / "real.md").read_text()


@pytest.mark.parametrize("content", ["{", "7", "[{}]", "[[]]", 100_000 * "["])
def test_a_damaged_list_of_failures_is_named(tmp_path, content):
    write(tmp_path, make_record())
    (tmp_path / "failures.json").write_text(content)
    (left,) = build_report(tmp_path, tmp_path, formats=[]).comparison.left_out
    assert left.name == "failures.json"


def test_a_missing_folder_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        select(tmp_path / "records")


def test_transfer_seeds_are_averaged_within_a_pretraining_seed(tmp_path):
    scores = {(0, 0): 0.5, (0, 1): 0.7, (1, 0): 0.8}
    records = [make_record(pretrain_seed=p, seed=s, value=value) for (p, s), value in scores.items()]
    folder = write(tmp_path, *records)
    (table,) = compare(folder, select(folder)).tables
    (cell,) = table.cells.values()
    assert cell.scores == pytest.approx({0: 0.6, 1: 0.8})
    assert cell.seeds == 2 and cell.mean == pytest.approx(0.7)


def test_intervals_of_shares_end_at_nothing_and_everything(tmp_path):
    write(tmp_path, make_record(seed=0, value=0.99), make_record(seed=1, value=0.9))
    report = build_report(tmp_path, tmp_path, formats=[])
    (table,) = report.comparison.tables
    ((low, high),) = [cell.interval for cell in table.cells.values()]
    assert 0 <= low < 0.9 and high == 1.0


def test_differences_pair_equal_seeds_and_only_those(tmp_path):
    ours = {0: 0.81, 1: 0.82, 2: 0.84, 5: 0.99}
    theirs = {0: 0.80, 1: 0.80, 2: 0.80, 7: 0.10}
    records = [make_record(label="cskd", seed=s, value=v) for s, v in ours.items()]
    records += [make_record(label="deit", seed=s, value=v) for s, v in theirs.items()]
    folder = write(tmp_path, *records)
    (table,) = compare(folder, select(folder)).tables
    (difference,) = [item for cell in table.cells.values() for item in cell.differences]
    assert difference.seeds == 3
    assert difference.mean == pytest.approx(np.mean([0.01, 0.02, 0.04]))


def test_a_method_is_compared_only_with_baselines_of_its_teacher_or_of_none(tmp_path):
    records = [
        make_record(label="supervised", seed=0),
        make_record(label="deit", teacher="regnety_160", seed=0),
        make_record(label="deit", teacher="lite0", seed=0),
        make_record(label="cskd", teacher="lite0", seed=0),
    ]
    folder = write(tmp_path, *records)
    (table,) = compare(folder, select(folder)).tables
    (cell,) = [cell for (method, _), cell in table.cells.items() if method.kind == "cskd"]
    assert [(item.baseline.kind, item.baseline.teacher) for item in cell.differences] == [
        ("supervised", ""),
        ("deit", "lite0"),
    ]


def test_teachers_are_sorted_by_their_numbers_however_long():
    names = [f"at {5000 * '9'} px", "at 128 px", "bt 1 px", "at 64 px"]
    ordered = sorted(names, key=lambda name: method_order(Method("cskd", "cskd", name)))
    assert ordered == ["at 64 px", "at 128 px", f"at {5000 * '9'} px", "bt 1 px"]


def test_other_images_under_one_name_are_left_out_with_the_reason(tmp_path):
    """Records that do not say which images they saw stay; those that say something else than the oldest do not."""
    here, there = {"data": {"identity": "aaaa bbbb"}}, {"data": {"identity": "aaaa cccc"}}
    records = [
        *(make_record(seed=seed, config=here) for seed in range(3)),
        make_record(seed=3),
        make_record(seed=0, label="kd", config=there, created="2027-01-01T00:00:00Z"),
        make_record(seed=1, label="kd", config=here, examples=499),
    ]
    selection = select(write(tmp_path, *records))
    assert [record.seed for (_, _, method), cell in selection.cells.items() for record in cell] == [0, 1, 2, 3]
    assert [item.reason for item in selection.left_out] == [
        "its images (aaaa cccc) are not those of its column's oldest records (aaaa bbbb)",
        "scored on 499 images, the oldest records of its column on 500",
    ]


@pytest.mark.parametrize("changes", [{"config": {"data": {"identity": "bbbb"}}}, {"examples": 400}])
def test_however_many_newer_records_of_other_images_do_not_replace_the_older_ones(tmp_path, changes):
    """Else whoever dislikes a result runs more seeds on easier images."""
    here = {"config": {"data": {"identity": "aaaa"}}}
    older = [make_record(seed=seed, created="2026-01-01T00:00:00Z", **here) for seed in range(2)]
    newer = [make_record(seed=seed, created="2026-01-02T00:00:00Z", **here | changes) for seed in range(2, 9)]
    selection = select(write(tmp_path, *older, *newer))
    assert [record.seed for record in only_cell(selection)[1]] == [0, 1] and len(selection.left_out) == 7


def test_of_two_contents_that_equally_many_records_saw_the_older_one_stays(tmp_path):
    contents = {"2026-01-01": "aaaa", "2026-01-02": "bbbb", "2026-01-03": "aaaa", "2026-01-04": "bbbb"}
    records = [
        make_record(seed=seed, created=f"{day}T00:00:00Z", config={"data": {"identity": images}})
        for seed, (day, images) in enumerate(contents.items())
    ]
    for order in (records, records[::-1]):
        folder = write(tmp_path / order[0].id, *order)
        assert [record.images for record in only_cell(select(folder))[1]] == ["aaaa", "aaaa"]


@pytest.mark.parametrize("protocol", ["pretrain", "knn"])
def test_one_teacher_at_two_resolutions_or_strides_makes_two_rows(tmp_path, protocol):
    """Its settings are in the configuration: a pretraining's own, or under `pretrain` in a transfer's."""
    set_ups = [{"image_size": 224, "output_stride": None}, {"image_size": 224, "output_stride": 8}, {"image_size": 64}]
    for number, teacher in enumerate(set_ups):
        config = {"teacher": teacher} if protocol == "pretrain" else {"pretrain": {"teacher": teacher}}
        for label in ("deit", "cskd"):
            given = {"label": label, "protocol": protocol, "run": f"{label}{number}", "config": config}
            write_record(tmp_path / "records", make_record(value=0.5 + 0.1 * number, **given))
    selection = select(tmp_path / "records")
    assert not selection.left_out
    comparison = compare(tmp_path / "records", selection)
    (table,) = comparison.tables
    names = {method.teacher.removeprefix(TEACHERS["cskd"]) for method in table.methods}
    assert names == {" at 224 px", " at 224 px, stride 8", " at 64 px"}
    assert [words.method(method, table.methods) for method in table.methods[3:]] == [
        "cskd (teacher at 64 px)",
        "cskd (teacher at 224 px)",
        "cskd (teacher at 224 px, stride 8)",
    ]
    for cell in table.cells.values():
        assert all(item.baseline.teacher == cell.method.teacher for item in cell.differences)
    assert sum(len(cell.differences) for cell in table.cells.values()) == 3


def test_the_plain_method_is_compared_with_its_own_ablations_and_baselines_come_first(tmp_path):
    """CSKD minus CSKD without CKF says what CKF adds; another teacher's ablation says nothing of it."""
    labels = {"kd": 0.50, "kd (temperature=1.0)": 0.40, "cskd": 0.61, "cskd (decay=local)": 0.55, "supervised": 0.5}
    records = [make_record(label=label, seed=0, value=value) for label, value in labels.items()]
    other = make_record(label="cskd (decay=local)", teacher="regnety_160", seed=0, value=0.9)
    folder = write(tmp_path, *records, other)
    comparison = compare(folder, select(folder))
    (table,) = comparison.tables
    found = {
        method.label: [(item.baseline.label, round(item.mean, 9)) for item in cell.differences]
        for (method, _), cell in table.cells.items()
        if method.teacher != "regnety_160"
    }
    assert found["cskd"] == [("supervised", 0.11), ("kd", 0.11), ("cskd (decay=local)", 0.06)]
    assert found["cskd (decay=local)"] == [("supervised", 0.05), ("kd", 0.05)]
    assert found["kd (temperature=1.0)"] == [("supervised", -0.1), ("kd", -0.1)]
    assert found["kd"] == [("supervised", 0.0)]
    assert [base.kind for base in table.baselines] == ["supervised", "kd"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "has changed"),
    ],
)
def test_a_broken_side_file_costs_the_tests_over_examples_but_not_the_score(tmp_path, damage, reason):
    write_study(tmp_path, skills={"deit": 0.0, "cskd": 0.2}, seeds=2)
    folder = tmp_path / "records"
    damage(next(folder.glob("*cskd-1-*.npz")))
    comparison = compare(folder, select(folder))
    (left,) = comparison.left_out
    assert reason in left.reason and "shown, but not in tests over examples" in left.reason
    (table,) = comparison.tables
    (cell,) = [cell for (method, _), cell in table.cells.items() if method.kind == "cskd"]
    assert cell.seeds == 2 and cell.bootstrap is None
    assert cell.differences[0].interval_kind == "seeds, on this test set"


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"label": np.zeros(3), "predicted": np.zeros(4)}, "different lengths"),
        ({"label": np.zeros(4), "predicted": np.zeros(4)}, "gives top1 1.000000, the record 0.900000"),
        ({"label": np.zeros(9), "predicted": np.zeros(9)}, "holds 9 examples, the record 4"),
    ],
)
def test_a_side_file_that_contradicts_its_record_is_not_used(tmp_path, arrays, reason):
    side = add_examples(tmp_path / "records", "side.npz", arrays["label"], arrays["predicted"])
    folder = write(tmp_path, make_record(per_example=side, examples=4))
    (left,) = compare(folder, select(folder)).left_out
    assert reason in left.reason


def _archive(name, member):
    """A zip of one member, damaged in the middle of its compressed bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, member)
    content = bytearray(file.getvalue())
    content[40:60] = bytes(20)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: _npy(np.zeros(4)), "not a per-example file"),
        (lambda: _archive("label.npy", _npy(np.arange(4000))), "not a per-example file"),
        (lambda: _npz(np.array([0.5, np.nan, 0.5, 0.5])), "a confidence that is not a number"),
    ],
)
def test_a_side_file_of_another_kind_is_named_even_with_the_right_hash(tmp_path, content, reason):
    folder = tmp_path / "records"
    folder.mkdir()
    (folder / "side.npz").write_bytes(content())
    side = SideFile(name="side.npz", sha256=hashlib.sha256(content()).hexdigest())
    write(tmp_path, make_record(per_example=side, examples=4, value=1.0))
    (left,) = compare(folder, select(folder)).left_out
    assert reason in left.reason
    assert any(reason in problem.reason for problem in verify_records(folder))


def _npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _npz(confidence):
    file = io.BytesIO()
    np.savez(file, label=np.zeros(4, int), predicted=np.zeros(4, int), confidence=confidence)
    return file.getvalue()


def test_a_side_file_cannot_lie_outside_the_folder(tmp_path):
    side = add_examples(tmp_path, "outside.npz", np.zeros(4), np.zeros(4))
    record = make_record(per_example=side.model_copy(update={"name": "../outside.npz"}), examples=4, value=1.0)
    folder = write(tmp_path, record)
    (left,) = compare(folder, select(folder)).left_out
    assert "outside the records folder" in left.reason


def test_a_planted_difference_is_marked_and_a_planted_null_is_not(tmp_path):
    skills = {"supervised": 0.0, "deit": 0.0, "cskd": 0.6}
    write_study(tmp_path, skills=skills, seeds=5, examples=1500, seed_spread=0.0, world_seed=3)
    folder = tmp_path / "records"
    comparison = compare(folder, select(folder))
    found = {
        (cell.method.kind, item.baseline.kind): item
        for table in comparison.tables
        for cell in table.cells.values()
        for item in cell.differences
    }
    assert found["cskd", "deit"].significant and found["cskd", "supervised"].significant
    assert not found["deit", "supervised"].significant
    pair = found["cskd", "deit"].pairs[0]
    assert pair.only_this > pair.only_baseline and pair.p_value < 0.001
    (table,) = comparison.tables
    tallies = [standing.tally for method, standing in table.standings.items() if method.kind == "cskd"]
    assert [[(base.kind, counts) for base, counts in tally.items()] for tally in tallies] == [
        [("supervised", (1, 0, 0)), ("deit", (1, 0, 0))]
    ]
    assert [cell.best for (method, _), cell in table.cells.items()] == [False, False, True]


def test_mean_per_class_scores_weigh_classes_equally(tmp_path):
    label = np.array([0] * 8 + [1] * 2)
    predicted = np.array([0] * 8 + [0, 1])
    side = add_examples(tmp_path / "records", "side.npz", label, predicted)
    record = make_record(per_example=side, examples=10, metric="mean_per_class", value=0.75)
    folder = write(tmp_path, record)
    comparison = compare(folder, select(folder))
    assert not comparison.left_out
    (cell,) = comparison.tables[0].cells.values()
    assert cell.per_class == pytest.approx((1.0, 0.5))
    low, high = cell.interval
    assert low < 0.75 <= high and "one seed" in cell.interval_kind


def test_a_teacher_has_its_own_table_after_its_students(tmp_path):
    teacher = make_record(label="supervised", model="a_cnn", pretrain_recipe="t" * 16)
    student = make_record(label="cskd", teacher="a_cnn@0123", model="vit_tiny")
    folder = write(tmp_path, teacher, student)
    tables = compare(folder, select(folder)).tables
    assert [(table.student.model, table.teaches) for table in tables] == [("vit_tiny", False), ("a_cnn", True)]


def test_average_rank_covers_the_columns_that_every_method_has(tmp_path):
    records = [
        make_record(task=task, label=label, value=value)
        for task, scores in {
            "a": {"deit": 0.7, "cskd": 0.8},
            "b": {"deit": 0.6, "cskd": 0.5},
            "c": {"cskd": 0.1},
        }.items()
        for label, value in scores.items()
    ]
    folder = write(tmp_path, *records)
    (table,) = compare(folder, select(folder)).tables
    assert table.complete == 2
    assert {method.kind: standing.rank for method, standing in table.standings.items()} == {"deit": 1.5, "cskd": 1.5}


def test_one_column_has_no_average_rank(tmp_path):
    folder = write(
        tmp_path, *(make_record(label=label, value=value) for label, value in (("deit", 0.7), ("cskd", 0.8)))
    )
    (table,) = compare(folder, select(folder)).tables
    assert [standing.rank for standing in table.standings.values()] == [None, None]
    assert not any("rank" in head for head in standing_head(table))
    assert all(len(row) == len(standing_head(table)) for _, row in standing_rows(table))
