"""Build the wheel, install it, and copy its tests to a folder without the package: outside.py FOLDER REQUIREMENT..."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = "quickstart,onnx"
BESIDE = ("tests", "examples", "results", "docs", "README.md", "pyproject.toml")  # what the tests read


def main(folder: Path, requirements: list[str]) -> None:
    """Fill an empty folder."""
    folder.mkdir(parents=True)
    named = {re.split(r"[^\w-]", requirement)[0] for requirement in requirements}
    pins = [pin for pin in (ROOT / "constraints.txt").read_text().splitlines() if pin.split("==")[0] not in named]
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(pins) + "\n")
    python("-m", "pip", "install", "--quiet", "--constraint", constraints, "build", "hatchling")
    python("-m", "build", "--wheel", "--no-isolation", "--outdir", folder / "wheel", ROOT)
    (wheel,) = (folder / "wheel").glob("*.whl")
    python("-m", "pip", "install", "--quiet", "--constraint", constraints, f"{wheel}[{EXTRAS}]", *requirements)
    for name in BESIDE:
        source = ROOT / name
        shutil.copytree(source, folder / name) if source.is_dir() else shutil.copy(source, folder)


def python(*words: str | Path) -> None:
    """Run this interpreter."""
    subprocess.run([sys.executable, *map(str, words)], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
