"""Primary contrasts open every report: the same answers in every format, one figure, the rest called exploratory."""

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import fields
from types import SimpleNamespace

import pytest
from markdown_it import MarkdownIt
from report_primary import make_answers, make_primary
from report_synthetic import make_record, write_study
from rich.console import Console

from cskd_bench.record import write_record
from cskd_bench.report import build, terminal
from cskd_bench.report.anchors import cell_anchor, primary_anchor, table_anchor
from cskd_bench.report.build import build_report, check_report
from cskd_bench.report.compare import compare
from cskd_bench.report.forest import forest
from cskd_bench.report.markdown import markdown
from cskd_bench.report.marks import BEGIN, END
from cskd_bench.report.page import page
from cskd_bench.report.primary import GATES, MARKS, OPENING, opening
from cskd_bench.report.selection import select
from cskd_bench.report.titles import titles

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "<script>alert(1)</script> \x1b[31m [x](http://evil) | $x$ _a_"


@pytest.fixture
def answered(monkeypatch):
    """Let every report hold invented answers to primary contrasts; returns the list."""
    answers = make_answers()

    def compared(*arguments):
        comparison = compare(*arguments)
        comparison.primary, comparison.gate_open = answers, False
        return comparison

    monkeypatch.setattr(build, "compare", compared)
    return answers


@pytest.fixture
def results(tmp_path):
    write_study(tmp_path, skills={"supervised": 0.0, "deit": 0.2, "cskd": 0.5}, protocols=("knn", "linear"))
    return tmp_path


# ---------------------------------------------------------------- the figure


def drawn(answers):
    return ET.fromstring(forest(answers))


def scale_of(root):
    ticks = {}
    for text in root.findall(f"{SVG}text"):
        if re.fullmatch(r"[+−]?[\d.]+", text.text):
            ticks[float(text.text.replace("−", "-"))] = float(text.get("x"))
    (low, first), (high, last) = min(ticks.items()), max(ticks.items())
    return lambda value: first + (100 * value - low) / (high - low) * (last - first)


def test_points_intervals_and_bands_stand_where_the_axis_says():
    answers = make_answers()
    root = drawn(answers)
    x = scale_of(root)
    tested = [item for item in answers if item.mean is not None]
    points = root.findall(f"{SVG}circle")
    assert [float(point.get("cx")) for point in points] == pytest.approx([x(item.mean) for item in tested], abs=0.02)
    for kind, name in (("thick", "interval"), ("thin", "simultaneous")):
        lines = [line for line in root.findall(f"{SVG}line") if kind in line.get("class").split()]
        ends = [(float(line.get("x1")), float(line.get("x2"))) for line in lines]
        expected = [tuple(map(x, getattr(item, name))) for item in tested]
        assert [end for pair in ends for end in pair] == pytest.approx([e for pair in expected for e in pair], abs=0.02)
    bands = root.findall(f"{SVG}rect[@class='band']")
    assert len(bands) == len(answers)
    assert float(bands[0].get("x")) == pytest.approx(x(-0.005), abs=0.02)
    assert float(bands[0].get("width")) == pytest.approx(x(0.005) - x(-0.005), abs=0.02)


def test_what_is_shown_is_filled_and_every_row_is_named_with_its_answer_and_seeds():
    answers = make_answers()
    root = drawn(answers)
    filled = ["shown" in point.get("class").split() for point in root.findall(f"{SVG}circle")]
    assert filled == [True, True, False, True], "higher, equal, open, lower; the untested one has no point"
    words = [text.text for text in root.findall(f"{SVG}text")]
    for item in answers:
        assert item.name in words and any(text.startswith(item.where) for text in words)
    assert [word for word in words if word in ("higher", "lower", "not shown", "not tested", "equal within ±0.50")] == [
        "higher",
        "equal within ±0.50",
        "not shown",
        "lower",
        "not tested",
    ]
    assert "imagenette128, pretrain, 5 seeds" in words and "flowers102, linear probe, 0 seeds" in words


def test_without_a_plan_the_figure_says_so():
    root = drawn([])
    assert "No plan with primary contrasts" in "".join(root.itertext()) and not root.findall(f"{SVG}circle")


def test_a_scale_is_shared_by_parts_and_names_stay_text():
    evil = make_primary(name=EVIL, where=EVIL, plan=EVIL, sentence=EVIL, baseline_kind='"><script>')
    root = drawn([evil, *make_answers()])
    assert f"{SVG}script" not in {element.tag for element in root.iter()}
    assert "\x1b" not in forest([evil])


# ---------------------------------------------------------------- every format


def test_every_format_tells_the_answers(results, answered):
    (results / "README.md").write_text(f"# Ours\n\n{BEGIN}\n{END}\n")
    report = build_report(results, results / "out", into=[results / "README.md"])
    shown = io.StringIO()
    report.show(Console(file=shown, width=400))
    texts = {name: path.read_text() for name, path in report.files.items()}
    readme = (results / "README.md").read_text()
    for item in answered:
        start, verdict = f"{item.name} on ", f"{MARKS[item.answer]} {item.verdict}"
        for text in (shown.getvalue(), texts["html"], texts["md"], readme):
            assert start in text and verdict in text and "Of 5 primary contrasts: 1 higher, 1 lower, " in text
    assert [item["answer"] for item in json.loads(texts["json"])["primary"]] == [item.answer for item in answered]
    assert json.loads(texts["json"])["gate_open"] is False
    assert texts["forest"] == forest(answered)
    assert "verdicts" not in json.loads(texts["json"])
    check_report(results, results / "out", into=[results / "README.md"])


def test_markdown_opens_with_one_box_and_one_figure_and_folds_the_rest(results, answered):
    (results / "README.md").write_text(f"{BEGIN}\n{END}\n")
    build_report(results, results / "my out", formats=["md"], into=[results / "README.md"])
    text, readme = ((results / name).read_text() for name in ("my out/LEADERBOARD.md", "README.md"))
    assert text.startswith("# Leaderboard\n\n> **Does CSKD help your ViT")
    assert text.count("](primary.svg)") == 1 and readme.count("](my%20out/primary.svg)") == 1
    assert text.index("primary.svg") < text.index("Scores in percent") < text.index("| method |")
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert html.count("<blockquote>") == 1 and html.count("<li>") >= len(answered)
    folded = "".join(re.findall(r"<details>.*?</details>", text, re.DOTALL))
    assert folded.count("<details><summary>Exploratory: every other comparison</summary>") == 1
    assert "| paired difference |" in folded and "| 95 % interval of the mean |" in folded
    assert GATES["none"] in folded, "the invented plans have none of these students"
    assert "| paired difference |" not in text.replace(folded, "")
    assert "<table>" in html[html.index("<details>") : html.index("</details>")], "tables in a fold are rendered"


def test_a_note_on_costs_stands_below_its_table_as_text(results):
    comparison = compare(results / "records", select(results / "records"))
    (table,) = comparison.tables
    values = {field.name: getattr(table, field.name) for field in fields(table)}
    comparison.tables = [SimpleNamespace(**{**values, "cost_note": "Two kinds of <b>hardware</b>"})]
    shown = io.StringIO()
    terminal.show(comparison, [], Console(file=shown, width=200))
    assert "Two kinds of <b>hardware</b>" in shown.getvalue()
    for text in (markdown(comparison, [], []), page(results / "records", comparison, [], [])):
        assert "Two kinds of &lt;b&gt;hardware" in text


def test_a_stale_figure_of_primary_contrasts_is_noticed(results, answered):
    build_report(results, results)
    answered.pop()
    with pytest.raises(Exception, match=r"LEADERBOARD.md: stale"):
        check_report(results)
    build_report(results, results, formats=["md"])
    with pytest.raises(Exception, match=r"primary.svg: stale"):
        check_report(results)


def test_the_first_plan_opens_the_page_and_the_rest_follows():
    first = [make_primary(where=f"task {number}") for number in range(OPENING + 2)]
    second = [make_primary(plan="other", where="task 0")]
    opened, rest = opening([*first, *second])
    assert opened == first[:OPENING] and rest == [*first[OPENING:], *second]
    assert opening(second + first)[0] == second
    assert opening([]) == ([], [])


def test_names_in_sentences_stay_text_in_markdown(results, answered):
    answered[:] = [make_primary(name=EVIL, where=EVIL, sentence=f"{EVIL}\n# Heading")]
    report = build_report(results, results / "out")
    text, page = (report.files[name].read_text() for name in ("md", "html"))
    assert "<script>alert" not in text + page and "\n# Heading" not in text
    assert list(csv.reader(io.StringIO(report.files["csv"].read_text())))


# ---------------------------------------------------------------- ids of the page


def test_anchors_are_those_of_what_they_name_not_of_its_position(results):
    def anchors():
        tables = compare(results / "records", select(results / "records")).tables
        cells = {cell_anchor(table, cell) for table in tables for cell in table.cells.values()}
        return {table_anchor(table) for table in tables}, cells

    tables, cells = anchors()
    assert len(tables) == 1 and len(cells) == 6
    write_study(results, skills={"kd": 0.1, "cskd": 0.3}, tasks=("cifar10",), protocols=("knn",), model="a_vit")
    more_tables, more_cells = anchors()
    assert tables < more_tables and cells < more_cells and len(more_cells) == 8
    write_study(results, skills={"kd": 0.1}, tasks=("a_task", "digits"), protocols=("knn",))
    assert anchors()[0] == more_tables and more_cells < anchors()[1], "other rows and columns change no link"
    names = [*map(primary_anchor, make_answers())]
    assert len(set(names)) == len(names) and names[::-1] == [*map(primary_anchor, make_answers()[::-1])]


# ---------------------------------------------------------------- titles


def titled(folder):
    return titles(compare(folder / "records", select(folder / "records")).tables)


def pretrained(folder, recipe, student=None, teacher=None, **changes):
    augment = {"mixup": 0.0, "cutmix": 0.0, **recipe.pop("augment", {})}
    optim = {"lr": 0.001, "clip_grad": None, **recipe.pop("optim", {})}
    config = {
        "recipe": {"epochs": 5, "precision": "bf16", "augment": augment, "optim": optim, **recipe},
        "student": {"patch_size": 8, "embed_dim": None, **(student or {})},
        "data": {"root": "elsewhere"},
        "teacher": {"image_size": 128, **(teacher or {})},
    }
    given = {"task": "imagenette128", "protocol": "pretrain", "pretrain_data": "imagenette128", "config": config}
    write_record(folder / "records", make_record(**{**given, **changes}))


def test_tables_are_named_by_what_differs_between_their_recipes(tmp_path):
    pretrained(tmp_path, {}, pretrain_recipe="a" * 16)
    pretrained(tmp_path, {"augment": {"mixup": 0.8, "cutmix": 1.0}, "precision": "fp32"}, pretrain_recipe="b" * 16)
    pretrained(tmp_path, {}, {"embed_dim": 96}, pretrain_recipe="c" * 16, model="vit_tiny embed-dim=96")
    pretrained(tmp_path, {"epochs": 15, "optim": {"clip_grad": 1.0}}, pretrain_recipe="d" * 16)
    pretrained(tmp_path, {}, pretrain_data="tin100", pretrain_recipe="e" * 16)
    start = "vit_tiny, pretrained on imagenette128 for"
    assert set(titled(tmp_path)) == {
        f"{start} 5 epochs: no mixing, bf16",
        f"{start} 5 epochs: mixup and cutmix, fp32",
        f"{start} 5 epochs: no mixing, width 96, bf16",
        f"{start} 15 epochs: no mixing, bf16, clip_grad 1",
        "vit_tiny, pretrained on tin100 for 5 epochs",
    }


def test_transfers_are_named_alike_and_a_hash_stands_only_where_nothing_else_differs(tmp_path):
    for letter, epochs in (("a", 5), ("b", 15)):
        config = {"pretrain": {"recipe": {"epochs": epochs}}}
        write_record(tmp_path / "records", make_record(config=config, pretrain_recipe=letter * 16))
    assert titled(tmp_path) == [f"vit_tiny, pretrained on mnist_5k for {n} epochs" for n in (5, 15)]
    write_record(tmp_path / "records", make_record(config=config, pretrain_recipe="c" * 16))
    assert titled(tmp_path)[1:] == [
        f"vit_tiny, pretrained on mnist_5k for 15 epochs, recipe {letter * 8}" for letter in "bc"
    ]


def test_a_setting_that_differs_between_the_rows_of_a_table_names_no_table(tmp_path):
    for label, size in (("deit", 64), ("cskd", 128)):
        pretrained(tmp_path, {}, None, {"image_size": size}, label=label, pretrain_recipe="a" * 16)
    pretrained(tmp_path, {"precision": "fp32"}, None, {"image_size": 128}, pretrain_recipe="b" * 16)
    assert [title.partition(": ")[2] for title in titled(tmp_path)] == ["bf16", "fp32"]
