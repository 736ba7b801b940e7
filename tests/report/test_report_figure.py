"""The figure puts every tested difference of CSKD where its value belongs, and lets no name become markup."""

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_synthetic import make_record, write_study

from cskd_bench.record import write_record
from cskd_bench.report.compare import compare
from cskd_bench.report.evidence import Shared
from cskd_bench.report.figure import figure
from cskd_bench.report.page import _table as page_table
from cskd_bench.report.plot import Scale, reach
from cskd_bench.report.selection import select

SVG = "{http://www.w3.org/2000/svg}"


def drawn(folder):
    comparison = compare(folder / "records", select(folder / "records", include_dirty=False))
    return comparison, ET.fromstring(figure(comparison))


def test_dots_and_intervals_stand_where_the_axis_says(tmp_path):
    write_study(tmp_path, skills={"supervised": 0.0, "kd": 0.1, "deit": 0.2, "cskd": 0.5}, protocols=("knn", "linear"))
    comparison, root = drawn(tmp_path)
    (table,) = comparison.tables
    differences = [
        item
        for setting in table.settings
        for (method, at), cell in table.cells.items()
        if at == setting and method.label == "cskd"
        for item in cell.differences
    ]
    dots = root.findall(f"{SVG}circle")
    bars = [line for line in root.findall(f"{SVG}line") if line.get("class") in ("supervised", "kd", "deit")]
    assert len(differences) == len(dots) == len(bars) == 6
    ticks = {
        text.text: float(text.get("x")) for text in root.findall(f"{SVG}text") if text.get("text-anchor") == "middle"
    }
    label, right = next((label, x) for label, x in reversed(ticks.items()))
    per_point = (right - ticks["0"]) / float(label)
    for item, dot, bar in zip(differences, dots, bars, strict=True):
        assert dot.get("class").split()[0] == bar.get("class") == item.baseline.kind
        assert ("holds" in dot.get("class")) is item.significant
        assert float(dot.get("cx")) == pytest.approx(ticks["0"] + 100 * item.mean * per_point, abs=0.02)
        for end, bound in zip(("x1", "x2"), item.interval, strict=True):
            assert float(bar.get(end)) == pytest.approx(ticks["0"] + 100 * bound * per_point, abs=0.02)
    assert any(item.significant for item in differences) or all("holds" not in dot.get("class") for dot in dots)


def test_two_teachers_are_told_apart(tmp_path):
    for teacher in ("regnety_160", "lite0"):
        for seed in range(3):
            for label, value in (("deit", 0.5), ("cskd", 0.6)):
                record = make_record(
                    label=label, seed=seed, value=value + 0.01 * seed * (label == "cskd"), teacher=teacher
                )
                write_record(tmp_path / "records", record)
    comparison, root = drawn(tmp_path)
    words = "".join(root.itertext())
    assert "cskd (teacher regnety_160)" in words and "cskd (teacher lite0)" in words
    assert len(root.findall(f"{SVG}circle")) == 2
    (table,) = comparison.tables
    shown = page_table(0, table, "title", Shared(tmp_path / "records"), {}, "deit")
    rows = [row for row in shown["rows"] if row["label"] == "cskd"]
    assert len(rows) == 2 and all(row["cells"][0]["difference"] and row["tally"] for row in rows)


def test_what_cannot_be_tested_is_not_drawn(tmp_path):
    write_study(tmp_path, skills={"deit": 0.2, "cskd": 0.5}, protocols=("knn",), seeds=1)
    _, root = drawn(tmp_path)
    assert not root.findall(f"{SVG}circle")
    assert "can be tested yet" in "".join(root.itertext())


@given(st.lists(st.floats(-100, 100), min_size=1))
def test_every_value_fits_between_the_ends(values):
    scale = Scale.over(values, 380, 850)
    assert all(380 <= scale(value) <= 850 for value in values)
    ticks = list(scale.ticks())
    assert 3 <= len(ticks) <= 9 and min(map(abs, ticks)) == 0
    assert [scale(ticks[0]), scale(ticks[-1])] == [380, 850]


def test_all_panels_share_one_scale(tmp_path):
    write_study(tmp_path, skills={"deit": 0.0, "cskd": 0.9}, protocols=("knn",))
    write_study(tmp_path, skills={"deit": 0.0, "cskd": 0.1}, protocols=("knn",), model="vit_other")
    _, root = drawn(tmp_path)
    ticks = [(text.text, text.get("x")) for text in root.findall(f"{SVG}text") if text.get("text-anchor") == "middle"]
    assert len(ticks) >= 6 and ticks[: len(ticks) // 2] == ticks[len(ticks) // 2 :]


def test_an_interval_that_dwarfs_all_others_is_cut_and_ends_in_an_arrow(tmp_path):
    usual = [(-1.0, 1.0)] * 4
    assert max(reach([*usual, (-60.0, 60.0)], [0.1])) == 4.0
    assert max(reach(usual, [2.0])) == 2.0, "a mean is always on the scale"
    write_study(tmp_path, skills={"supervised": 0.0, "kd": 0.1, "deit": 0.2, "cskd": 0.5}, protocols=("knn",), seeds=4)
    for seed, value in enumerate((0.2, 0.5)):
        for label in ("deit", "cskd"):
            wide = {"label": label, "model": "vit_wide", "seed": seed, "value": value if label == "cskd" else 0.3}
            write_record(tmp_path / "records", make_record(**wide))
    _, root = drawn(tmp_path)
    assert len(root.findall(f"{SVG}path")) == 2


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", '" onload="alert(1)', "a\x1b[31m\nb & c", "]]>"])
def test_names_stay_text(tmp_path, name):
    (tmp_path / "records").mkdir()
    for seed in range(3):
        for label, value in (("deit", 0.5), ("cskd", 0.6)):
            record = make_record(label=label, seed=seed, value=value + 0.01 * seed * (label == "cskd"), model=name)
            write_record(tmp_path / "records", record)
    _, root = drawn(tmp_path)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        "svg",
        "style",
        "rect",
        "text",
        "line",
        "circle",
        "title",
        "path",
    }
    assert not any(key.startswith("on") for element in root.iter() for key in element.attrib)
    assert len(root.findall(f"{SVG}circle")) == 1
