"""Half precision on a CPU: which attention it takes, and a word where the processor has no units for it."""

import pytest
import torch

from cskd_bench import half_speed
from cskd_bench.cells.pretrain import pretrain
from cskd_bench.cli import main
from cskd_bench.config import StudentConfig, load_config
from cskd_bench.engine.distributed import Ranks
from cskd_bench.half_speed import slow_precision
from cskd_bench.models.students import build_student, choose_attention

CPU = torch.device("cpu")


@pytest.mark.parametrize(("precision", "fused_calls"), [("bf16", False), ("fp32", True)])
def test_the_loop_chooses_the_attention_of_its_precision(tiny_config, tmp_path, monkeypatch, precision, fused_calls):
    """fp32 keeps the fused kernel, so that the test would notice if nothing were called at all."""
    calls = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def counted(*arguments, **options):
        calls.append(1)
        return fused(*arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    config = load_config(tiny_config, ["recipe.epochs=1", f"recipe.precision={precision}"])
    record = pretrain(config, tmp_path / "runs", tmp_path / "results", Ranks(0, 1, CPU))
    assert bool(calls) is fused_calls
    assert record.metrics["top1"] > 0


def test_both_attentions_agree_to_the_rounding_of_bf16():
    torch.manual_seed(0)
    small = StudentConfig(image_size=64, patch_size=8, depth=2, embed_dim=48, num_heads=3)
    student = build_student(small, 5, "class+dist+patch").eval()
    views = torch.rand(4, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        fused = student.predict(views).float()
        choose_attention(student, CPU, "bf16")
        explicit = student.predict(views).float()
    assert not any(module.fused_attn for module in student.modules() if hasattr(module, "fused_attn"))
    assert (fused - explicit).abs().max() < 0.02 * fused.abs().max()


def emulated(monkeypatch):
    """As measured on a CPU with AVX2 alone: 0.5 ms in fp32, 25 ms in bf16."""
    seconds = {torch.float32: 0.5e-3, torch.bfloat16: 25e-3}
    monkeypatch.setattr(half_speed, "_product_seconds", seconds.__getitem__)


def test_only_a_cpu_that_is_slower_in_half_precision_is_named(monkeypatch):
    emulated(monkeypatch)
    assert slow_precision(CPU, "bf16") == "this CPU takes 50 times as long for a matrix product in bf16 as in fp32"
    assert slow_precision(CPU, "fp32") == slow_precision(torch.device("cuda"), "bf16") == ""
    monkeypatch.setattr(half_speed, "_product_seconds", {torch.float32: 1e-3, torch.bfloat16: 0.6e-3}.__getitem__)
    assert slow_precision(CPU, "bf16") == ""


def test_the_fastest_of_ten_products_in_one_thread_is_timed(monkeypatch):
    seconds, seen = [9.0, 8.0, 7.0, 3.0, 6.0, 9.0, 9.0, 9.0, 9.0, 9.0], []

    class Matrix:
        def __matmul__(self, other):
            seen.append(torch.get_num_threads())
            return self

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(torch, "ones", lambda *size, dtype: Matrix() if dtype is torch.bfloat16 else None)
    monkeypatch.setattr(half_speed.time, "perf_counter", lambda: sum(seconds[: len(seen)]))
    try:
        assert half_speed._product_seconds(torch.bfloat16) == 3.0
        assert seen == [1] * 10 and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("chosen", ["bf16", "fp32"])
def test_a_run_that_would_crawl_says_what_is_faster(monkeypatch, capsys, tmp_path, colour_squares, chosen):
    emulated(monkeypatch)
    monkeypatch.setenv("CSKD_BENCH_DEVICE", "cpu")
    settings = ["method.kind=supervised", "student.image_size=16", "student.patch_size=8", "student.depth=1"]
    settings += ["recipe.epochs=1", "recipe.optim.warmup_epochs=0", "recipe.batch_size=16", "recipe.augment.repeats=1"]
    settings += ["recipe.augment.mixup=0", "recipe.augment.cutmix=0", "run.workers=0", f"recipe.precision={chosen}"]
    settings += ["data.num_classes=3", "student.embed_dim=24", "student.num_heads=2"]
    words = [word for setting in settings for word in ("--set", setting)]
    places = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    command = ["pretrain", "deit_tiny", "--method", "supervised", "--data-dir", str(colour_squares)]
    assert main([*command, *words, *places]) == 0
    said = capsys.readouterr().err
    assert ("50 times as long" in said and "precision fp32" in said) == (chosen == "bf16")


def test_the_doctor_says_it_for_a_configuration(monkeypatch, capsys, tmp_path):
    emulated(monkeypatch)
    monkeypatch.setenv("CSKD_BENCH_DEVICE", "cpu")
    main(["doctor", "--config", "imagenette64/15ep", "--method", "cskd", "--runs", str(tmp_path)])
    said = " ".join(capsys.readouterr().out.split())
    assert "50 times as long" in said and "--set recipe.precision=fp32" in said
