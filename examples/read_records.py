"""A table of means from a folder of records.

python examples/read_records.py [--results results]
"""

import argparse
import json
import tempfile
from pathlib import Path

from cskd_bench import build_report

RESULTS = Path(__file__).resolve().parent.parent / "results"


def main(arguments=None):
    """Print one line per method and column, and return the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder with records/ (default: this project's)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        report = build_report(options.results, folder, formats=["json"])
        data = json.loads(report.files["json"].read_text())
    lines = []
    for table in data["tables"]:
        for cell in table["cells"]:
            column, method = table["settings"][cell["setting"]], table["methods"][cell["method"]]["method"]["label"]
            spread = "" if cell["sd"] is None else f" ± {100 * cell['sd']:.2f}"
            score = f"{100 * cell['mean']:.2f}{spread} ({len(cell['records'])})"
            lines.append(f"{column['task']:<20} {column['protocol']:<9} {method:<32} {score}")
    print("\n".join(lines))
    return lines


if __name__ == "__main__":
    main()
