"""The settings that `advise` rests on, and their table; `python tests/advice/test_settings.py` writes both again."""

import json
from pathlib import Path

import pytest
from report_synthetic import make_record

from cskd_bench.advice.settings import SHIPPED, MeasuredSetting, read_settings, shipped_settings
from cskd_bench.advice.words import percent, score
from cskd_bench.record import write_record
from cskd_bench.report.words import interval, points

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "pays_off.md"
BEGIN = "<!-- settings:begin (written by python tests/advice/test_settings.py) -->\n"
END = "<!-- settings:end -->\n"
FOLDERS = {"results": False, "results/small_data": False, "results/methods": True}  # whether kept out of the rule
HEAD = ["setting", "without a teacher, validation (training)", "teacher right", "CSKD − no teacher", "rule", "outcome"]


def measured_settings() -> list[MeasuredSetting]:
    """Read the settings of this repository's results again."""
    return [
        one.model_copy(update={"results": name})
        for name, kept_out in FOLDERS.items()
        for one in read_settings(ROOT / name, kept_out=kept_out)
    ]


def cells(one: MeasuredSetting) -> list[str]:
    """Return the row of a setting, under HEAD."""
    alone = "" if one.gate.training is None else f" ({percent(one.gate.training)})"
    bounds = interval(one.interval, signed=True)
    return [
        f"[{one.title}; {one.teacher}](../{one.results}/LEADERBOARD.md)",
        f"{percent(one.gate.validation)}{alone or ' (not measured)'}",
        percent(one.strength.global_top1) if one.strength else "not measured",
        f"{points(one.difference)}{' ' + bounds if bounds else ''}, n = {one.seeds}",
        f"{one.expected}{', kept out' if one.kept_out else ''}",
        f"{one.outcome}, {one.verdict}",
    ]


def generated() -> str:
    """Return the table of all settings, and the rule's score."""
    settings = shipped_settings()
    rows = [HEAD, ["---"] * len(HEAD), *map(cells, settings)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + f"\n\n{score(settings)}\n"


def write(results: Path, records) -> None:
    for one in records:
        write_record(results / "records", one)


def record(label: str, seed: int, value: float, training: float | None, **changes):
    made = make_record(protocol="pretrain", task="colours", label=label, seed=seed, value=value, **changes)
    return made if training is None else made.model_copy(update={"metrics": {"top1": value, "train_top1": training}})


def test_gate_and_difference_are_means_over_the_seeds_that_both_have(tmp_path):
    alone = [record("supervised", seed, 0.5 + seed / 100, 0.7) for seed in (0, 1, 2)]
    control = [record("kd-standardised", 1, 0.54, 0.6)]
    distilled = [record("cskd", seed, 0.53 + seed / 100, 0.7) for seed in (1, 2)]
    write(tmp_path, [*alone, *control, *distilled])
    (found,) = read_settings(tmp_path)
    assert (found.gate.validation, found.gate.training) == (pytest.approx(0.51), pytest.approx(0.7))
    assert (found.gate.seeds, found.gate.control, found.gate.control_seeds) == (3, pytest.approx(0.03), 1)
    assert (found.difference, found.seeds, found.strength) == (pytest.approx(0.03), 2, None)


def test_one_seed_without_a_score_on_training_images_leaves_it_unknown(tmp_path):
    alone = [record("supervised", 0, 0.5, 0.9), record("supervised", 1, 0.5, None)]
    write(tmp_path, [*alone, record("cskd", 0, 0.5, 0.5)])
    (found,) = read_settings(tmp_path)
    assert found.gate.training is None and found.gate.is_open is None


def test_the_shipped_settings_are_what_the_records_say():
    assert len(shipped_settings()) > 5
    assert shipped_settings() == measured_settings()


def test_the_page_has_the_table_of_all_settings():
    assert PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0] == generated()


if __name__ == "__main__":
    text = json.dumps([one.model_dump(mode="json") for one in measured_settings()], indent=1)
    SHIPPED.write_text(f"{text}\n", encoding="utf-8")
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    PAGE.write_text(f"{before}{begin}{generated()}{end}{after}", encoding="utf-8")
