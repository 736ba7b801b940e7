"""Take the documentation's pictures of the page of the records in results/.

    python tests/report/take_pictures.py [--output docs/images]

Not a test: whoever adds records takes the pictures again and looks at them. Needs chromium and
chromedriver; those that are committed were taken with Liberation fonts (Debian: fonts-liberation).
"""

import argparse
import base64
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers.browser import browser, find_browser

from cskd_bench.report.build import build_report

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Picture:
    """A view of the page: its size in CSS pixels, what is done before it is taken, and light or dark."""

    width: int
    height: int
    script: str
    scheme: str = "light"
    scale: float = 1.0


TO_CLASSIFICATION = "document.querySelector('#classification').scrollIntoView({behavior: 'instant'});"
OPEN_CSKD = "document.querySelectorAll('#classification tbody tr:nth-child(4) .cell')[4].click();"  # Flowers, linear
SHOW_CURVES = """
const cskd = document.querySelectorAll('#pretraining tbody tr:nth-child(4) .cell')[0];
if (!document.querySelector('#evidence').open) cskd.click();
[...document.querySelectorAll('#evidence h3')].filter(found => found.innerText === 'Curves').forEach(
  found => found.scrollIntoView({behavior: 'instant'}));
"""  # Imagenette, 15 epochs
PICTURES = {
    "leaderboard": Picture(1500, 1040, TO_CLASSIFICATION),
    "leaderboard_dark": Picture(1500, 1040, TO_CLASSIFICATION, scheme="dark"),
    "leaderboard_phone": Picture(390, 800, "", scale=1.5),
    "evidence": Picture(1200, 960, OPEN_CSKD),
    "curves": Picture(1200, 430, SHOW_CURVES),
}


def main() -> None:
    """Build the page and take every picture of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images")
    output = parser.parse_args().output
    if find_browser() is None:
        sys.exit("chromium and chromedriver are needed (Debian: apt install chromium chromium-driver)")
    with tempfile.TemporaryDirectory() as folder, browser() as driver:
        page = build_report(ROOT / "results", Path(folder), formats=("html",)).files["html"]
        for name, picture in PICTURES.items():
            size = {"width": picture.width, "height": picture.height, "deviceScaleFactor": picture.scale}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**size, "mobile": False})
            driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
            scheme = {"name": "prefers-color-scheme", "value": picture.scheme}
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
            driver.get(page.resolve().as_uri())
            for _ in range(2):  # what comes into view is laid out only then, and may move
                driver.execute_script(picture.script)
                time.sleep(0.5)
            taken = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
            (output / f"{name}.png").write_bytes(base64.b64decode(taken["data"]))
            print(output / f"{name}.png")


if __name__ == "__main__":
    main()
