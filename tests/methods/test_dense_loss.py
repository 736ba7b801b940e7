"""The spatial loss by hard labels is F.cross_entropy's, with a third of its memory."""

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker
from torch.nn import functional as F

from cskd_bench.methods.parts import spatial_loss


def problem(batch, classes, places, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, *places, generator=generator, dtype=torch.float64).to(dtype)
    return logits.requires_grad_(), torch.randint(classes, (batch, *places), generator=generator)


def value_and_gradient(loss, logits):
    (gradient,) = torch.autograd.grad(3 * loss, logits)
    return loss.detach(), gradient


@pytest.mark.parametrize("batch", [1, 32, 45])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_value_and_gradient_are_cross_entropys(batch, dtype, tolerance):
    logits, target = problem(batch, 7, (3, 2), dtype)
    ours = value_and_gradient(spatial_loss(logits, target, 1.0, "official"), logits)
    theirs = value_and_gradient(F.cross_entropy(logits, target), logits)
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected, atol=tolerance, rtol=tolerance)


def test_half_precision_is_summed_in_fp32():
    """bf16 logits give the loss that their values have in fp32, and a gradient rounded once."""
    logits, target = problem(40, 1000, (2, 2), torch.bfloat16)
    loss, gradient = value_and_gradient(spatial_loss(logits, target, 1.0, "official"), logits)
    exact, wide = value_and_gradient(F.cross_entropy(logits.float(), target), logits)
    assert loss.dtype == torch.float32 and gradient.dtype == torch.bfloat16
    torch.testing.assert_close(loss, exact, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, wide, rtol=1e-2, atol=1e-9)


def test_the_smallest_gradients_survive_fp16():
    """At ImageNet's size, under a loss scale, fp16 keeps what it would flush to zero if divided by the places first."""
    logits, target = problem(40, 1000, (7, 7), torch.float16)
    (gradient,) = torch.autograd.grad(65536.0 * spatial_loss(logits, target, 1.0, "official"), logits)
    wide = logits.detach().float().requires_grad_()
    (exact,) = torch.autograd.grad(65536.0 * F.cross_entropy(wide, target), wide)
    torch.testing.assert_close(gradient.float(), exact, rtol=3e-3, atol=1e-6)
    assert (gradient == 0).float().mean() < 1e-3


def test_transposed_logits_and_evaluation_without_gradients():
    logits, target = problem(5, 6, (2, 2), torch.float32)
    transposed = logits.detach().transpose(1, 3).contiguous().transpose(1, 3).requires_grad_()
    ours = value_and_gradient(spatial_loss(transposed, target, 1.0, "official"), transposed)
    torch.testing.assert_close(ours, value_and_gradient(F.cross_entropy(logits, target), logits))
    with torch.no_grad():
        assert spatial_loss(logits, target, 1.0, "official") == ours[0]


def peak_bytes(loss, dtype):
    """Peak memory of logits (256 images, 1,000 classes, 7 x 7 places), their loss and its gradient."""
    target = torch.zeros(256, 7, 7, dtype=torch.long)
    tracker = MemTracker()
    with tracker:
        logits = torch.zeros(256, 1000, 7, 7, dtype=dtype).requires_grad_()
        loss(logits, target).backward()
    return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]


def test_logits_and_gradient_are_all_that_is_kept():
    logits_bytes = 256 * 1000 * 49 * 2
    ours = peak_bytes(lambda logits, target: spatial_loss(logits, target, 1.0, "official"), torch.bfloat16)
    plain = peak_bytes(lambda logits, target: F.cross_entropy(logits.float(), target), torch.bfloat16)
    assert ours < 3 * logits_bytes < 6 * logits_bytes < plain
