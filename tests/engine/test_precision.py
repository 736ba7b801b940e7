"""On a CPU, bf16 training avoids torch's fused attention, which is the slower one there."""

import pytest
import torch

from cskd_bench.config import StudentConfig, load_config
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.pretrain import pretrain
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
