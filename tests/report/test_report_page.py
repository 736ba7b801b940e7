"""The HTML page in a real browser: sorting, filters, evidence, dark mode, and silence on console and network."""

import base64
import hashlib
import json

import pytest
from helpers.browser import browser, find_browser
from report_synthetic import make_record, write_study

from cskd_bench.record import SideFile, write_record
from cskd_bench.report.build import build_report

pytestmark = [
    pytest.mark.browser,
    pytest.mark.gate,
    pytest.mark.skipif(find_browser() is None, reason="chromium and chromedriver are not installed"),
]

SKILLS = {"supervised": 0.0, "kd": 0.15, "deit": 0.2, "cskd": 0.7, "cskd (decay=local)": 0.4}
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked=1'>"


@pytest.fixture(scope="module")
def driver():
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    results = tmp_path_factory.mktemp("page")
    write_study(results, skills=SKILLS, tasks=["imagenette128"], protocols=("pretrain",), seeds=4)
    write_study(results, skills=SKILLS, tasks=["flowers102", "cifar10"], protocols=("finetune", "linear"), seeds=3)
    (results / "records" / "boxes.png").write_bytes(PNG)
    picture = SideFile(name="boxes.png", sha256=hashlib.sha256(PNG).hexdigest())
    detection = {"task": "coco", "protocol": "detect", "metric": "box_ap", "value": 0.31, "pictures": (picture,)}
    write_record(results / "records", make_record(**detection))
    for label, value in (("supervised", 0.2), ("few baselines", 0.5)):
        for seed in range(2):
            few = {"model": "vit_few", "task": "dtd", "protocol": "linear", "seed": seed, "pretrain_seed": seed}
            write_record(results / "records", make_record(**few, label=label, value=value + seed / 100))
    write_record(results / "records", make_record(task=HOSTILE, command=HOSTILE, note=HOSTILE, model=HOSTILE))
    (results / "records" / "broken.json").write_text("{")
    return build_report(results, results / "out")


@pytest.fixture
def page(driver, report):
    driver.get("about:blank")  # the browser's own start page is gone, and asks for nothing any more
    driver.get_log("browser"), driver.get_log("performance")
    driver.get(report.files["html"].as_uri())
    yield driver
    assert driver.get_log("browser") == [], "the console must stay empty"
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert [url for url in urls if not url.startswith(("file:", "data:"))] == []
    assert driver.execute_script("return window.hacked") is None


def find(page, selector):
    return page.find_elements("css selector", selector)


def visible_methods(page, table):
    return [cell.text.split("\n")[0] for cell in find(page, f"{table} tbody th") if cell.is_displayed()]


def scroll_to(page, element):
    page.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)


def click(page, element):
    for _ in range(4):  # figures are drawn, and so heights change, as tables come into view
        scroll_to(page, element)
        page.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    element.click()


def until(page, condition):
    """Wait for what the page does only after it has unpacked its data."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(page, 20).until(lambda _: condition())


def test_groups_methods_and_columns_are_there(page):
    assert [heading.text for heading in find(page, "section.group > h2")] == [
        "Pretraining",
        "Classification",
        "Detection",
        "Left out",
    ]
    assert visible_methods(page, "#pretraining")[:4] == ["supervised", "kd", "deit", "cskd"]
    assert "broken.json" in find(page, "#left-out")[0].text


def test_a_column_sorts_down_up_and_back_and_says_so(page):
    table = "#classification article[data-words^='vit_tiny']"
    header = find(page, f"{table} thead th[data-column='0']")[0]
    button = header.find_element("tag name", "button")
    shown = visible_methods(page, table)

    def values():
        return [float(cell.get_attribute("data-value")) for cell in find(page, f"{table} tbody td[data-column='0']")]

    click(page, button)
    assert header.get_attribute("aria-sort") == "descending" and values() == sorted(values(), reverse=True)
    assert "Sorted by fine-tune" in find(page, "#status")[0].get_property("textContent")
    click(page, button)
    assert header.get_attribute("aria-sort") == "ascending" and values() == sorted(values())
    click(page, button)
    assert header.get_attribute("aria-sort") is None and visible_methods(page, table) == shown


def test_the_filter_narrows_columns_tables_and_groups(page):
    box = find(page, "#filter")[0]
    box.send_keys("flowers linear")
    heads = [head.text for head in find(page, "thead th[data-column], thead th.task") if head.is_displayed()]
    assert heads == ["flowers102", "linear probe"]
    assert [h.text for h in find(page, "section.group > h2") if h.is_displayed()] == ["Classification", "Left out"]
    box.clear()
    box.send_keys("nothing has this name")
    assert not [table for table in find(page, "article.table") if table.is_displayed()]


def test_methods_can_be_hidden(page):
    click(page, find(page, ".menu summary")[0])
    find(page, "input[name=method][value='kd']")[0].click()
    assert "kd" not in visible_methods(page, "#pretraining")
    assert "deit" in visible_methods(page, "#pretraining")


def test_the_baseline_of_the_differences_can_be_chosen(page, report):
    def shown():
        return find(page, "#pretraining tbody tr:nth-child(4) .difference")[0].text

    before = shown()
    page.execute_script("document.querySelector('input[name=baseline][value=supervised]').click()")
    assert before
    until(page, lambda: shown() != before)
    (table,) = [table for table in report.comparison.tables if table.group == "pretraining"]
    (cell,) = [cell for cell in table.cells.values() if cell.method.label == "cskd"]
    (difference,) = [item for item in cell.differences if item.baseline.kind == "supervised"]
    assert shown() == f"{'↑' if difference.significant else 'n.s.'} {100 * difference.mean:+.2f}"


def test_curves_with_gaps_are_drawn_and_a_curve_of_one_value_is_not_shown_first(page):
    """Runs that evaluate only at the end have a single accuracy: the first chart shows what has a curve."""
    drawn = page.execute_script("""
        const last = { epoch: [1, 2, 3, 4], total: [3, 2, 1.5, 1], top1: [null, null, null, 0.6] };
        const curve = { ...last, ema_top1: [0.1, null, 0.4, 0.5] };
        const figure = (curve, scored) => curveFigure([{ name: "seed 0", colour: "cskd", curve }], "", scored);
        const chosen = (figure) => figure.querySelector("select").value;
        const line = (figure) => figure.querySelector("path.line").getAttribute("d");
        const both = { ...curve, top1: [0.1, 0.2, 0.3, 0.6] };
        return [chosen(figure(curve, "ema_top1")), line(figure(curve, "ema_top1")), chosen(figure(last, "top1")),
          chosen(figure(both, "top1")), chosen(figure(both, "ema_top1"))];
    """)
    assert drawn[0] == "ema_top1" and drawn[1].count("L") == 2
    assert drawn[2] == "total"
    assert drawn[3:] == ["top1", "ema_top1"], "the scored weights come first"


def test_every_cell_opens_its_evidence_by_keyboard_and_closes_by_escape(page):
    cell = find(page, "#pretraining tbody tr:nth-child(4) .cell")[0]
    scroll_to(page, cell)
    cell.send_keys("\ue007")  # Enter
    dialog = find(page, "#evidence")[0]
    until(page, dialog.is_displayed)
    for text in (
        "cskd on imagenette128",
        "Paired differences",
        "p, corrected",
        "Records",
        "Calibration",
        "Configuration",
    ):
        assert text in dialog.text
    assert len(dialog.find_elements("css selector", "svg")) >= 4
    assert "CKF ratio r" in dialog.text
    page.execute_script("document.querySelectorAll('#evidence details').forEach((d) => d.open = true)")
    commands = ("cskd-bench transfer --task imagenette128", "cskd-bench records rerun imagenette128-")
    assert "unlike the first record" in dialog.text and "[object" not in dialog.text
    for text in (*commands, "exact McNemar", "0123456789abcdef", "torch", "rand-m9"):
        assert text in dialog.text
    dialog.send_keys("\ue00c")  # Escape
    assert not dialog.is_displayed()
    assert page.switch_to.active_element == cell


def test_a_table_without_the_chosen_baseline_shows_no_difference(page):
    """The page says that differences are to deit; a table that has supervised alone keeps silent until it is chosen."""
    row = next(row for row in find(page, "tr") if "few baselines" in row.get_attribute("textContent"))
    assert page.execute_script("return document.querySelector('[name=baseline]:checked').value") == "deit"
    assert row.find_element("css selector", ".difference").get_attribute("textContent") == ""
    page.execute_script("document.querySelector('[name=baseline][value=supervised]').click()")
    shown = row.find_element("css selector", ".difference")
    until(page, lambda: shown.get_attribute("textContent").endswith("+30.00"))


def test_all_cells_open_without_an_error(page):
    names = page.execute_script("return [...document.querySelectorAll('.cell')].map((cell) => cell.dataset.cell)")
    assert len(names) > 1
    for name in names:
        page.execute_script("document.querySelector(`[data-cell='${arguments[0]}']`).click()", name)
        until(page, lambda: find(page, "#evidence[open] #evidence-title"))
        assert find(page, "#evidence-title")[0].text
        page.execute_script("document.querySelector('#evidence').close()")


def test_detection_pictures_are_in_the_page(page):
    click(page, find(page, "#detection .cell")[0])
    until(page, lambda: find(page, "#evidence img"))
    image = find(page, "#evidence img")[0]
    assert image.get_attribute("src").startswith("data:image/png;base64,")
    assert page.execute_script("return arguments[0].naturalWidth", image) == 1


def test_hostile_names_are_shown_as_text(page):
    assert HOSTILE in page.execute_script("return document.body.textContent")
    assert not find(page, "img")


def test_figures_are_drawn_when_they_come_into_view(page):
    scroll_to(page, find(page, "#pretraining .figures")[0])
    page.execute_async_script("setTimeout(arguments[0], 300)")
    captions = [caption.text for caption in find(page, "#pretraining figcaption")]
    assert any("Score against cost" in caption for caption in captions)
    assert any("Learning curves" in caption for caption in captions)
    assert len(find(page, "#pretraining .figures path.line")) == len(SKILLS)


def test_dark_mode_follows_the_system(page):
    def background(scheme):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        colour = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        return sum(map(int, colour[4:-1].split(",")))

    assert background("light") > 700 and background("dark") < 100
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_phone_scrolls_tables_not_the_page(page):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    )
    width = page.execute_script("return document.documentElement.scrollWidth")
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert width <= 390


def test_print_shows_tables_and_hides_controls(page):
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert not find(page, "nav.bar")[0].is_displayed() and find(page, "#pretraining table")[0].is_displayed()
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_every_control_has_a_name_and_every_header_a_scope(page):
    nameless = """return [...document.querySelectorAll('button, input, select, a, summary')].filter((element) =>
        !(element.textContent.trim() || element.getAttribute('aria-label') || element.labels?.length)).length"""
    assert page.execute_script(nameless) == 0
    assert not find(page, "th:not([scope])")
    assert page.execute_script("return new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size") == len(
        find(page, "[id]")
    )
