"""Every format of a report, with ordinary and with hostile names."""

import base64
import csv
import gzip
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers.processes import run_python
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from report_synthetic import make_record, write_study
from rich.console import Console

from cskd_bench.errors import UserError
from cskd_bench.record import write_record
from cskd_bench.report import words
from cskd_bench.report.build import FILES, build_report, check_report
from cskd_bench.report.data import CSV_HEAD, csv_text
from cskd_bench.report.latex_text import breakable, latex_text
from cskd_bench.report.markdown import markdown_text
from cskd_bench.report.marks import BEGIN, END
from cskd_bench.report.page import packed
from cskd_bench.report.rows import one_line

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "{{ 7*7 }}{% raw %}",
    "=HYPERLINK(1)",
    "@SUM(A1)",
    "-2+3",
    "a|b\nc|d",
    "\\input{/etc/passwd} $x$ %",
    "[x](javascript:alert(1)) ![y](http://z) `code` **b**",
    "\x1b[31mred\x1b[0m [bold]rich[/bold]",
    "<!--",
    "a_b^c~d#e%f&g{h}i$j\\k",
    "\u2028\u202e&amp;",
    "",
]


@pytest.fixture
def results(tmp_path):
    write_study(
        tmp_path, skills={"supervised": 0.0, "kd": 0.1, "deit": 0.2, "cskd": 0.5}, protocols=("pretrain", "knn")
    )
    return tmp_path


def render(results):
    report = build_report(results, results / "out")
    return report, {name: (results / "out" / file).read_text("utf-8") for name, file in FILES.items()}


def unpacked(text):
    """Return embedded data as the page unpacks it."""
    return json.loads(gzip.decompress(base64.b64decode(text, validate=True)))


class Page(HTMLParser):
    """What a browser would make of the page: elements, and the text outside of scripts and styles."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.text, self.scripts, self._inside = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else None

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        (self.scripts if self._inside == "script" else self.text).append(data)


def test_markdown_gives_every_mean_its_interval(results):
    """As the evidence gives it: the interval of the same cell, in percent."""
    report, written = render(results)
    cells = [cell for table in report.comparison.tables for cell in table.cells.values()]
    assert len(cells) == 8
    heads = [line for line in written["md"].splitlines() if line.startswith("| 95 % interval of the mean |")]
    assert len(heads) == len(report.comparison.tables)
    for cell in cells:
        low, high = cell.interval
        assert f"[{100 * low:.2f}, {100 * high:.2f}]" in written["md"]


def test_every_format_is_written_and_tells_the_same_numbers(results):
    report, texts = render(results)
    assert set(report.files) == set(FILES)
    cells = [cell for table in report.comparison.tables for cell in table.cells.values()]
    assert len(cells) == 8
    page = "".join(Page(texts["html"]).text)
    for cell in cells:
        mean = f"{100 * cell.mean:.2f}"
        assert all(mean in texts[name] for name in ("md", "latex")) and mean in page
    rows = list(csv.DictReader(io.StringIO(texts["csv"])))
    assert {float(row["mean"]) for row in rows} == {cell.mean for cell in cells}
    differences = [item for cell in cells for item in cell.differences]
    told = [(row["mark"], row["simultaneous_low"], row["primary"]) for row in rows if row["baseline"]]
    assert told == [(words.mark(item), str(item.simultaneous[0]), "False") for item in differences]
    data = json.loads(texts["json"])
    assert {cell["mean"] for table in data["tables"] for cell in table["cells"]} == {cell.mean for cell in cells}


def test_best_values_are_bold_and_differences_are_marked(results):
    report, texts = render(results)
    bold = re.findall(r"\*\*([\d.]+) ± [\d.]+ \(3\)\*\*", texts["md"])
    best = [cell for table in report.comparison.tables for cell in table.cells.values() if cell.best]
    assert bold == [f"{100 * cell.mean:.2f}" for cell in best] and len(bold) == 5
    assert all(rf"\textbf{{{value} $\pm$" in texts["latex"] for value in bold)
    assert re.search(r"cskd − deit \| [↑○] \+", texts["md"])
    assert r"\toprule" in texts["latex"] and r"\bottomrule" in texts["latex"]


def test_the_terminal_shows_scores_differences_and_what_was_left_out(results):
    (results / "records" / "broken.json").write_text("[]")
    file = io.StringIO()
    build_report(results, results / "out", formats=["terminal"]).show(Console(file=file, width=120))
    text = file.getvalue()
    assert "everything below is exploratory" in text and "broken.json" in text
    assert re.search(r"[↑○] \+\d\.\d\d supervised", text)
    assert not (results / "out").exists()


def test_the_same_records_give_the_same_bytes_so_that_a_stale_leaderboard_is_noticed(results):
    _, first = render(results)
    _, second = render(results)
    assert first == second
    with pytest.raises(UserError, match=r"LEADERBOARD.md: cannot be read"):
        check_report(results)
    build_report(results, results)
    check_report(results)
    (results / "leaderboard.svg").write_text("<svg/>")
    with pytest.raises(UserError, match=r"leaderboard.svg: stale"):
        check_report(results)
    build_report(results, results)
    write_study(results, skills={"cskd": 0.1}, protocols=("linear",), seeds=1)
    with pytest.raises(UserError, match=r"LEADERBOARD.md: stale"):
        check_report(results)


def test_a_readme_is_refreshed_between_its_marks_alone(results):
    readme = results / "README.md"
    readme.write_text("# Ours\n")
    with pytest.raises(
        UserError, match=r"README.md: has no place for the report; put the lines <!-- cskd-bench report"
    ):
        build_report(results, results, into=[readme])
    assert readme.read_text() == "# Ours\n"
    readme.write_text(f"# Ours\n\n{BEGIN}\nold\n{END}\n\nThe end.\n")
    with pytest.raises(UserError, match=r"README.md: stale"):
        build_report(results, results)
        check_report(results, into=[readme])
    build_report(results, results / "elsewhere", into=[readme])
    check_report(results, results / "elsewhere", into=[readme])
    build_report(results, results)
    text = readme.read_text()
    assert text.startswith(f"# Ours\n\n{BEGIN}\n") and text.endswith(f"{END}\n\nThe end.\n") and "old" not in text
    score = re.search(r"\| cskd \| (\*\*)?([\d.]+ ± [\d.]+ \(3\))", text)
    assert score and score[2] in (results / "LEADERBOARD.md").read_text()
    assert "> No plan with primary contrasts is registered" in text


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_a_readme_repeats_no_difference_that_fewer_than_three_seeds_show(tmp_path, seeds):
    write_study(tmp_path, skills={"deit": 0.0, "cskd": 0.9}, protocols=("knn",), seeds=seeds)
    (tmp_path / "README.md").write_text(f"{BEGIN}\n{END}\n")
    build_report(tmp_path, tmp_path / "out", formats=["md"], into=[tmp_path / "README.md"])
    text = (tmp_path / "README.md").read_text()
    assert ("| cskd |" in text) is (seeds == 3)
    assert ("No difference is claimed yet" in text) is (seeds < 3)
    assert "| cskd |" in (tmp_path / "out" / "LEADERBOARD.md").read_text()


def test_a_table_says_for_how_many_epochs_its_students_were_pretrained_where_all_records_agree(tmp_path):
    for seed, epochs in enumerate((20, 20, 30)):
        config = {"pretrain": {"recipe": {"epochs": epochs}}}
        write_record(tmp_path / "records", make_record(seed=seed, config=config))
        build_report(tmp_path, tmp_path, formats=["md", "html"])
        text, page = ((tmp_path / name).read_text() for name in ("LEADERBOARD.md", "leaderboard.html"))
        assert ("### vit\\_tiny, pretrained on mnist\\_5k for 20 epochs\n" in text) is (seed < 2)
        assert ("pretrained on mnist_5k for 20 epochs</h3>" in page) is (seed < 2)


def test_labels_of_ablations_stay_text(tmp_path):
    """An ablation's label is whatever its record says."""
    evil = "cskd <img src=x> | [x](http://evil)\x1b[31m\n# Heading"
    for seed in range(3):
        for label, value in (("cskd", 0.6 + 0.01 * seed), (evil, 0.5)):
            write_record(tmp_path / "records", make_record(label=label, seed=seed, value=value))
    (tmp_path / "README.md").write_text(f"{BEGIN}\n{END}\n")
    report = build_report(tmp_path, tmp_path, formats=["md"], into=[tmp_path / "README.md"])
    shown = io.StringIO()
    report.show(Console(file=shown, width=200))
    assert "evil" in shown.getvalue()
    for text in ((tmp_path / "README.md").read_text(), (tmp_path / "LEADERBOARD.md").read_text()):
        assert "<img" not in text and "\n# Heading" not in text
    assert "\x1b[31m" not in shown.getvalue()


def test_no_records_still_make_a_report(tmp_path):
    (tmp_path / "records").mkdir()
    _, texts = render(tmp_path)
    assert "No record can be shown yet" in texts["md"] and "No record can be shown yet" in texts["html"]


def test_an_unknown_format_and_an_unwritable_folder_are_user_errors(results):
    with pytest.raises(UserError, match="no report format 'pdf'"):
        build_report(results, results / "out", formats=["pdf"])
    (results / "taken").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        build_report(results, results / "taken")


def test_a_report_needs_no_torch():
    code = (
        "import sys, cskd_bench.report.build; print([m for m in ('torch', 'timm', 'torchvision') if m in sys.modules])"
    )
    assert run_python(code, cwd=ROOT).strip() == "[]"


# ---------------------------------------------------------------- published rows

PUBLISHED = """
[[result]]
task = "imagenet1k"
metric = "top1"
protocol = "pretrain, 300 epochs"
source = "A paper, table 1"
rows = [
  { method = "cskd", model = "vit_tiny", value = 80.0, real = 70.1 },
  { method = "deit", model = "vit_huge", value = 50.0 },
]
"""


def test_published_scores_stand_apart_and_beside_ours_where_they_match(results):
    (results / "published.toml").write_text(PUBLISHED)
    config = {"recipe": {"epochs": 300}}
    for seed in range(3):
        ours = {"task": "imagenet", "protocol": "pretrain", "pretrain_data": "imagenet", "value": 0.79 + seed / 100}
        write_record(results / "records", make_record(**ours, seed=seed, pretrain_seed=seed, config=config))
    report, texts = render(results)
    assert [(item.published.method, item.published.value) for item in report.matches] == [("cskd", 0.8)]
    assert {(item.task, item.value) for item in report.published} == {
        ("imagenet1k", 0.8),
        ("imagenet1k", 0.5),
        ("imagenet_real", 0.701),
    }
    assert "A paper, table 1" in texts["html"] and "A paper, table 1" in texts["md"]
    (match,) = report.matches
    assert match.tolerance == pytest.approx(4.302653 * 0.01 * (4 / 3) ** 0.5 + 0.0005) and match.agrees
    assert not build_report(results, results / "out", published=False).published


@pytest.mark.parametrize(
    "change",
    [
        {"config": {"recipe": {"epochs": 100}}},
        {"pretrain_data": "imagenette128"},
        {"protocol": "knn"},
        {"label": "cskd (decay=local)"},
        {"model": "vit_small"},
    ],
)
def test_what_was_not_measured_alike_is_not_set_beside_a_published_score(tmp_path, change):
    ours = {"task": "imagenet1k", "protocol": "pretrain", "pretrain_data": "imagenet1k"}
    ours["config"] = {"recipe": {"epochs": 300}}
    write_record(tmp_path / "records", make_record(**{**ours, **change}))
    (tmp_path / "published.toml").write_text(PUBLISHED)
    report, _ = render(tmp_path)
    assert report.matches == ()


def test_a_published_score_that_was_made_otherwise_is_shown_and_not_judged(tmp_path):
    """A conv stem or another augmentation explains a distance that seeds do not."""
    config = {"recipe": {"epochs": 300}}
    for seed in range(3):
        ours = {"task": "imagenet", "protocol": "pretrain", "pretrain_data": "imagenet", "value": 0.79 + seed / 100}
        write_record(tmp_path / "records", make_record(**ours, seed=seed, pretrain_seed=seed, config=config))
    rows = PUBLISHED.replace("80.0,", '80.04, differs = "stem (convolutions)",')
    (tmp_path / "published.toml").write_text(rows.replace("rows = [", "secondary = true\nrows = ["))
    report, texts = render(tmp_path)
    (match,) = report.matches
    assert match.tolerance > 0.04 and match.agrees is None
    assert [(item.value, item.differs, item.secondary) for item in report.published] == [
        (pytest.approx(0.8004), "stem (convolutions)", True),
        (pytest.approx(0.701), "stem (convolutions)", True),
        (0.5, "", True),
    ]
    for text in (texts["md"], texts["html"]):
        assert "not judged: differs in stem (convolutions)" in text and "A paper, table 1 (secondary)" in text
        assert "80.04" in text and "70.1" in text and "70.10" not in text


def test_published_rows_of_other_recipes_say_what_differs(tmp_path):
    (tmp_path / "records").mkdir()
    (tmp_path / "published.toml").write_bytes((ROOT / "results" / "published.toml").read_bytes())
    found = {(item.method, item.model, item.value): item for item in render(tmp_path)[0].published}
    other = ("vkd", "srd", "nkd", "vitkd + nkd", "locality", "kd, standardised")
    assert {name for name, _, _ in found} >= set(other)
    assert [key for key, item in found.items() if key[0] in other and not item.differs] == []
    stronger = found["supervised", "deit_tiny_patch16_224", 0.7442]
    assert "recipe" in stronger.differs and found["deit", "deit_tiny_distilled_patch16_224", 0.745].differs == ""
    assert any(item.secondary for item in found.values())


TRANSFERRED = """
[[result]]
task = "transfer"
metric = "top1"
protocol = "fine-tune from ImageNet-1k"
source = "A paper, table 7"
rows = [{ method = "cskd", model = "vit_tiny", cifar100 = 88.0 }]
"""


@pytest.mark.parametrize(
    ("name", "published_as", "beside"),
    [("cifar100_deit", "cifar100", 1), ("cifar100", "", 0), ("mine", "cifar100", 1), ("cifar100", "cifar10", 0)],
)
def test_a_transfer_is_set_beside_a_published_score_only_where_its_task_has_the_published_recipe(
    tmp_path, name, published_as, beside
):
    """A short recipe on the same images is another experiment, whatever the task is called."""
    ours = {"task": name, "published_as": published_as, "protocol": "finetune", "pretrain_data": "imagenet1k"}
    write_record(tmp_path / "records", make_record(**ours, config={"recipe": {"epochs": 300}}))
    (tmp_path / "published.toml").write_text(TRANSFERRED)
    report, _ = render(tmp_path)
    assert [match.published.value for match in report.matches] == [0.88] * beside


def test_a_run_under_a_preprocessing_of_its_own_is_beside_no_published_score(tmp_path):
    """It is no part of the task, whose recipe is the published one."""
    for name, more in (("usual", {}), ("other", {"preprocessing": {"mean": [0.5, 0.5, 0.5]}})):
        ours = {"task": "cifar100_deit", "published_as": "cifar100", "protocol": "finetune"}
        ours |= {"pretrain_data": "imagenet1k", "config": {"recipe": {"epochs": 300}, **more}}
        write_record(tmp_path / name / "records", make_record(**ours))
        (tmp_path / name / "published.toml").write_text(TRANSFERRED)
    assert [len(render(tmp_path / name)[0].matches) for name in ("usual", "other")] == [1, 0]


def test_a_detector_is_set_beside_the_published_schedule_that_its_configuration_has(tmp_path):
    (tmp_path / "published.toml").write_bytes((ROOT / "results" / "published.toml").read_bytes())
    ours = {"task": "coco", "protocol": "detect", "metric": "box_ap", "pretrain_data": "imagenet1k", "value": 0.40}
    ours |= {"label": "supervised", "model": "deit_tiny_patch16_224"}
    detectors = {"mask_rcnn_1x": {}, "mask_rcnn_3x": {}, "vitdet_100e": {"epochs": 12}}
    for name, changed in detectors.items():
        config = {"recipe": {"epochs": 300}, "task": {"detect": {"config": name, "epochs": None, **changed}}}
        write_record(tmp_path / "records", make_record(**ours, config=config, recipe=name.ljust(16, "0")))
    report, _ = render(tmp_path)
    assert [(match.published.protocol[:13], match.published.value) for match in report.matches] == [
        ("Mask R-CNN 3x", 0.402)
    ]


def test_the_shipped_published_scores_can_be_read(tmp_path):
    (tmp_path / "records").mkdir()
    (tmp_path / "published.toml").write_bytes((ROOT / "results" / "published.toml").read_bytes())
    report, _ = render(tmp_path)
    assert len(report.published) > 50 and not report.comparison.left_out
    assert all(0 < item.value < 1 for item in report.published)


@pytest.mark.parametrize(
    "text",
    [
        "[[result]]\ntask = 1",
        "result = 5",
        "x = [",
        "[[result]]\nrows = 3",
        PUBLISHED.replace("80.0", '"many"'),
        PUBLISHED.replace("rows", "secondary = 1\nrows"),
        PUBLISHED.replace("rows", "differs = 1\nrows"),
    ],
)
def test_a_broken_published_file_is_named_and_the_rest_is_shown(results, text):
    (results / "published.toml").write_text(text)
    report, _ = render(results)
    assert [item.name for item in report.comparison.left_out] == ["published.toml"]
    assert report.comparison.tables


# ---------------------------------------------------------------- hostile names

names = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=("Cs",)), max_size=40))


@given(names)
def test_markdown_shows_a_name_as_text(name):
    table = f"| a | b |\n| --- | --- |\n| {markdown_text(name)} | end |\n"
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(table)
    rows = [token for token in tokens if token.type == "inline"]
    assert len(rows) == 4 and rows[3].content == "end"
    assert all(child.type in ("text", "text_special") for child in rows[2].children)
    shown = "".join(child.content for child in rows[2].children).replace("\u200b", "")
    assert shown.split() == one_line(name).split()


@given(names)
def test_a_csv_cell_is_read_back_and_never_starts_a_formula(name):
    file = io.StringIO()
    csv.writer(file).writerow([csv_text(name), "end"])
    ((cell, end),) = csv.reader(io.StringIO(file.getvalue()))
    assert end == "end" and not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert cell in (one_line(name), f"'{one_line(name)}")


@given(names)
def test_latex_keeps_no_active_character(name):
    """Only the macros and formulas that stand for characters are left, and plain ASCII beside them."""
    for text in (latex_text(name), breakable(name).replace(r"\allowbreak{}", "")):
        assert text.isascii()
        bare = re.sub(r"\$\\[A-Za-z]+\$|\$-\$|\$\^\\circ\$|\\[A-Za-z]+\{\}|\\[`'^~=.\"urvHc]\{[A-Za-z]\}", "", text)
        bare = re.sub(r"\\[{}$&#%_]|\{[\[\]*]\}", "", bare)
        assert not re.search(r"[\\{}$&#%_^~\n]", bare)


@given(
    st.recursive(
        names | st.floats(allow_nan=False, allow_infinity=False), lambda v: st.lists(v) | st.dictionaries(names, v)
    )
)
def test_embedded_json_is_read_back_and_cannot_leave_its_script(value):
    text = str(packed(value))
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", text)
    assert unpacked(text) == value


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=names, other=names)
def test_a_hostile_record_harms_no_format(tmp_path_factory, name, other):
    results = tmp_path_factory.mktemp("hostile")
    for label, seed in (("deit", 0), ("cskd", 0), ("cskd", 1)):
        record = make_record(
            **{"label": f"{label} {name}", "seed": seed, "task": other, "model": name, "pretrain_data": other},
            **{"recipe": name, "teacher": other, "command": name, "note": other, "run": name, "created": other},
            config={name: {other: [name]}, "x": other},
            curve=({"epoch": 0.0, name: 1.0},),
            id=f"{label}{seed}",
        )
        write_record(results / "records", record)
    report, texts = render(results)
    report.show(Console(file=io.StringIO(), width=100))
    assert not report.comparison.left_out
    page = Page(texts["html"])
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 3 and "img" not in tags and tags.count("table") == 1
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]
    assert all(unpacked(script) for script in page.scripts[:2])
    rows = list(csv.reader(io.StringIO(texts["csv"])))
    assert {len(row) for row in rows} == {len(CSV_HEAD)}
    assert json.loads(texts["json"])["records"] == 3


def test_the_page_asks_nothing_of_the_network_and_runs_only_its_own_script(results):
    _, texts = render(results)
    page = Page(texts["html"])
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert not [a for tag, a in page.elements if "src" in a]
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", texts["html"])
