"""The committed leaderboards are what the committed records say, and the records are whole."""

import re
from pathlib import Path

import pytest

from cskd_bench.report.build import check_report
from cskd_bench.report.verify import verify_records

RESULTS = Path(__file__).resolve().parents[2] / "results"
COMMITTED = {"": 249, "first_look": 78, "methods": 53, "small_data": 29, "detection": 6}  # records, at least


def test_the_committed_tables_figure_and_readme_are_what_the_records_say():
    assert all((RESULTS / name / "LEADERBOARD.md").read_text().count("\n|") > 3 for name in COMMITTED)
    check_report(RESULTS, into=RESULTS.parent / "README.md")
    for name in filter(None, COMMITTED):
        check_report(RESULTS / name)


@pytest.mark.parametrize("name", COMMITTED)
def test_the_committed_records_are_whole_and_name_no_folder_of_a_machine(name):
    folder = RESULTS / name / "records"
    assert verify_records(folder) == []
    records = list(folder.glob("*.json"))
    assert len(records) >= COMMITTED[name]
    for path in records:
        text = path.read_text()
        assert re.findall(r"(?<![\w.:/])/\w+/|\\\\Users", text) == [], path.name  # no absolute folder, of any system


def test_the_evidences_numbers_stand_in_the_leaderboard():
    """Scores and differences are the numbers with two decimals."""
    text = (RESULTS.parent / "docs" / "evidence.md").read_text().partition("## What came out")[2]
    numbers = re.findall(r"[+−]?\d+\.\d\d(?!\d)", text)
    leaderboard = (RESULTS / "LEADERBOARD.md").read_text()
    known = set(re.findall(r"[+−]?\d+\.\d\d(?!\d)", leaderboard))
    assert len(numbers) > 30
    assert [number for number in numbers if number not in known] == []
