"""A plan's contrasts: primary ones first, the rest behind their gate, interactions, equivalence, sentences."""

import json

import numpy as np
import pytest
from report_synthetic import make_record, write_record, write_study
from scipy import stats

from cskd_bench.cli import main
from cskd_bench.errors import UserError
from cskd_bench.report import words
from cskd_bench.report.compare import compare
from cskd_bench.report.forest import forest
from cskd_bench.report.markdown import markdown
from cskd_bench.report.plans import Arm, Contrast, RegisteredPlan, read_plans
from cskd_bench.report.primary import GATES, LEADS, summary
from cskd_bench.report.selection import select, student_of

CELLS = {  # label: scores by seed
    "supervised": [0.500, 0.512, 0.507, 0.495],
    "kd": [0.510, 0.505, 0.520, 0.511],
    "deit": [0.531, 0.540, 0.528, 0.543],
    "cskd": [0.600, 0.611, 0.604, 0.613],
    "cskd (decay=local)": [0.300, 0.900, 0.100, 0.700],  # most unsteady
}


TWICE = {"cskd (64 largest logits)": CELLS["cskd"]}  # the same method from another kind of bank


def study(results, cells=None, **changes):
    """Write one record per method and seed, without side files; return the last one."""
    record = None
    for label, scores in (cells or CELLS).items():
        for seed, value in enumerate(scores):
            record = make_record(label=label, seed=seed, pretrain_seed=seed, value=value, **changes)
            write_record(results / "records", record)
    return record


def arm(record, label, **changes):
    student = student_of(record)
    teacher = "" if label == "supervised" else record.method.teacher
    fields = {
        "model": student.model,
        "pretrain_data": student.pretrain_data,
        "pretrain_recipe": student.pretrain_recipe,
    }
    return Arm(**fields | {"label": label, "teacher": teacher} | changes)


def contrast(record, first, second, **changes):
    task = {"task": record.task.name, "protocol": record.protocol, "fingerprint": record.task.fingerprint}
    named = {"name": f"{first} − {second}", "where": "digits, linear probe"}
    return Contrast(first=arm(record, first), second=arm(record, second), **task | named | changes)


def plan_of(*contrasts, name="plan", seeds=(0, 1, 2, 3)):
    """Return a plan that covers the students of its contrasts."""
    students = {(one.model, one.pretrain_data, one.pretrain_recipe) for c in contrasts for one in (c.first, c.second)}
    return RegisteredPlan(
        plan=name,
        registered="2026-01-01T00:00:00+00:00",
        commit="",
        seeds=seeds,
        contrasts=contrasts,
        students=tuple(students),
    )


def compared(results, *plans):
    folder = results / "records"
    return compare(folder, select(folder), plans)


def differences(comparison):
    return {
        (cell.method.label, item.baseline.label): item
        for table in comparison.tables
        for cell in table.cells.values()
        for item in cell.differences
    }


def test_a_pair_is_tested_by_itself_whatever_other_methods_stand_beside_it(tmp_path):
    """The paired t-test over its own seeds, with its own degrees of freedom."""
    study(tmp_path)
    found = differences(compared(tmp_path))
    assert len(found) == 10
    for (first, second), item in found.items():
        reference = stats.ttest_rel(CELLS[first], CELLS[second])
        assert item.p_value == pytest.approx(reference.pvalue, rel=1e-9)
        assert item.interval == pytest.approx(tuple(reference.confidence_interval()), rel=1e-9)
        low, high = reference.confidence_interval(1 - 0.05 / 10)
        assert item.simultaneous == pytest.approx((low, high), rel=1e-6), "for all ten tests at once"


def test_bold_is_whatever_is_not_shown_to_be_worse_than_the_best(tmp_path):
    """Corrected for all pairs of the column, as the best is found in the same data."""
    study(tmp_path)
    (table,) = compared(tmp_path).tables
    worse = {
        label for label in CELLS if label != "cskd" and 10 * stats.ttest_rel(CELLS["cskd"], CELLS[label]).pvalue < 0.05
    }
    assert worse == {"supervised", "kd", "deit"}
    assert {cell.method.label: cell.best for cell in table.cells.values()} == {
        label: label not in worse for label in CELLS
    }


def test_nothing_is_bold_where_nothing_is_shown(tmp_path):
    study(tmp_path, {"supervised": [0.5, 0.512, 0.507], "kd": [0.51, 0.505, 0.52]})
    (table,) = compared(tmp_path).tables
    assert not any(cell.best for cell in table.cells.values())


def test_primary_contrasts_are_corrected_among_themselves_and_the_rest_of_the_table_without_them(tmp_path):
    record = study(tmp_path)
    plan = plan_of(contrast(record, "cskd", "deit"), contrast(record, "cskd", "supervised"))
    comparison = compared(tmp_path, plan)
    p_values = [stats.ttest_rel(CELLS["cskd"], CELLS[label]).pvalue for label in ("deit", "supervised")]
    small, large = sorted(p_values)
    expected = [2 * small if p == small else max(2 * small, large) for p in p_values]
    assert [result.adjusted for result in comparison.primary] == pytest.approx(expected)
    found = differences(comparison)
    assert [found["cskd", label].adjusted for label in ("deit", "supervised")] == pytest.approx(expected)
    assert [pair for pair, item in found.items() if item.primary] == [("cskd", "supervised"), ("cskd", "deit")]
    (table,) = comparison.tables
    assert table.tests == 8 and table.gate == "open" and comparison.gate_open and table.primary
    assert [result.answer for result in comparison.primary] == ["higher", "higher"]


def test_nothing_holds_behind_a_gate_that_is_shut_but_leads_are_told(tmp_path):
    record = study(tmp_path)
    comparison = compared(tmp_path, plan_of(contrast(record, "kd", "supervised")))
    found = differences(comparison)
    assert [words.mark(found[pair]) for pair in (("kd", "supervised"), ("cskd", "deit"), ("deit", "kd"))] == [
        "○",
        "△",
        "○",
    ]
    assert not any(item.significant for item in found.values())
    assert found["cskd", "deit"].holm < 0.05 < found["cskd", "deit"].adjusted
    (table,) = comparison.tables
    assert table.gate == "shut" and not comparison.gate_open
    text = markdown(comparison, [], [])
    assert GATES["shut"] in text and "| cskd − deit | △ +7.15 [" in text
    assert not any(cell.best for cell in comparison.tables[0].cells.values()), "bold would call the others worse"
    alone = compared(tmp_path)
    assert words.mark(differences(alone)["cskd", "deit"]) == "↑", "without a plan it is shown"
    assert any(cell.best for cell in alone.tables[0].cells.values())


def test_a_primary_contrast_without_records_keeps_its_place_in_the_family_and_the_gate_shut(tmp_path):
    record = study(tmp_path)
    missing = contrast(record, "cskd", "cskd (decay=global)")
    comparison = compared(tmp_path, plan_of(contrast(record, "cskd", "deit"), missing))
    shown, untested = comparison.primary
    assert shown.adjusted == pytest.approx(2 * stats.ttest_rel(CELLS["cskd"], CELLS["deit"]).pvalue)
    assert untested.answer == "untested" and untested.mean is None
    assert untested.sentence == (
        "cskd − cskd (decay=global) on digits, linear probe: not tested, cskd (decay=global) on mnist_5k: not run."
    )
    assert comparison.tables[0].gate == "shut"


def test_a_contrast_is_not_tested_before_all_its_seeds_are_there(tmp_path):
    """Who looks at each new seed, and stops when a test succeeds, finds more than there is."""
    record = study(tmp_path)
    behind = contrast(record, "cskd", "kd", family="exploratory")
    comparison = compared(tmp_path, plan_of(contrast(record, "cskd", "deit"), behind, seeds=(0, 1, 2, 3, 4)))
    (result,) = comparison.primary
    for one in (result, *comparison.exploratory):
        assert one.answer == "untested" and one.mean is not None
        assert [one.interval, one.simultaneous, one.p_value, one.adjusted, one.detectable] == [None] * 5
    assert result.sentence == (
        "cskd − deit on digits, linear probe: not tested, +7.15 points so far, 4 of 5 seeds; tested once all are there."
    )
    found, (table,) = differences(comparison), comparison.tables
    waiting = [found["cskd", "deit"], found["cskd", "kd"]]
    assert [words.difference(one) for one in waiting] == ["? +7.15", "? +9.55"]
    assert [one.primary for one in waiting] == [True, False] and not any(one.interval for one in waiting)
    assert table.tests == 9, "all but the primary one, also what waits, so that no test is easier meanwhile"
    figure = forest(comparison.primary)
    assert "<circle" in figure and 'class="thick' not in figure and 'class="thin' not in figure


def test_a_plan_that_waits_takes_nothing_from_one_that_is_whole(tmp_path):
    record = study(tmp_path)
    asked = contrast(record, "cskd", "deit")
    whole, waiting = plan_of(asked), plan_of(asked, name="longer", seeds=(0, 1, 2, 3, 4))
    for plans in ([whole, waiting], [waiting, whole]):
        comparison = compared(tmp_path, *plans)
        assert {result.answer for result in comparison.primary} == {"higher", "untested"}
        found = differences(comparison)["cskd", "deit"]
        assert found.primary and found.interval and found.adjusted == pytest.approx(found.p_value)


def test_where_all_differences_wait_no_spread_is_called_missing(tmp_path):
    record = study(tmp_path, {label: CELLS[label] for label in ("deit", "cskd")})
    behind = contrast(record, "cskd", "deit", family="exploratory")
    comparison = compared(tmp_path, plan_of(behind, seeds=(0, 1, 2, 3, 4)))
    (table,) = comparison.tables
    assert table.tests == 1 and table.power == ""
    assert not any(cell.best for cell in table.cells.values()), "bold would call the other one worse"
    assert any(cell.best for cell in compared(tmp_path).tables[0].cells.values())


def test_what_waits_is_withheld_also_where_no_cell_or_two_answer_to_its_name(tmp_path):
    record = study(tmp_path, {label: CELLS[label] for label in ("deit", "cskd")} | TWICE)
    plan = plan_of(contrast(record, "cskd", "deit"), seeds=(7, 8))
    comparison = compared(tmp_path, plan)
    (result,) = comparison.primary
    assert result.mean is None and "its records differ: 2 cells" in result.detail
    found = differences(comparison)
    for label in ("cskd", "cskd (64 largest logits)"):
        assert words.difference(found[label, "deit"]).startswith("? ")
    (one,) = compared(tmp_path, plan_of(contrast(record, "supervised", "deit"), seeds=(7, 8))).primary
    assert one.detail == "supervised on mnist_5k: not run."
    study(tmp_path, {"kd": CELLS["kd"]})
    (one,) = compared(tmp_path, plan_of(contrast(record, "kd", "deit"), seeds=(7, 8))).primary
    assert one.detail == "0 of 2 seeds; tested once all are there."


def test_seeds_that_were_not_registered_do_not_count_in_a_contrast(tmp_path):
    record = study(tmp_path)
    comparison = compared(tmp_path, plan_of(contrast(record, "cskd", "deit"), seeds=(0, 1, 2)))
    (result,) = comparison.primary
    reference = stats.ttest_rel(CELLS["cskd"][:3], CELLS["deit"][:3])
    assert result.seeds == 3 and result.p_value == pytest.approx(reference.pvalue)
    assert not differences(comparison)["cskd", "deit"].primary, "the table's own difference rests on four seeds"


def test_a_difference_in_differences_pairs_all_four_cells_by_seed(tmp_path):
    """What CSKD gains on DeiT with one student, less what it gains with another."""
    record = study(tmp_path)
    narrow = {"deit": [0.40, 0.42, 0.41, 0.43], "cskd": [0.45, 0.46, 0.48, 0.47]}
    other = study(tmp_path, narrow, model="vit_narrow", task="digits")
    asked = contrast(record, "cskd", "deit", minus=(arm(other, "cskd"), arm(other, "deit")), band=0.05)
    (result,) = compared(tmp_path, plan_of(asked)).primary
    gains = np.array(CELLS["cskd"]) - CELLS["deit"] - (np.array(narrow["cskd"]) - narrow["deit"])
    reference = stats.ttest_1samp(gains, 0)
    assert (result.mean, result.p_value) == pytest.approx((gains.mean(), reference.pvalue))
    assert result.seeds == 4 and result.interval == pytest.approx(tuple(reference.confidence_interval()))


def test_a_difference_in_differences_is_crossed_with_images_where_all_four_scored_the_same_ones(tmp_path):
    write_study(tmp_path, skills={"deit": 0.0, "cskd": 0.3}, seeds=3, examples=200)
    records = write_study(tmp_path, skills={"deit": 0.0, "cskd": 0.3}, seeds=3, examples=200, model="vit_narrow")
    first = next(record for record in select(tmp_path / "records").cells.values())[0]
    wide, narrow = (first, records[0]) if first.model.name != "vit_narrow" else (records[0], first)
    asked = contrast(wide, "cskd", "deit", minus=(arm(narrow, "cskd"), arm(narrow, "deit")))
    (result,) = compared(tmp_path, plan_of(asked, seeds=(0, 1, 2))).primary
    assert result.interval_kind == "seeds and test images"


def test_a_contrast_and_the_difference_of_its_table_are_one_test_over_seeds_and_images(tmp_path):
    """The one is computed from every image's scores, the other from a column's sums of products."""
    record = write_study(tmp_path, skills={"deit": 0.0, "cskd": 0.3}, seeds=3, examples=200)[0]
    comparison = compared(tmp_path, plan_of(contrast(record, "cskd", "deit"), seeds=(0, 1, 2)))
    (result,), item = comparison.primary, differences(comparison)["cskd", "deit"]
    assert result.interval_kind == item.interval_kind == "seeds and test images"
    assert (result.mean, result.p_value) == pytest.approx((item.mean, item.p_value), rel=1e-9)
    assert result.interval == pytest.approx(item.interval, rel=1e-9)


def test_exploratory_contrasts_stand_behind_the_primary_ones(tmp_path):
    record = study(tmp_path)
    primary, behind = contrast(record, "kd", "supervised"), contrast(record, "cskd", "deit", family="exploratory")
    comparison = compared(tmp_path, plan_of(primary, behind))
    (first,), (second,) = comparison.primary, comparison.exploratory
    assert (first.answer, second.answer) == ("open", "ahead")
    assert second.adjusted == first.adjusted
    told = markdown(comparison, [], []).partition("## Exploratory contrasts")[2]
    assert "- **△ higher, but a lead only**: cskd − deit on digits, linear probe, +7.15 points \\[" in told
    assert "Detectable" not in told and f"\n{LEADS}\n" in told
    assert f"\n{second.note}\n" in told, "what the plan says of itself"
    turned = contrast(record, "deit", "cskd", family="exploratory")
    weak = contrast(record, "cskd (decay=local)", "kd", family="exploratory")
    lead, none = compared(tmp_path, plan_of(primary, turned, weak)).exploratory
    assert (lead.answer, none.answer) == ("behind", "open")
    (alone,) = compared(tmp_path, plan_of(behind)).exploratory
    assert alone.answer == "higher", "a plan without primary contrasts has no gate"


@pytest.mark.parametrize(
    ("band", "answer", "words_of_it"),
    [
        (None, "open", "not shown to differ, "),
        (0.002, "open", "not shown to differ, nor to be equal within ±0.2 points, "),
        (0.05, "equivalent", "equal within ±5 points, "),
    ],
)
def test_within_a_declared_band_two_methods_are_equal_and_the_sentence_says_so(tmp_path, band, answer, words_of_it):
    record = study(tmp_path)
    (result,) = compared(tmp_path, plan_of(contrast(record, "kd", "supervised", band=band))).primary
    assert result.answer == answer
    start = f"kd − supervised on digits, linear probe: {words_of_it}{words.points(result.mean)} points ["
    assert result.sentence.startswith(start) and "4 seeds." in result.sentence
    if answer == "open":
        assert result.sentence.endswith(f"Detectable with 80 % power: {100 * result.detectable:.1f} points.")


def test_the_count_of_answers_keeps_contrasts_without_cskd_apart(tmp_path):
    """A plan's positive control says nothing for CSKD."""
    record = study(tmp_path)
    pairs = [("cskd", "deit"), ("cskd (decay=local)", "kd"), ("deit", "supervised")]
    primary = compared(tmp_path, plan_of(*(contrast(record, *pair) for pair in pairs))).primary
    assert summary(primary) == "Of 2 primary contrasts with CSKD: 1 higher, 1 not shown. Of 1 without it: 1 higher."
    assert summary(primary[:2]) == "Of 2 primary contrasts: 1 higher, 1 not shown."
    assert summary(primary[1:]) == "Of 1 primary contrast with CSKD: 1 not shown. Of 1 without it: 1 higher."


def test_a_shown_difference_within_the_band_is_called_both(tmp_path):
    record = study(tmp_path)
    (result,) = compared(tmp_path, plan_of(contrast(record, "cskd", "deit", band=0.2))).primary
    assert ": higher, but within ±20 points, " in result.sentence


def test_a_variant_of_a_bank_and_the_hash_of_a_teacher_do_not_hide_a_method(tmp_path):
    record = study(tmp_path, {"kd (64 largest logits)": [0.5, 0.52, 0.51], "supervised": [0.4, 0.41, 0.43]})
    asked = contrast(record, "kd", "supervised")
    taught = make_record(label="kd", seed=0, value=0.5).method.teacher
    asked = asked.model_copy(update={"first": arm(record, "kd", teacher=taught)})
    (result,) = compared(tmp_path, plan_of(asked, seeds=(0, 1, 2))).primary
    assert result.seeds == 3 and result.answer != "untested"


def test_two_teachers_of_one_name_are_not_mixed_up(tmp_path):
    record = study(tmp_path, {"supervised": [0.4, 0.41, 0.43]})
    for digest, value in (("aaaa", 0.5), ("bbbb", 0.6)):
        for seed in range(3):
            one = make_record(label="kd", teacher=f"lite0@{digest}", seed=seed, pretrain_seed=seed, value=value)
            write_record(tmp_path / "records", one)
    asked = contrast(record, "kd", "supervised").model_copy(update={"first": arm(record, "kd", teacher="lite0")})
    (result,) = compared(tmp_path, plan_of(asked)).primary
    assert "not tested, kd on mnist_5k: its records differ: 2 cells" in result.sentence


def test_exploratory_equality_stands_behind_the_gate_too(tmp_path):
    record = study(tmp_path)
    near = contrast(record, "kd", "supervised", family="exploratory", band=0.05)
    shut, opened = contrast(record, "cskd (decay=local)", "kd"), contrast(record, "cskd", "deit")
    (result,) = compared(tmp_path, plan_of(shut, near)).exploratory
    assert result.answer == "open" and result.equivalence_adjusted > 0.05
    (result,) = compared(tmp_path, plan_of(opened, near)).exploratory
    assert result.answer == "equivalent"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"band": 0}, "contrasts.0.band: Input should be greater than 0"),
        ({"band": -0.01}, "contrasts.0.band: "),
        ({"band": 1.7e308}, "contrasts.0.band: "),
        ({"band": float("nan")}, "contrasts.0.band: "),
        ({"second": "first"}, r"contrasts.0: cskd − deit on .* is always zero"),
        ({"minus": "both"}, r"contrasts.0: cskd − deit on .* is always zero"),
        ("twice", "cskd − deit on digits, linear probe stands twice; ask it once"),
        ("copied", "its plan is 'plan': the file was renamed or copied"),
    ],
)
def test_a_plan_that_was_edited_into_nonsense_is_a_sentence(tmp_path, capsys, changes, reason):
    record = study(tmp_path)
    data = json.loads(plan_of(contrast(record, "cskd", "deit")).model_dump_json())
    (one,) = data["contrasts"]
    if changes == "twice":
        data["contrasts"] = [one, one]
    elif isinstance(changes, dict):
        meant = {"first": one["first"], "both": [one["first"], one["second"]]}
        one |= {key: meant.get(value, value) if isinstance(value, str) else value for key, value in changes.items()}
    (tmp_path / "plans").mkdir()
    path = tmp_path / "plans" / ("other.json" if changes == "copied" else "plan.json")
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=rf"{path.name}: .*{reason}"):
        read_plans(tmp_path)
    assert main(["report", "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_file_that_is_no_plan_is_named(tmp_path):
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "mine.json").write_text('{"plan": "mine"}')
    with pytest.raises(UserError, match=r"mine.json: not a registered plan: registered: "):
        read_plans(tmp_path)
