"""What `run.compile` means on a device, and that what is compiled is compiled for each size by itself."""

import io

import pytest
import torch
from rich.console import Console
from torch import nn

from cskd_bench import compilation
from cskd_bench.compilation import compile_fixed, forget_compiled, resolve_compile
from cskd_bench.config import RunConfig, load_config
from cskd_bench.engine.estimate import estimate, show
from cskd_bench.schema import shipped

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Return a function that sets up a machine: with Triton or not, with a compiler of some name or none."""

    def set_up(triton, compiler=None, named=None):
        monkeypatch.setattr(compilation, "has_triton", lambda: triton)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CC", raising=False)
        if named:
            monkeypatch.setenv("CC", named)
        if compiler:
            (tmp_path / compiler).touch(mode=0o755)

    return set_up


@pytest.mark.parametrize(("compiler", "named"), [("gcc", None), ("clang", None), ("mycc", "mycc -m64")])
def test_a_gpu_with_triton_and_a_compiler_compiles_all_and_goes_on_where_that_fails(machine, compiler, named):
    machine(True, compiler, named)
    with torch._dynamo.config.patch(suppress_errors=False):
        assert resolve_compile(RunConfig(compile="all"), GPU) == (True, True, "")
        assert not torch._dynamo.config.suppress_errors, "what a person asked for fails aloud"
        assert resolve_compile(RunConfig(), GPU) == (True, True, "")
        assert torch._dynamo.config.suppress_errors


@pytest.mark.parametrize(
    ("triton", "compiler", "named", "missing"),
    [(False, "gcc", None, "Triton"), (True, None, None, "C compiler"), (True, "gcc", "gone", "C compiler")],
)
def test_a_gpu_without_one_of_them_compiles_nothing_and_says_what_is_missing(machine, triton, compiler, named, missing):
    machine(triton, compiler, named)
    found = resolve_compile(RunConfig(), GPU)
    assert found[:2] == (False, False) and missing in found.note and 'run.compile = "none"' in found.note


def test_a_cpu_compiles_nothing_unless_it_is_told_to(machine):
    machine(True, "gcc")
    assert resolve_compile(RunConfig(), CPU) == (False, False, "")


@pytest.mark.parametrize("device", [CPU, GPU])
@pytest.mark.parametrize(
    ("word", "found"), [("none", (False, False)), ("teacher", (True, False)), ("all", (True, True))]
)
def test_what_a_run_says_is_done(machine, device, word, found):
    machine(False)
    assert resolve_compile(RunConfig(compile=word), device) == (*found, "")


def test_a_dry_run_says_what_is_compiled_here(monkeypatch):
    monkeypatch.setenv("CSKD_BENCH_DEVICE", "cpu")
    small = ["student.depth=1", "student.embed_dim=96", "student.num_heads=1"]

    def told(*changes):
        config = load_config(shipped("configs") / "deit_tiny.toml", [*small, *changes], "supervised")
        show(estimate(config), Console(file=(out := io.StringIO()), width=200))
        return out.getvalue()

    assert "nothing (run.compile = auto, cpu)" in told()
    assert "teacher and student (run.compile = all, cpu)" in told("run.compile=all")


class Doubled(nn.Module):
    def forward(self, batch):
        return 2 * batch


def compiled_sizes(sizes, renew):
    """Return the sizes of a batch that a compiler is called for, None for any size."""
    noted = []

    def backend(graph, examples):
        noted.append(None if any(isinstance(part, torch.SymInt) for part in examples) else len(examples[0]))
        return graph

    model = Doubled()
    for size in sizes:
        if renew:
            forget_compiled()
        compile_fixed(model, backend)(torch.zeros(size, 3))
    return noted


def test_a_smaller_batch_is_compiled_for_itself_and_the_first_size_stays():
    assert compiled_sizes((8, 5, 8, 5), renew=False) == [8, 5]


def test_a_process_of_many_runs_compiles_each_of_them():
    sizes = list(range(2, 14))
    with torch._dynamo.config.patch(recompile_limit=8):  # torch's own, which timm.optim raises
        assert compiled_sizes(sizes, renew=True) == sizes
