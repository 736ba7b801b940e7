"""Bring the records of a job back: unpack.py FROM --results DIR [--runs DIR]; nothing is ever replaced.

FROM is plan.tar.gz of run.sh, or a folder that holds results/ (and runs/).
"""

import argparse
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from cskd_bench.cli import main as cskd_bench
from cskd_bench.errors import UserError
from cskd_bench.files import write_file
from cskd_bench.record import Record, read_records
from cskd_bench.report.manifest import MANIFEST, files_in, write_manifest
from cskd_bench.report.verify import verify_records


def unpack(source: Path, results: Path, runs: Path | None) -> None:
    """Copy new records, their side files first, and new runs; UserError before anything is copied."""
    records = source / "results" / "records"
    found = dict(read_records(records)) if records.is_dir() else {}
    if not found:
        raise UserError(f"{source}: holds no records in results/records")
    if problems := verify_records(records):
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(f"{problems[0].file}: {problems[0].reason}{more}; nothing was copied")
    target = results / "records"
    files = sorted(files_in(records), key=lambda path: path.suffix == ".json")
    new = [path for path in files if not (target / path.name).exists()]
    for path in set(files) - set(new):
        if path.read_bytes() != (target / path.name).read_bytes():
            raise UserError(f"{path.name}: {target} has another one of this name and other content; nothing was copied")
    for path in new:
        write_file(target / path.name, path.read_bytes(), replace=False)
    if (target / MANIFEST).exists():
        write_manifest(target)
    here = [record for path, record in found.items() if path in new and isinstance(record, Record)]
    print(f"{target}: {len(here)} new records, {len(found) - len(here)} were there")
    devices = sorted({record.device for record in here})
    commits = sorted({record.code.commit[:8] or "unknown code" for record in here})
    if here:
        print(f"made on {', '.join(devices)} by {', '.join(commits)}")
    if changed := sum(record.code.dirty for record in here):
        print(f"{changed} of them are of changed or unknown code, which reports leave out")
    if runs is not None:
        _copy_runs(source / "runs", runs)


def _copy_runs(source: Path, target: Path) -> None:
    """Copy the runs that are not here, and name those that are."""
    if not source.is_dir():
        raise UserError(f"{source}: no such folder; run.sh --keep-runs packs runs")
    for run in sorted(source.iterdir()):
        if (target / run.name).exists():
            print(f"{target / run.name}: is there, and stays as it is")
        elif run.is_dir():
            shutil.copytree(run, target / run.name)


def main() -> int:
    """Read the command line, unpack, and verify the folder of records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="FROM")
    parser.add_argument("--results", type=Path, required=True, help="folder that holds records/, or a new one")
    parser.add_argument("--runs", type=Path, help="copy runs, too, into this folder")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            source = options.source
            if source.is_file():
                with tarfile.open(source) as archive:
                    archive.extractall(folder, filter="data")
                source = Path(folder)
            unpack(source, options.results, options.runs)
    except (UserError, tarfile.TarError, OSError) as error:
        print(f"unpack.py: {error}", file=sys.stderr)
        return 2
    return cskd_bench(["records", "verify", "--results", str(options.results)])


if __name__ == "__main__":
    sys.exit(main())
