"""The documentation as a site: built without a warning, read and searched offline in a browser."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.browser import browser, find_browser

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.gate


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site; every link, anchor and page that mkdocs does not know ends the build."""
    pytest.importorskip("material", reason="the extra docs is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    built = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, text=True, capture_output=True, check=False
    )
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def driver():
    """Start a browser that keeps its console and the addresses that it asks for."""
    if find_browser() is None:
        pytest.skip("chromium and chromedriver are not installed")
    with browser() as found:
        yield found


def asked_for(driver):
    """Return the addresses that the browser asked for since the last call; its own first tab reads chrome://."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith(("chrome", "data:"))]


def wait_for(found, seconds=20):
    """Return what `found` returns once it is true."""
    until = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < until, "not found in time"
        time.sleep(0.1)
    return result


@pytest.mark.browser
def test_search_finds_a_symptom_offline(site, driver):
    driver.get((site / "index.html").as_uri())
    driver.execute_script("document.querySelector('[data-md-toggle=search]').click()")
    field = wait_for(lambda: driver.find_elements("css selector", "input.md-search__input"))[0]
    field.send_keys("mmcv._ext")
    links = wait_for(lambda: driver.find_elements("css selector", ".md-search-result__link"))
    addresses = [link.get_attribute("href") for link in links]
    assert any("troubleshooting.html" in address or "detection.html" in address for address in addresses), addresses
    requests = asked_for(driver)
    assert requests and all(url.startswith(("file:", "blob:", "about:")) for url in requests), requests
    assert [entry for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


@pytest.mark.browser
@pytest.mark.parametrize("size", [(1280, 900), (390, 844)])
def test_no_page_asks_the_network_or_is_wider_than_the_screen(site, driver, size):
    driver.set_window_size(*size)
    wide = {}
    for page in sorted(set(site.rglob("*.html")) - {site / "404.html"}):  # which only a server shows
        driver.get(page.as_uri())
        inner, outer = driver.execute_script("return [document.body.scrollWidth, window.innerWidth]")
        if inner > outer + 1:
            wide[page.name] = inner
    assert wide == {}
    requests = asked_for(driver)
    assert len(requests) > 30 and all(url.startswith(("file:", "blob:", "about:")) for url in requests)
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_every_file_that_a_page_names_exists():
    pages = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    named = re.compile(r"`((?:tests|examples|configs|tasks|support|results|cskd_bench)/[\w./-]+\.\w+)`")
    missing = {
        f"{page.name}: {path}"
        for page in pages
        for path in named.findall(page.read_text(encoding="utf-8"))
        if not (ROOT / path).exists()
    }
    assert missing == set()


def test_nested_lists_are_indented_by_four_spaces():
    """Python-Markdown makes one flat list of less."""
    pages = [path for folder in (ROOT, ROOT / "docs") for path in sorted(folder.glob("*.md"))]
    found = [
        f"{page.name}:{number}"
        for page in pages
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
        if re.match(r" {1,3}[-*] ", line)
    ]
    assert found == []
