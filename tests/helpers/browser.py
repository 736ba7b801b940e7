"""A headless Chromium for tests; None where it is not installed."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--window-size=1360,1000"),
)


def find_browser() -> tuple[str, str] | None:
    """Return the paths of chromium and chromedriver, None without both (or without selenium)."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return None
    found = [shutil.which(name) or f"/usr/bin/{name}" for name in ("chromium", "chromedriver")]
    return (found[0], found[1]) if all(Path(path).exists() for path in found) else None


@contextmanager
def browser() -> Iterator[Any]:
    """Yield a driver with a fresh profile that logs the console and every request; closes it in the end."""
    from selenium import webdriver

    chromium, chromedriver = find_browser() or ("", "")
    profile = tempfile.mkdtemp()
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in (*OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    try:
        yield driver
    finally:
        driver.quit()
        shutil.rmtree(profile, ignore_errors=True)
