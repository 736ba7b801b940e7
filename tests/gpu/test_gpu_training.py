"""On a GPU: a step without a wait, resumed runs, half precision that is watched, one compiled graph."""

import copy
import signal

import pytest
import torch
from safetensors.torch import load_file

from cskd_bench.cells.pretrain import initial_student, pretrain
from cskd_bench.device import HostCopy, default_device, exact_fp32
from cskd_bench.engine import training
from cskd_bench.engine.finite import FiniteWatch
from cskd_bench.errors import Interrupted, UserError

MEAN_DIFFERENCE = 1e-4  # of weights of a resumed run: attention's backward pass adds up in any order on a GPU


def weights(folder, name="small"):
    return load_file(folder / "runs" / name / "model.safetensors")


def run(config, folder, ranks):
    return pretrain(config, folder / "runs", folder / "results", ranks)


def assert_close(ours, theirs):
    same = sum(torch.equal(ours[name], theirs[name]) for name in theirs)
    print(f"{same} of {len(theirs)} tensors are equal to the bit")
    for name in theirs:
        difference = (ours[name] - theirs[name]).abs()
        if name.endswith("qkv.bias"):  # softmax cancels key biases: their gradient is rounding, which Adam scales up
            query, _, value = difference.chunk(3)
            difference = torch.cat([query, value])
        assert difference.mean() < MEAN_DIFFERENCE, name


@pytest.mark.parametrize("settings", [(), ("student.drop_path=0.3",), ("recipe.precision=bf16",)])
def test_a_stopped_run_goes_on_as_if_nothing_had_been(small_config, ranks, tmp_path, monkeypatch, settings):
    config = small_config("run.save_every=1000", *settings)
    run(config, tmp_path / "whole", ranks)
    rate = training.learning_rate

    def stopping(optim, step, *rest):
        if step == 4:
            signal.raise_signal(signal.SIGTERM)
        return rate(optim, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(training, "learning_rate", stopping)
        with pytest.raises(Interrupted, match="after step 5 of 9"):
            run(config, tmp_path / "stopped", ranks)
    run(config, tmp_path / "stopped", ranks)
    assert_close(weights(tmp_path / "stopped"), weights(tmp_path / "whole"))


@pytest.mark.parametrize("kind", ["cskd", "kd-standardised", "kd-nkd", "kd-dkd", "kd-dist", "vkd", "srd", "locality"])
def test_no_part_of_a_step_waits_for_the_device(small_config, ranks, tmp_path, monkeypatch, kind):
    """Views, teacher, student, losses, backward, update and EMA are queued without one host sync."""
    if ranks.device.type == "cpu":
        pytest.skip("a CPU has nothing to wait for")
    settings = ["run.save_every=1000", "run.log_every=1000", "recipe.precision=bf16", "recipe.epochs=1"]
    config = small_config(f"method.kind={kind}", *settings)
    backward, update = training._Run._backward, FiniteWatch.update
    calls = []

    def guarded(function):
        def call(self, *arguments, **options):
            calls.append(function.__name__)
            if len(calls) > 4:  # the first two steps make tables and choose kernels
                torch.cuda.set_sync_debug_mode("error")
            try:
                return function(self, *arguments, **options)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        return call

    monkeypatch.setattr(training._Run, "_backward", guarded(backward))
    monkeypatch.setattr(FiniteWatch, "update", guarded(update))
    run(config, tmp_path, ranks)
    assert len(calls) > 4


def hit(monkeypatch, step, kind):
    """Bring a fault about in every step from `step` on."""
    now = {"step": -1}
    rate, guard = training.learning_rate, FiniteWatch.guard

    def counting(optim, at, *rest):
        now["step"] = at
        return rate(optim, at, *rest)

    def guarded(self, loss, teacher_finite):
        if now["step"] < step or kind == "none":
            return guard(self, loss, teacher_finite)
        if kind == "teacher":
            return guard(self, loss, torch.zeros_like(loss, dtype=torch.bool))
        if kind == "loss":
            return guard(self, loss * float("inf"), teacher_finite)
        return guard(self, loss, teacher_finite) + (self._parameters[0].flatten()[0] * 0).abs().sqrt()

    monkeypatch.setattr(training, "learning_rate", counting)
    monkeypatch.setattr(FiniteWatch, "guard", guarded)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("kind", ["loss", "teacher"])
def test_what_is_not_finite_ends_the_run_and_no_checkpoint_follows(
    small_config, ranks, tmp_path, monkeypatch, precision, kind
):
    hit(monkeypatch, 3, kind)
    with pytest.raises(UserError, match=f"{kind}.* is not finite at step 4 "):
        run(small_config(f"recipe.precision={precision}"), tmp_path, ranks)
    for path in (tmp_path / "runs" / "small" / "checkpoints").glob("step-*/model.safetensors"):
        assert int(path.parent.name.split("-")[1]) <= 3
        assert all(value.isfinite().all() for value in load_file(path).values())


def test_an_infinite_gradient_ends_a_run_in_bf16(small_config, ranks, tmp_path, monkeypatch):
    hit(monkeypatch, 3, "gradient")
    with pytest.raises(UserError, match="the gradient is not finite at step 4 "):
        run(small_config("recipe.precision=bf16"), tmp_path, ranks)


def test_a_healthy_fp16_run_whose_first_steps_overflow_goes_on(small_config, ranks, tmp_path, monkeypatch):
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(
        torch.amp, "GradScaler", lambda kind, enabled: scaler(kind, init_scale=2.0**24, enabled=enabled)
    )
    record = run(small_config("recipe.precision=fp16", "recipe.epochs=6"), tmp_path, ranks)
    assert record.metrics["top1"] > 0
    assert all(value.isfinite().all() for value in weights(tmp_path).values())


def test_the_student_compiles_into_one_graph(small_config, device):
    """One graph for training, of one shape: nothing in a student's forward pass falls back to Python."""
    student = initial_student(small_config()).to(device).train()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(student, fullgraph=True, dynamic=False)
    views = torch.rand(8, 3, 32, 32, device=device)
    with exact_fp32():
        for _ in range(2):
            output = compiled(views, (2, 2))
            output.class_logits.sum().backward()
        expected = copy.deepcopy(student)(views, (2, 2)).class_logits
    assert (output.class_logits - expected).abs().max() < 1e-3
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_a_copy_to_the_host_comes_when_it_is_asked_for(device):
    values = torch.arange(3.0, device=device) * 2
    copy_of = HostCopy(values)
    values.zero_()  # queued after the copy
    assert copy_of.values() == ([0.0, 2.0, 4.0] if device.type == "cuda" else [0.0, 0.0, 0.0])


def test_the_chosen_gpu_is_the_current_one(device):
    assert default_device() == device
    if device.type == "cuda":
        assert torch.cuda.current_device() == device.index
