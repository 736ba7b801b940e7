"""Whatever fails on one rank ends all of them within seconds, with that rank's sentence, and nothing is lost."""

import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))  # fault_matrix.py, which write_reliability.py shares

import fault_matrix
import reliability_page
from fault_matrix import Place, cases, command, run_again, run_case, run_ranks, stands_for_all

from cskd_bench.bank.build import build_bank
from cskd_bench.config import load_config


@pytest.fixture(scope="module")
def lab(tiny_config, colour_squares, tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    settings = ["recipe.precision=fp32", "recipe.epochs=2", "student.drop_path=0.0"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    build_bank(load_config(tiny_config, settings), folder / "bank", device=torch.device("cpu"))
    yield Place(folder, tiny_config, folder / "bank", colour_squares)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def healthy(lab):
    """The weights of a run without a fault, by precision, source of labels and settings; made when first asked for."""
    known = {}

    def weights(fault, precision):
        key = (precision, fault.bank, fault.settings)
        if key not in known:
            place = fault_matrix.fresh(lab, lab.folder / f"healthy{len(known)}")
            words = command(place, precision, bank=fault.bank, settings=("run.save_every=2", *fault.settings))
            codes, _ = run_ranks(place, [words] * 2, {})
            assert codes == [0, 0], [place.said(rank) for rank in range(2)]
            known[key] = load_file(place.folder / "runs" / "tiny" / "model.safetensors")
        return known[key]

    return weights


@pytest.fixture(scope="module")
def slowest():
    """Seconds of each fault's cases, for the table of docs/reliability.md, which all cases together write."""
    seconds = {}
    yield seconds
    if os.environ.get("CSKD_BENCH_WRITE_DOCS") and sum(map(len, seconds.values())) == len(cases()):
        reliability_page.write({what: max(each) for what, each in seconds.items()})


def test_the_page_shows_the_matrix():
    _, shown, _ = reliability_page.parts_of_page()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in shown.splitlines()[2:]]
    assert [[*cells[:4], cells[5]] for cells in rows] == [reliability_page.row(fault) for fault in fault_matrix.FAULTS]
    assert all(float(cells[4].removesuffix(" s")) < fault_matrix.LIMIT for cells in rows)


def name_of(value):
    return value.what.replace(" ", "_") if isinstance(value, fault_matrix.Fault) else str(value)


def in_its_tier(*case):
    """One case of each fault is in the gate; the whole matrix takes `-m slow` as well."""
    return pytest.param(*case, marks=() if stands_for_all(*case) else pytest.mark.slow)


def test_the_gate_brings_about_every_fault_once():
    chosen = [fault for fault, rank, precision in cases() if stands_for_all(fault, rank, precision)]
    assert chosen == fault_matrix.FAULTS


@pytest.mark.gate
@pytest.mark.parametrize(("fault", "rank", "precision"), [in_its_tier(*case) for case in cases()], ids=name_of)
def test_a_fault_on_one_rank_ends_all(lab, healthy, slowest, tmp_path, fault, rank, precision):
    place = fault_matrix.fresh(lab, tmp_path / "case")
    ended = run_case(place, fault, rank, precision)
    for each, (code, said) in enumerate(zip(ended.codes, ended.said, strict=True)):
        dead = fault.what == "SIGKILL of one rank" and each == rank
        assert code == (-9 if dead else fault.code), ended
        assert dead or fault.says in said, ended
        assert "Traceback" not in said, said
    assert ended.seconds < fault_matrix.LIMIT, ended
    slowest.setdefault(fault.what, []).append(ended.seconds)
    for path in (place.folder / "runs" / "tiny" / "checkpoints").glob("step-*/*.safetensors"):
        assert all(value.isfinite().all() for value in load_file(path).values())
    if fault.goes_on and rank == fault.ranks[-1]:
        assert run_again(place, fault, precision) == [0, 0], place.said(0)
        if fault.same_end:
            ours, theirs = load_file(place.folder / "runs" / "tiny" / "model.safetensors"), healthy(fault, precision)
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


TASK = """
name = "squares"
version = 1
protocols = ["linear", "finetune"]
metric = "top1"
[data]
root = "{root}"
num_classes = 3
source = "made on the spot"
licence = "CC0"
[linear]
c_grid = [1.0]
[finetune]
epochs = 1
batch_size = 16
[finetune.optim]
warmup_epochs = 0.0
[finetune.augment]
mix_group = 4
repeats = 1
"""


@pytest.mark.gate
@pytest.mark.parametrize("protocol", ["linear", "finetune"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_corrupt_image_on_one_rank_ends_a_transfer_on_all(lab, healthy, tmp_path, protocol, rank):
    healthy(fault_matrix.FAULTS[0], "fp32")
    task = tmp_path / "squares.toml"
    task.write_text(TASK.format(root=lab.data))
    place = fault_matrix.fresh(lab, tmp_path / "case")
    checkpoint = lab.folder / "healthy0" / "runs" / "tiny"
    words = ["transfer", "--task", str(task), "--protocol", protocol, "--checkpoint", str(checkpoint), "--workers", "0"]
    words += ["--runs", str(place.folder / "runs"), "--results", str(place.folder / "results")]
    fault = fault_matrix.corrupt_images("test")
    codes, ended = run_ranks(place, [words] * 2, {rank: lambda: fault(place, rank)})
    assert codes == [2, 2], [place.said(each) for each in range(2)]
    assert ended - place.mark(rank).stat().st_mtime < fault_matrix.LIMIT
    for each in range(2):
        assert f"rank {rank}: " in place.said(each) and "not a readable image" in place.said(each), place.said(each)
        assert "Traceback" not in place.said(each)
    assert run_ranks(place, [words] * 2, {})[0] == [0, 0], place.said(0)


def stop_at(place, rank, module_name, function):
    """Let a rank ask itself to stop where it enters a function for the first time."""
    from importlib import import_module

    module = import_module(f"cskd_bench.transfer.{module_name}")
    real = getattr(module, function)

    def asked(*arguments, **options):
        if not place.mark(rank).exists():
            place.mark(rank).touch()
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **options)

    setattr(module, function, asked)


@pytest.mark.gate
@pytest.mark.parametrize(
    ("protocol", "module", "function", "code"),
    [("linear", "scan", "to_float", 130), ("linear", "linear", "_fit", 75), ("finetune", "scan", "to_float", 75)],
)
def test_a_transfer_of_which_one_rank_is_asked_to_stop_ends_on_both(
    lab, healthy, tmp_path, protocol, module, function, code
):
    """75 says that something is kept: here the last checkpoint, or the features that a fit reads."""
    healthy(fault_matrix.FAULTS[0], "fp32")
    task = tmp_path / "squares.toml"
    task.write_text(TASK.format(root=lab.data).replace("c_grid = [1.0]", "c_grid = [1.0, 2.0]"))
    with task.open("a") as file:
        file.write("\n[run]\neval_batch_size = 2\n")  # several batches of each split
    place = fault_matrix.fresh(lab, tmp_path / "case")
    checkpoint = lab.folder / "healthy0" / "runs" / "tiny"
    words = ["transfer", "--task", str(task), "--protocol", protocol, "--checkpoint", str(checkpoint), "--workers", "0"]
    words += ["--runs", str(place.folder / "runs"), "--results", str(place.folder / "results")]
    codes, ended = run_ranks(place, [words] * 2, {1: lambda: stop_at(place, 1, module, function)})
    assert codes == [code, code], [place.said(each) for each in range(2)]
    assert ended - place.mark(1).stat().st_mtime < fault_matrix.LIMIT
    assert not any("Traceback" in place.said(each) for each in range(2))
    assert run_ranks(place, [words] * 2, {})[0] == [0, 0], place.said(0)
