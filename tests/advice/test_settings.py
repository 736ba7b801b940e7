"""The settings that `advise` rests on, and their table; `python tests/advice/test_settings.py` writes both again."""

import json
import re
from pathlib import Path

import pytest
from report_plans import ask_plan
from report_synthetic import make_record

from cskd_bench.advice.gate import Gate, gate_of
from cskd_bench.advice.settings import SHIPPED, MeasuredSetting, find_strength, read_settings, shipped_settings
from cskd_bench.advice.words import difference_in_words, percent, score
from cskd_bench.record import CodeRef, write_record
from cskd_bench.report.compare import compare
from cskd_bench.report.markdown import markdown_text
from cskd_bench.report.selection import TableStudent, select
from cskd_bench.report.teachers import TeacherMeasure, teacher_rows
from cskd_bench.report.verify import verify_records

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "pays_off.md"
BEGIN = "<!-- settings:begin (written by python tests/advice/test_settings.py) -->\n"
END = "<!-- settings:end -->\n"
FOLDERS = {"results": False, "results/small_data": False, "results/kept_out": True}  # whether kept out of the rule
GATES = ROOT / "results" / "gates"  # runs without a teacher, trained again for their score on training images
HEAD = [
    "setting",
    "without a teacher, validation (training)",
    "teacher right",
    "CSKD − no teacher",
    "rule",
    "came out: rule",
]


def measured_settings() -> list[MeasuredSetting]:
    """Read the settings of this repository's results again."""
    again = compare(GATES / "records", select(GATES / "records"))
    gates = {table.student: gate_of(table, "") for table in again.tables}
    return [
        with_gate(one, gates).model_copy(update={"results": name})
        for name, kept_out in FOLDERS.items()
        for one in read_settings(ROOT / name, kept_out=kept_out)
    ]


def with_gate(one: MeasuredSetting, gates: dict[TableStudent, Gate]) -> MeasuredSetting:
    """Take the gap of the run that was trained again where older records lack scores on training images."""
    found = gates.get(TableStudent(one.student, one.pretrain_data, one.pretrain_recipe), Gate())
    if one.gate.training is not None or found.training is None:
        return one
    gap = {"validation": found.validation, "training": found.training, "seeds": found.seeds}
    return one.model_copy(update={"gate": one.gate.model_copy(update=gap)})


def cells(one: MeasuredSetting) -> list[str]:
    """Return the row of a setting, under HEAD."""
    alone = "" if one.gate.training is None else f" ({percent(one.gate.training)})"
    return [
        f"{markdown_text(f'{one.title}; {one.teacher}')} ([{one.results}](../{one.results}/LEADERBOARD.md))",
        f"{percent(one.gate.validation)}{alone or ' (not measured)'}",
        percent(one.strength.global_top1) if one.strength else "not measured",
        difference_in_words(one),
        f"{one.expected}{', kept out' if one.kept_out else ''}",
        f"{one.outcome}: {one.verdict}",
    ]


def generated() -> str:
    """Return the table of all settings, and the rule's score."""
    settings = shipped_settings()
    rows = [HEAD, ["---"] * len(HEAD), *map(cells, settings)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + f"\n\n{score(settings)}\n"


def leaves(value, at=()) -> dict:
    """Return every number and word in nested lists and dictionaries, by its place."""
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {at: value}
    return {place: leaf for key, one in value.items() for place, leaf in leaves(one, (*at, key)).items()}


def rounded(settings: list[MeasuredSetting]) -> list[dict]:
    """Return settings as they are written, to nine decimals: machines differ in the last digits."""
    text = json.dumps([one.model_dump(mode="json") for one in settings])
    return json.loads(text, parse_float=lambda number: round(float(number), 9))


def write(results: Path, records) -> None:
    for one in records:
        write_record(results / "records", one)


def record(label: str, seed: int, value: float, training: float | None, **changes):
    made = make_record(protocol="pretrain", task="colours", label=label, seed=seed, value=value, **changes)
    return made if training is None else made.model_copy(update={"metrics": {"top1": value, "train_top1": training}})


def test_gate_and_difference_are_means_over_the_seeds_that_both_have(tmp_path):
    alone = [record("supervised", seed, 0.5 + seed / 100, 0.7) for seed in (0, 1, 2)]
    control = [record("kd-standardised", 1, 0.54, 0.6, teacher="tf_efficientnet_lite0")]
    distilled = [record("cskd", seed, 0.53 + seed / 100, 0.7) for seed in (1, 2)]
    write(tmp_path, [*alone, *control, *distilled])
    (found,) = read_settings(tmp_path)
    assert (found.gate.validation, found.gate.training) == (pytest.approx(0.51), pytest.approx(0.7))
    assert (found.gate.seeds, found.gate.control, found.gate.control_seeds) == (3, pytest.approx(0.03), 1)
    assert (found.difference, found.seeds, found.strength) == (pytest.approx(0.03), 2, None)


def three_seeds(results: Path, gains=(0.02, 0.021, 0.019)) -> MeasuredSetting:
    write(results, [record("supervised", seed, 0.5 + seed / 100, 0.6) for seed in range(3)])
    write(results, [record("cskd", seed, 0.5 + seed / 100 + gain, 0.6) for seed, gain in enumerate(gains)])
    (found,) = read_settings(results)
    return found


def test_a_setting_whose_plan_waits_for_seeds_has_no_interval_yet(tmp_path):
    found = three_seeds(tmp_path)
    assert found.outcome == "higher" and (found.plan, found.planned, found.waits) == ("", 0, False)
    ask_plan(tmp_path, found, "other", [0, 1, 2, 3], "deit", task="colours")
    ask_plan(tmp_path, found, "another", [0, 1, 2, 3], "cskd", task="colours", against="deit")
    assert read_settings(tmp_path) == [found], "a plan that does not ask for this contrast changes nothing"
    ask_plan(tmp_path, found, "asked", [0, 1, 2, 3], "cskd", task="colours")
    (waiting,) = read_settings(tmp_path)
    assert (waiting.interval, waiting.outcome, waiting.verdict) == (None, "not tested", "undecided")
    assert (waiting.plan, waiting.planned, waiting.seeds, waiting.waits) == ("asked", 4, 3, True)
    assert difference_in_words(waiting) == "+2.00 points, 3 of 4 seeds"


def test_a_setting_has_the_interval_and_the_answer_of_its_plan(tmp_path):
    found = three_seeds(tmp_path)
    ask_plan(tmp_path, found, "asked", [0, 1], "cskd", "deit", task="colours")
    (planned,) = read_settings(tmp_path)
    assert (planned.seeds, planned.waits) == (2, False), "on the plan's seeds alone"
    assert planned.difference == pytest.approx(0.0205) and planned.interval[0] < found.interval[0]
    ask_plan(tmp_path, found, "longer", [0, 1, 2, 3], "cskd", task="colours")
    assert read_settings(tmp_path) == [planned], "a plan that is whole goes before one that waits"
    ask_plan(tmp_path, found, "cautious", [0, 1], "cskd", "deit", "kd", task="colours")
    assert [one.plan for one in read_settings(tmp_path)] == ["cautious"], "of two whole ones the larger p-value"


def test_a_plan_on_new_seeds_takes_the_answer_from_the_old_ones(tmp_path):
    found = three_seeds(tmp_path)
    ask_plan(tmp_path, found, "asked", [3, 4], "cskd", task="colours")
    (waiting,) = read_settings(tmp_path)
    assert (waiting.outcome, waiting.seeds, waiting.waits) == ("not tested", 0, True)
    assert difference_in_words(waiting) == "0 of 2 seeds"


@pytest.mark.parametrize(
    ("gains", "band", "outcome"),
    [
        ((0.02, 0.021, 0.019), None, "higher"),
        ((-0.02, -0.021, -0.019), None, "lower"),
        ((0.001, -0.001, 0.0005), 0.02, "equal"),
        ((0.02, -0.02, 0.01), 0.02, "not shown"),
    ],
)
def test_what_came_out_is_the_plans_answer(tmp_path, gains, band, outcome):
    ask_plan(tmp_path, three_seeds(tmp_path, gains), "asked", [0, 1, 2], "cskd", task="colours", band=band)
    assert [one.outcome for one in read_settings(tmp_path)] == [outcome]


def test_the_gate_has_the_control_of_the_settings_own_teacher(tmp_path):
    names = ("a_cnn@0123456789ab at 64 px", "a_cnn@0123456789ab at 128 px", "a_cnn@ba9876543210 at 64 px")
    write(tmp_path, [record("supervised", 0, 0.5, 0.55)])
    for number, name in enumerate(names):
        write(tmp_path, [record("kd-standardised", 0, 0.5 + number / 100, 0.5, teacher=name)])
        write(tmp_path, [record("cskd", 0, 0.5, 0.5, teacher=name)])
    found = sorted(one.gate.control for one in read_settings(tmp_path))
    assert found == [pytest.approx(number / 100) for number in range(3)]


def test_a_teachers_strength_is_that_of_its_own_weights():
    shares = {"0123456789ab": 0.25, "ba9876543210": 0.75}
    plain = {"student": "s", "pretrain_data": "d", "pretrain_recipe": "r", "seed": 0, "teacher": "a_cnn at 64 px"}
    plain |= {"grid": (2, 2), "views": 100, "local_top1": 0.5, "local_is_global": 0.5, "command": "", "created": ""}
    plain |= {"code": CodeRef(commit="", dirty=False, version="0"), "versions": {}}
    measures = [TeacherMeasure(weights=name, global_top1=share, **plain) for name, share in shares.items()]
    for name, share in shares.items():
        found = find_strength(measures, TableStudent("s", "d", "r"), f"a_cnn@{name} at 64 px")
        assert found.global_top1 == share
    assert [row[0] for row in teacher_rows(measures)] == [f"a_cnn@{name} at 64 px" for name in shares]


def test_one_seed_without_a_score_on_training_images_leaves_it_unknown(tmp_path):
    alone = [record("supervised", 0, 0.5, 0.9), record("supervised", 1, 0.5, None)]
    write(tmp_path, [*alone, record("cskd", 0, 0.5, 0.5)])
    (found,) = read_settings(tmp_path)
    assert found.gate.training is None and found.gate.is_open is None


def test_the_runs_that_were_trained_again_are_whole():
    assert verify_records(GATES / "records") == []
    assert len(list((GATES / "records").glob("*.json"))) == 5


def test_the_shipped_settings_are_what_the_records_say():
    assert len(shipped_settings()) > 5
    shipped, measured = (leaves(rounded(settings)) for settings in (shipped_settings(), measured_settings()))
    close = {at: pytest.approx(one, rel=0, abs=2e-9) if isinstance(one, float) else one for at, one in measured.items()}
    assert shipped == close


def test_what_was_predicted_by_hand_is_what_the_gates_and_teachers_say():
    """The rows were written before the CSKD runs; what they rest on has not changed since."""
    text = PAGE.read_text(encoding="utf-8").partition("### Settings kept out")[2]
    told = [re.findall(r"−?\d+\.\d", row) for row in text.splitlines() if row.endswith("28 November 2026 |")]
    kept_out = {one.epochs: one for one in shipped_settings() if one.kept_out}
    expected = []
    for one in (kept_out[8], kept_out[40]):
        shares = (one.gate.validation, one.gate.training, one.gate.control, one.strength.global_top1)
        expected.append([f"{100 * share:.1f}".replace("-", "−") for share in shares])
        assert one.expected == "no gain"
    assert told == expected


def test_the_page_has_the_table_of_all_settings():
    assert PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0] == generated()


if __name__ == "__main__":
    text = json.dumps(rounded(measured_settings()), indent=1)
    SHIPPED.write_text(f"{text}\n", encoding="utf-8")
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    PAGE.write_text(f"{before}{begin}{generated()}{end}{after}", encoding="utf-8")
