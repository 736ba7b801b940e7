"""Parts of a Markdown page: each is written between its marks, from its folder, and nothing else is touched."""

import re
import shlex
from statistics import mean, stdev

import pytest
from report_primary import make_answers, make_primary
from report_synthetic import make_record, write_study

from cskd_bench.cli import main
from cskd_bench.engine.patches import IMAGES
from cskd_bench.errors import UserError
from cskd_bench.record import CodeRef, write_record
from cskd_bench.report import build
from cskd_bench.report.build import COMMITTED, build_report, check_report
from cskd_bench.report.compare import compare
from cskd_bench.report.marks import BEGIN, END
from cskd_bench.report.parts import PARTS, refresh
from cskd_bench.report.selection import select
from cskd_bench.report.teachers import TeacherMeasure

EVIL = f"cskd <img src=x> | {END} \x1b[31m [x](http://evil)"


def part(words="", content="old"):
    """Write a part of a page, by default with the bare mark."""
    begin = f"<!-- cskd-bench report: {words} -->" if words else BEGIN
    return f"{begin}\n{content}\n{END}\n"


def inside(text, words):
    """Return what stands in the page's only part of that mark."""
    (found,) = re.findall(rf"^<!-- cskd-bench report: {re.escape(words)} -->$(.*?)^{END}$", text, re.S | re.M)
    return found.strip()


@pytest.fixture
def results(tmp_path):
    """Two results folders, `one` and `two`, whose scores differ; the page lies beside them."""
    for number, name in enumerate(("one", "two")):
        skills = {"supervised": 0.0, "deit": 0.2, "cskd": 0.5 + number}
        protocols = ("pretrain", "knn", "linear")
        write_study(tmp_path / name, skills=skills, protocols=protocols, world_seed=number, examples=60)
    return tmp_path


@pytest.fixture
def planned(monkeypatch):
    """Let every report hold invented answers, primary and exploratory."""

    def compared(*arguments):
        comparison = compare(*arguments)
        comparison.primary, comparison.gate_open = make_answers(), False
        comparison.exploratory = [
            make_primary(name="a − b", where="5 epochs less 15", detail="+1.25 points, 3 seeds.", note="Plan x."),
            make_primary(name="a − b", where="width 96", detail="−2.50 points, 3 seeds.", note="Plan y."),
        ]
        return comparison

    monkeypatch.setattr(build, "compare", compared)


def written(results, text, folder="one"):
    """Write a page, refresh it from a folder and return its text."""
    page = results / "page.md"
    page.write_text(text)
    build_report(results / folder, results / folder, formats=COMMITTED, into=[page])
    return page.read_text()


# ---------------------------------------------------------------- which parts are written


def test_parts_of_one_folder_are_written_and_all_else_stays(results):
    marks = ['scores "linear", one', 'scores "kNN", one', 'scores "linear", two']
    kept = ["# Ours\n\n", "\nA sentence.\n\n", "\n", "\nThe end.\n"]
    first = written(results, "".join([text + part(mark) for text, mark in zip(kept, marks, strict=False)]) + kept[-1])
    linear, knn, other = (inside(first, mark) for mark in marks)
    assert "linear probe |" in linear and "kNN |" in knn and "kNN" not in linear and "linear" not in knn
    assert other == "old"
    second = written(results, first, "two")
    assert inside(second, marks[2]) not in ("old", linear)
    assert [inside(second, mark) for mark in marks[:2]] == [linear, knn]
    outside = re.sub(rf"<!-- cskd-bench report.*?{END}\n", "", second, flags=re.S)
    assert outside == "".join(kept)


def test_a_part_that_names_no_folder_is_written_from_any(results):
    first = written(results, part('scores "linear"'))
    assert written(results, first, "two") != first
    assert written(results, written(results, first, "two")) == first, "nothing else of the page has changed"


def test_a_folder_is_relative_to_the_page_however_it_is_written(results):
    text = written(results, part("scores, ../" + results.name + "/one/"))
    assert "| cskd |" in text
    (results / "docs").mkdir()
    (results / "docs" / "page.md").write_text(part("primary, ../one"))
    build_report(results / "one", results / "out", formats=["forest"], into=[results / "docs" / "page.md"])
    assert "old" not in (results / "docs" / "page.md").read_text()


def test_a_page_without_a_part_of_the_folder_is_refused_and_no_page_is_written(results):
    good, page = results / "good.md", results / "page.md"
    good.write_text(part("scores"))
    page.write_text(part("scores, two") + part("training, three"))
    with pytest.raises(UserError, match=r"page.md: has no part for .*one; its marks name two, three"):
        build_report(results / "one", results / "one", formats=["md"], into=[good, page])
    assert good.read_text() == part("scores") and not (results / "one" / "LEADERBOARD.md").exists()
    build_report(results / "two", results / "two", formats=["md"], into=[good, page])
    assert "| cskd |" in good.read_text() and "| cskd |" in page.read_text()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (part("tables"), r"line 1: there is no part 'tables'; there are primary, exploratory, scores, differences, "),
        (part("tables, two") + part("scores"), r"line 1: there is no part 'tables'"),
        (f"# Ours\n\n{BEGIN}\n", r"line 3: the part has no end; put the line <!-- end"),
        (f"{BEGIN}\n{part('scores')}{END}\n", r"line 2: a part begins inside the one of line 1"),
        (f"{part()}\n{END}\n", r"line 5: no part begins before this end"),
        (part('scores "linear'), r'line 1: the mark cannot be read; write <!-- cskd-bench report: PART "TEXT", FOLDER'),
        (part("scores one two"), r"line 1: the mark cannot be read"),
        (
            part('scores "linear" "VOC"'),
            r'line 1: no table .* has "linear" and "VOC"; there are: Pretraining: vit_tiny',
        ),
        (part('exploratory "teacher"'), r'line 1: no exploratory contrast has "teacher"; there are: a − b on 5 epochs'),
        (part('primary "deit"'), r"line 1: the part `primary` holds all primary contrasts"),
    ],
)
def test_a_mark_that_cannot_be_followed_is_named_with_its_line(results, planned, text, problem):
    with pytest.raises(UserError, match=problem):
        written(results, text)
    assert (results / "page.md").read_text() == text
    assert not (results / "one" / "LEADERBOARD.md").exists()


def test_marks_stand_on_lines_of_their_own(results):
    """A page may show a mark as code, and a name of a record that is one ends no part."""
    shown = f"Write `<!-- cskd-bench report: scores -->`, then the end {END}\n"
    for seed in range(3):
        write_record(results / "one" / "records", make_record(label=EVIL, seed=seed, value=0.5 + 0.01 * seed))
    text = written(results, shown + "".join(map(part, PARTS)))
    assert text.startswith(shown)
    assert "<img" not in text and "\x1b" not in text
    assert [line for line in text.splitlines() if END in line][1:] == [END] * len(PARTS)
    assert written(results, text) == text


@pytest.mark.parametrize("fence", ["```", "~~~~", "  ```text"])
def test_marks_in_fenced_code_are_shown_and_not_followed(results, fence):
    close = fence.strip().removesuffix("text")
    shown = f"```not a fence```\n{fence}\n{part('PART')}{part('scores')}{close}\n"
    text = written(results, shown + part("training"))
    assert text.startswith(shown) and "old" in shown and inside(text.removeprefix(shown), "training") != "old"


def test_a_page_keeps_its_line_ends_and_its_byte_order_mark(results):
    page = results / "page.md"
    page.write_bytes(f"\ufeff{part('scores')}The end.\n".replace("\n", "\r\n").encode())
    build_report(results / "one", results / "one", formats=COMMITTED, into=[page])
    content = page.read_bytes()
    assert content.startswith(b"\xef\xbb\xbf<!--") and content.endswith(b"The end.\r\n") and b"old" not in content
    assert content.count(b"\n") == content.count(b"\r\n") > 10
    check_report(results / "one", into=[page])


# ---------------------------------------------------------------- what is written


def test_two_parts_of_one_kind_hold_what_their_texts_name(results, planned):
    marks = ['exploratory "EPOCHS less"', 'exploratory "width"', "exploratory"]
    text = written(results, "".join(map(part, marks)))
    epochs, width, both = (inside(text, mark) for mark in marks)
    assert "+1.25 points" in epochs and "Plan x." in epochs and "−2.50" not in epochs and "Plan y." not in epochs
    assert "−2.50 points" in width and "+1.25" not in width
    assert both.count("\n- ") == 1 and "+1.25" in both and "−2.50" in both


def test_primary_contrasts_are_those_of_the_bare_mark(results, planned):
    text = written(results, part() + part("primary"))
    bare = text.partition(BEGIN)[2].partition(END)[0].strip()
    assert inside(text, "primary") == bare
    assert bare.startswith("> **Does CSKD") and bare.endswith("(one/primary.svg)")


def test_without_plans_and_records_a_part_says_so(tmp_path):
    (tmp_path / "records").mkdir()
    comparison = compare(tmp_path / "records", select(tmp_path / "records"))
    text = refresh(tmp_path / "page.md", "".join(map(part, PARTS)), tmp_path, comparison, tmp_path / "primary.svg")
    assert "No plan with primary contrasts" in inside(text, "primary")
    assert inside(text, "exploratory") == "No plan declares exploratory contrasts."
    assert {inside(text, name) for name in ("scores", "differences", "training")} == {"No record can be shown yet."}


def test_tables_are_those_of_the_leaderboard_with_a_legend(results):
    text = written(results, part("scores") + part("differences") + part('differences "knn"'))
    leaderboard = (results / "one" / "LEADERBOARD.md").read_text()
    scores, differences, knn = (inside(text, mark) for mark in ("scores", "differences", 'differences "knn"'))
    for found in (scores, differences):
        rows = [line for line in found.splitlines() if line.startswith("|")]
        assert len(rows) > 8
        assert [line for line in rows if line not in leaderboard.splitlines()] == []
    assert scores.count("Scores in percent: mean ± standard deviation over pretraining seeds") == 2
    assert (
        differences.count("Differences are paired by seed, in points") == 2 and "Holm family: 6 tests." in differences
    )
    assert "**Classification: vit\\_tiny, pretrained on mnist\\_5k" in knn and "Pretraining" not in knn
    (head,) = [line for line in knn.splitlines() if line.startswith("| paired difference")]
    assert head == "| paired difference | digits v1, kNN |"
    assert [line.count("|") for line in knn.splitlines() if line.startswith("|")] == [3] * 5, "one column, three rows"
    assert "Holm family: 6 tests." in knn, "the family is that of the whole table"


def trained(results, label, seed, **last):
    """Write a pretraining's record whose curve ends with `last`."""
    given = {"protocol": "pretrain", "task": "mnist_5k", "label": label, "seed": seed, "value": 0.5 + 0.1 * seed}
    write_record(results / "records", make_record(curve=({"top1": 0.1, "patch_top1": 0.9}, last), **given))


def test_the_training_table_describes_the_last_epoch(tmp_path):
    shares = [0.30, 0.35, 0.42]
    for seed, share in enumerate(shares):
        trained(tmp_path, "supervised", seed, top1=0.5, attention_distance=30.0 + seed)
        trained(tmp_path, "cskd", seed, train_top1=0.9, patch_top1=share)
    trained(tmp_path, "deit", 0, patch_top1=0.25, train_top1=0.4)
    trained(tmp_path, "deit", 1)
    (tmp_path / "page.md").write_text(part("training"))
    build_report(tmp_path, tmp_path, formats=["md"], into=[tmp_path / "page.md"])
    rows = [line.strip("| ").split(" | ") for line in (tmp_path / "page.md").read_text().splitlines() if "|" in line]
    few = f"up to {IMAGES} validation images"
    heads = ["top-1 on", "gap to top-1 on", f"patches of {few} that name", f"attention distance on {few}, pixels"]
    assert [text[: len(head)] for text, head in zip(rows[0][1:], heads, strict=True)] == heads
    patches = f"{100 * mean(shares):.1f} ± {100 * stdev(shares):.1f} (3)"
    assert rows[2:] == [
        ["supervised", "–", "–", "–", "31.0 ± 1.0 (3)"],
        ["deit", "40.00 (1)", "−10.00 (1)", "25.0 (1)", "–"],
        ["cskd", "90.00 ± 0.00 (3)", "+30.00 ± 10.00 (3)", patches, "–"],
    ]


def measured(results, seed, views, share, **changes):
    """Keep an invented measurement of a teacher."""
    told = {"student": "vit", "pretrain_data": "colours", "pretrain_recipe": "r", "seed": seed, "teacher": "a cnn"}
    told |= {"weights": "timm", "grid": (2, 3), "views": views, "global_top1": share, "local_top1": share / 2}
    told |= {"local_is_global": share / 4, "command": "bank agreement", "created": "now", "versions": {}, **changes}
    code = CodeRef(version="0.2.0", commit="a", dirty=False)
    number = len(list((results / "teachers").glob("*")))
    TeacherMeasure(code=code, **told).write(results / "teachers" / f"{number}.json")


def test_the_teachers_part_pools_the_views_of_a_teachers_seeds(results):
    assert inside(written(results, part("teachers")), "teachers").startswith("No teacher was measured")
    measured(results / "one", 1, 100, 0.8)
    measured(results / "one", 2, 300, 0.4)
    measured(results / "one", 1, 1000, 0.9, teacher="b cnn")
    rows = inside(written(results, part("teachers")), "teachers").splitlines()[-2:]
    assert rows[0] == "| a cnn | colours | 2 x 3 | 50.0 % | 25.0 % | 12.5 % | 400 | 2 |"
    assert rows[1].startswith("| b cnn | colours | 2 x 3 | 90.0 % |") and rows[1].endswith("| 1,000 | 1 |")
    (last,) = inside(written(results, part('teachers "b cnn"')), 'teachers "b cnn"').splitlines()[-1:]
    assert last == rows[1]
    with pytest.raises(UserError, match="no teacher has"):
        written(results, part('teachers "another"'))


def test_two_recipes_of_one_teacher_are_told_apart(results):
    for recipe in ("first", "second"):
        measured(results / "one", 1, 100, 0.8, pretrain_recipe=recipe)
    rows = inside(written(results, part("teachers")), "teachers").splitlines()[-2:]
    assert ["recipe first" in rows[0], "recipe second" in rows[1]] == [True, True]


def test_records_without_a_curve_are_said_to_have_none(tmp_path):
    write_record(tmp_path / "records", make_record(protocol="pretrain", task="mnist_5k"))
    (tmp_path / "page.md").write_text(part("training"))
    build_report(tmp_path, tmp_path, formats=["md"], into=[tmp_path / "page.md"])
    assert "These records do not describe the last epoch of pretraining." in (tmp_path / "page.md").read_text()


# ---------------------------------------------------------------- whether a page is up to date


@pytest.mark.parametrize("name", PARTS)
def test_a_changed_digit_in_a_part_is_found(results, planned, name):
    for seed in range(3):
        trained(results / "one", "cskd", seed, patch_top1=0.25 + 0.01 * seed)
    measured(results / "one", 0, 100, 0.5)
    page = results / "page.md"
    text = written(results, part(f"{name}, one") + part("scores, two", "7.89"))
    check_report(results / "one", into=[page])
    page.write_text(text.replace("7.89", "7.88"))
    check_report(results / "one", into=[page])
    digits = [found.start() for found in re.finditer(r"(?<=\.)\d", text) if found.start() < text.index(END)]
    assert digits
    place = digits[-1]
    page.write_text(f"{text[:place]}{9 - int(text[place])}{text[place + 1 :]}")
    with pytest.raises(
        UserError, match=r"page.md: stale: .*; run `cskd-bench report --results .*one --into .*page.md`"
    ):
        check_report(results / "one", into=[page])


def test_a_stale_page_is_named_with_a_command_that_can_be_typed(results):
    page, output = results / "a page.md", results / "an output"
    page.write_text(part("scores"))
    build_report(results / "one", output, include_dirty=True, into=[page])
    page.write_text(page.read_text() + part("training"))
    with pytest.raises(UserError, match="stale") as caught:
        check_report(results / "one", output, include_dirty=True, into=[page])
    words = shlex.split(str(caught.value).split("`")[1])[1:]
    assert main(words) == 0
    check_report(results / "one", output, include_dirty=True, into=[page])


def test_the_verb_takes_several_pages(results, capsys):
    pages = [results / "first.md", results / "second.md"]
    for page in pages:
        page.write_text(part("scores"))
    words = ["report", "--results", str(results / "one"), *(word for page in pages for word in ("--into", str(page)))]
    assert main([*words, "--check"]) == 2
    assert main(words) == 0 and main([*words, "--check"]) == 0
    assert pages[0].read_text() == pages[1].read_text() != part("scores")
    pages[1].write_text(part("scores"))
    capsys.readouterr()
    assert main([*words, "--check"]) == 2
    assert "second.md: stale" in capsys.readouterr().err
