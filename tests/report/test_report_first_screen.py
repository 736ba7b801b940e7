"""The page with primary contrasts in a real browser: its first screen, folds, links, evidence and print."""

import base64
import re

import pytest
from helpers.browser import browser, find_browser
from report_primary import make_answers, make_primary
from report_synthetic import write_study

from cskd_bench.report.compare import compare
from cskd_bench.report.page import page as render
from cskd_bench.report.selection import select

pytestmark = [
    pytest.mark.browser,
    pytest.mark.gate,
    pytest.mark.skipif(find_browser() is None, reason="chromium and chromedriver are not installed"),
]
LONG = "cskd (decay=local, spatial_loss=soft, spatial_weight=0.25) − deit"
EQUAL = {"answer": "equivalent", "verdict": "equal within ±0.5 points"}
SKILLS = {"supervised": 0.0, "deit": 0.2, "cskd": 0.7, "cskd (decay=local)": 0.2}


@pytest.fixture(scope="module")
def driver():
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    write_study(folder, skills=SKILLS, tasks=["imagenette128"], protocols=("pretrain",))
    write_study(folder, skills=SKILLS, tasks=["cifar10", "flowers102"], protocols=("knn", "linear"))
    comparison = compare(folder / "records", select(folder / "records"))
    comparison.primary = [*make_answers(), make_primary(plan="another", name=LONG, where=f"{LONG}, kNN", **EQUAL)]
    comparison.gate_open = False
    for table in comparison.tables:
        table.gate = "shut"
    path = folder / "page.html"
    path.write_text(render(folder / "records", comparison, [], []))
    return path.as_uri()


@pytest.fixture
def page(driver, address):
    driver.get("about:blank")
    driver.get_log("browser")
    driver.get(address)
    yield driver
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert driver.get_log("browser") == [], "the console must stay empty"


def find(page, selector):
    return page.find_elements("css selector", selector)


def until(page, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(page, 20).until(lambda _: condition())


BOXES = """return [...document.querySelectorAll(arguments[0])].map((element) => {
    const box = element.getBoundingClientRect();
    return [box.left, box.top, box.right, box.bottom];
})"""


@pytest.mark.parametrize("longer", [0, 30])
@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
def test_question_answers_and_plot_stand_on_the_first_screen(page, address, width, height, longer):
    """Also where sentences are longer than these; a phone then shows their beginning."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.get(address)
    lengthen = "document.querySelectorAll('.told').forEach((told) => told.append(' more'.repeat(arguments[0])))"
    page.execute_script(lengthen, longer)
    boxes = page.execute_script(BOXES, "h1, .masthead .answers li, .masthead svg.forest, .masthead svg.forest circle")
    assert len(boxes) == 1 + 4 + 1 + 4
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
    rows = page.execute_script(BOXES, ".masthead .answers")[0], page.execute_script(BOXES, ".masthead svg.forest")[0]
    beside = rows[0][2] <= rows[1][0]
    assert beside is (width > 1000), "beside each other on wide screens, below each other on a phone"
    font = page.execute_script(
        "const t = document.querySelector('.masthead svg.forest text');"
        "return parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a"
    )
    assert font > 9.5


@pytest.mark.parametrize("place", [".masthead", "#primary"])
def test_texts_of_the_plot_do_not_run_into_each_other_or_out_of_it(page, place):
    """Also where a name is long: both of its ends are kept."""
    boxes = page.execute_script(BOXES, f"{place} svg.forest text")
    (plot,) = page.execute_script(BOXES, f"{place} svg.forest")
    assert len(boxes) > 10
    if place == "#primary":
        assert any(text.text.endswith("0.25) − deit") for text in find(page, "#primary svg.forest text"))
    for number, (left, top, right, bottom) in enumerate(boxes):
        assert plot[0] <= left and right <= plot[2]
        for other in boxes[number + 1 :]:
            apart = right <= other[0] or other[2] <= left or bottom <= other[1] + 2 or other[3] <= top + 2
            assert apart, (boxes[number], other)


def test_the_other_plans_contrasts_follow_on_the_same_scale(page):
    assert len(find(page, "#primary .answers li")) == 2
    ticks = [
        [text.text for text in find(page, f"{place} svg.forest text") if re.fullmatch(r"[+−]?[\d.]+", text.text)]
        for place in (".masthead", "#primary")
    ]
    assert ticks[0] == ticks[1] and len(ticks[0]) >= 3
    assert len(find(page, "h1")) == 1 and "Does CSKD help" in find(page, "h1")[0].text


def test_one_line_counts_the_answers_and_the_plan_says_when_it_was_registered(page):
    told = "Of 6 primary contrasts: 1 higher, 1 lower, 2 equal within the band, 1 not shown, 1 not tested."
    assert find(page, ".masthead .summary")[0].text == told
    assert find(page, ".masthead .facts")[0].text.endswith("Plan evidence_cpu, registered 2026-01-02.")


def test_scores_are_visible_and_other_comparisons_are_folded_and_called_exploratory(page):
    folds = find(page, "article.table details.exploratory")
    assert len(folds) == len(find(page, "article.table")) == 2
    assert all(fold.get_attribute("open") is None for fold in folds)
    assert all("Exploratory: every other comparison" in fold.text for fold in folds)
    assert find(page, "#classification td .score")[0].is_displayed()
    page.execute_script("arguments[0].open = true; arguments[0].scrollIntoView()", folds[1])
    until(page, lambda: folds[1].find_elements("css selector", "svg"))
    assert "no other difference counts as shown" in folds[1].text and "Paired differences" in folds[1].text
    grey = [line for line in find(page, ".difference") if "n.s." in line.get_attribute("textContent")]
    assert grey, "what is not shown says so"


def test_a_fragment_opens_the_evidence_that_it_names(page, address):
    cell = find(page, "#classification tbody tr:nth-child(3) td[id^='c-']")[1]
    anchor, column = cell.get_attribute("id"), cell.get_attribute("data-column")
    assert column == "1"
    page.get("about:blank")
    page.get(f"{address}#{anchor}")
    until(page, lambda: find(page, "#evidence[open]"))
    assert find(page, "#evidence-title")[0].text == "cskd on cifar10, kNN"
    link = find(page, "#evidence .link")[0]
    assert link.get_attribute("data-link") == anchor
    contrast = find(page, ".contrast")[1].get_attribute("data-primary")
    page.get("about:blank")
    page.get(f"{address}#{contrast}")
    until(page, lambda: find(page, "#evidence[open]"))
    text = find(page, "#evidence")[0].text
    assert "cskd − cskd (decay=local)" in text and "±0.50" in text and "[−0.45, +0.49]" in text
    page.get("about:blank")
    page.get(f"{address}#no-such-thing")
    assert not find(page, "#evidence[open]")


def test_a_link_is_copied_or_shown(page, address):
    table = find(page, "article.table")[1].get_attribute("id")
    page.execute_script("document.querySelector(`[data-link='${arguments[0]}']`).click()", table)

    def told():
        shown = find(page, f"#{table} input.address")
        return (shown and shown[0].get_attribute("value") == f"{address}#{table}") or (
            find(page, f"#{table} .link") and find(page, f"#{table} .link")[0].text == "copied"
        )

    assert until(page, told)


def test_the_evidence_names_the_settings_that_differ_from_the_baseline(page):
    page.execute_script("document.querySelector('#classification tbody tr:nth-child(3) .cell').click()")
    until(page, lambda: find(page, "#evidence .changes"))
    page.execute_script("document.querySelectorAll('#evidence details').forEach((fold) => { fold.open = true; })")
    told = {fold.text.split("\n")[0]: fold.text for fold in find(page, "#evidence .changes")}
    assert "Differs from supervised in 1 setting" in told
    assert "teacher as used tf_efficientnet_lite0 none" in told["Differs from supervised in 1 setting"]


def test_the_scored_metric_is_drawn_first(page):
    page.execute_script("document.querySelector('#pretraining').scrollIntoView()")
    until(page, lambda: find(page, "#pretraining select[aria-label^='Quantity']"))
    assert find(page, "#pretraining select[aria-label^='Quantity']")[0].get_attribute("value") == "top1"


def test_print_keeps_headings_with_their_tables(page):
    """Where a heading would stand last on a page, it moves to the next with its table."""
    styles = """
        const style = (selector) => getComputedStyle(document.querySelector(selector));
        return [style("article.table > header").breakAfter, style("article.table h3").breakAfter,
          style("section.group > h2").breakAfter, style("article.table table").breakInside,
          style("article.table tr").breakInside, style("article.table").breakInside];
    """
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    found = page.execute_script(styles)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert found == ["avoid", "avoid", "avoid", "avoid", "avoid", "auto"], "a long article may break, a short table not"
    printed = base64.b64decode(page.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert printed.startswith(b"%PDF")
