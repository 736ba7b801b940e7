"""What is not finite reaches no weight and no checkpoint, and the message says what happened."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from cskd_bench.cells.pretrain import pretrain
from cskd_bench.config import load_config
from cskd_bench.engine import finite, training
from cskd_bench.engine.checkpoint import load_latest
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.finite import Advice, FiniteWatch, NotFinite, refuse_non_finite_weights
from cskd_bench.engine.optim import gradient_norm
from cskd_bench.errors import UserError

CPU = torch.device("cpu")
ALONE = Ranks(0, 1, CPU)
PER_EPOCH = 3

pytestmark = pytest.mark.usefixtures("one_thread")


def run(tiny_config, folder, *settings):
    config = load_config(tiny_config, ["recipe.epochs=3", "run.save_every=1000", *settings])
    return pretrain(config, folder / "runs", folder / "results", ALONE)


def hit_gradients(monkeypatch, first, last=10**9):
    """Make one weight's gradient infinite in the steps from `first` on; the loss stays as it is."""
    now = {"step": -1}
    rate, guard = training.learning_rate, FiniteWatch.guard

    def counting(config, step, *rest):
        now["step"] = step
        return rate(config, step, *rest)

    def guarded(self, loss, teacher_finite):
        loss = guard(self, loss, teacher_finite)
        if not first <= now["step"] <= last:
            return loss
        return loss + (self._parameters[0].flatten()[0] * 0).abs().sqrt()

    monkeypatch.setattr(training, "learning_rate", counting)
    monkeypatch.setattr(FiniteWatch, "guard", guarded)


def steps_of(folder):
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("runs/tiny/checkpoints/step-*"))


def test_an_infinite_gradient_in_an_epochs_last_step_ends_the_run_before_its_checkpoint(
    tiny_config, tmp_path, monkeypatch
):
    run(tiny_config, tmp_path / "healthy")
    with monkeypatch.context() as patch:
        hit_gradients(patch, first=2 * PER_EPOCH - 1)
        with pytest.raises(UserError, match=r"gradient is not finite at step 6 \(epoch 2, images .*No update was made"):
            run(tiny_config, tmp_path / "hit")
    assert steps_of(tmp_path / "hit") == [PER_EPOCH]
    newest, notes = load_latest(tmp_path / "hit" / "runs" / "tiny" / "checkpoints")
    assert newest is not None and newest.step == PER_EPOCH and not notes
    assert all(value.isfinite().all() for value in newest.model.values())
    run(tiny_config, tmp_path / "hit")  # the same command goes on
    ours, theirs = (load_file(tmp_path / name / "runs" / "tiny" / "model.safetensors") for name in ("hit", "healthy"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_healthy_fp16_run_whose_first_steps_overflow_goes_on(tiny_config, tmp_path, monkeypatch):
    """A loss scale of 2^60 is halved until gradients are finite; the log tells of the skipped updates."""
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(
        torch.amp, "GradScaler", lambda device, enabled: scaler(device, init_scale=2.0**30, enabled=enabled)
    )
    record = run(tiny_config, tmp_path, "recipe.precision=fp16", "recipe.epochs=8", "run.log_every=1")
    import json

    lines = [json.loads(line) for line in (tmp_path / "runs" / "tiny" / "log.jsonl").read_text().splitlines()]
    skipped = [line["skipped_updates"] for line in lines if "lr" in line]
    assert skipped[0] == 1 and skipped[-1] == 0
    assert all(line["grad_norm"] > 0 for line in lines if "lr" in line and not line["skipped_updates"])
    assert record.metrics["top1"] > 0


def test_under_a_scale_the_run_stops_after_so_many_updates_in_a_row(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(finite, "IN_A_ROW", 3)
    hit_gradients(monkeypatch, first=0)
    with pytest.raises(
        UserError, match=r"in 3 updates in a row, the last at step 3 .* recipe\.precision = bf16 or fp32"
    ):
        run(tiny_config, tmp_path, "recipe.precision=fp16")


def test_skipped_updates_are_counted_across_a_restart(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(finite, "IN_A_ROW", 5)
    hit_gradients(monkeypatch, first=0)
    with pytest.raises(UserError, match="in 5 updates in a row"):
        run(tiny_config, tmp_path, "recipe.precision=fp16", "run.save_every=1")
    assert steps_of(tmp_path)[-1] == 4
    with pytest.raises(UserError, match="in 5 updates in a row, the last at step 5 "):
        run(tiny_config, tmp_path, "recipe.precision=fp16", "run.save_every=1")


def test_read_one_step_late_no_update_follows_the_fault(tiny_config, tmp_path, monkeypatch):
    """As on a GPU: the host has started the next step before it knows, and the device skips that update too."""
    monkeypatch.setattr(finite, "steps_behind", lambda device: 1)
    seen = []
    update = FiniteWatch.update

    def noted(self, clip, where):
        told = update(self, clip, where)
        seen.append((where().split(" (")[0], self._parameters[0].detach().clone()))
        return told

    monkeypatch.setattr(FiniteWatch, "update", noted)
    hit_gradients(monkeypatch, first=3, last=3)
    with pytest.raises(UserError, match="not finite at step 4"):
        run(tiny_config, tmp_path, "run.log_every=1000")
    names, weights = zip(*seen, strict=True)
    assert names[-1] == "at step 5"
    assert torch.equal(weights[-1], weights[2]) and not torch.equal(weights[1], weights[2])
    assert steps_of(tmp_path) == [PER_EPOCH]


def test_read_late_or_not_a_healthy_run_is_the_same(tiny_config, tmp_path, monkeypatch):
    run(tiny_config, tmp_path / "now")
    monkeypatch.setattr(finite, "steps_behind", lambda device: 1)
    run(tiny_config, tmp_path / "late")
    ours, theirs = (load_file(tmp_path / name / "runs" / "tiny" / "model.safetensors") for name in ("now", "late"))
    assert ours.keys() == theirs.keys() and len(ours) > 10
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def watch_of(module, precision="fp32", teacher="fp32"):
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", enabled=precision == "fp16")
    return FiniteWatch(optimizer, scaler, list(module.parameters()), Advice(precision, teacher), CPU)


def test_the_guard_changes_no_bit_of_a_finite_loss_or_its_gradients():
    torch.manual_seed(0)
    module, views = nn.Linear(7, 5), torch.randn(3, 7)
    loss = module(views).square().mean()
    loss.backward(retain_graph=True)
    expected = module.weight.grad.clone()
    module.zero_grad()
    guarded = watch_of(module).guard(loss, torch.tensor(True))
    guarded.backward()
    assert torch.equal(guarded, loss) and torch.equal(module.weight.grad, expected)


@pytest.mark.parametrize("bad", ["loss", "teacher"])
def test_a_fault_of_loss_or_teacher_is_in_every_gradient(bad):
    """Which ranks average: each of them then skips the same update."""
    module = nn.Linear(3, 2)
    loss = module(torch.ones(1, 3)).sum() * (float("inf") if bad == "loss" else 1.0)
    watch = watch_of(module)
    watch.guard(loss, torch.tensor(bad != "teacher")).backward()
    assert all(parameter.grad.isnan().all() for parameter in module.parameters())
    before = module.weight.detach().clone()
    watch.update(None, lambda: "at step 1")
    assert torch.equal(module.weight, before)
    with pytest.raises(NotFinite, match="the loss is" if bad == "loss" else "the teacher's response is") as caught:
        watch.check()
    assert not caught.value.consequence


@pytest.mark.parametrize(
    ("precision", "teacher", "bad", "setting"),
    [
        ("fp16", "fp32", "loss", "recipe.precision = bf16 or fp32"),
        ("bf16", "fp32", "loss", "recipe.optim.lr"),
        ("fp32", "fp32", "loss", "recipe.optim.lr"),
        ("bf16", "fp16", "teacher", "teacher.precision = fp32, tf32 or bf16"),
        ("bf16", "bf16", "teacher", "teacher.weights"),
    ],
)
def test_the_hint_names_a_setting_that_helps(precision, teacher, bad, setting):
    module = nn.Linear(3, 2)
    watch = watch_of(module, precision, teacher)
    loss = module(torch.ones(1, 3)).sum() * (float("inf") if bad == "loss" else 1.0)
    watch._scaler.scale(watch.guard(loss, torch.tensor(bad != "teacher"))).backward()
    watch.update(None, lambda: "at step 1")
    with pytest.raises(NotFinite) as caught:
        watch.check()
    assert setting in str(caught.value)
    assert "bf16" not in str(caught.value) or precision == "fp16" or teacher == "fp16"


@pytest.mark.parametrize("clip", [None, 0.01, 1e6])
def test_clipping_is_torchs_own(clip):
    torch.manual_seed(1)
    ours, theirs = nn.Linear(5, 4), nn.Linear(5, 4)
    theirs.load_state_dict(ours.state_dict())
    for module in (ours, theirs):
        module(torch.ones(2, 5)).square().sum().backward()
    norm = gradient_norm(list(ours.parameters()), clip)
    expected = nn.utils.clip_grad_norm_(theirs.parameters(), clip if clip is not None else float("inf"))
    assert torch.equal(norm, expected)
    if clip is not None:
        assert torch.equal(ours.weight.grad, theirs.weight.grad)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_checkpoint_holds_a_weight_that_is_not_finite(value):
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    refuse_non_finite_weights(module, None)
    with torch.no_grad():
        module[1].running_mean[1] = value
    with pytest.raises(UserError, match=r"the weight 1\.running_mean is not finite after this update"):
        refuse_non_finite_weights(None, module)


def test_an_update_that_leaves_the_range_of_fp32_is_not_kept(tiny_config, tmp_path):
    """Gradients are finite, and a weight is not: a learning rate of 1e38."""
    with pytest.raises(UserError, match="not finite"):
        run(
            tiny_config,
            tmp_path,
            "recipe.optim.lr=3e38",
            "recipe.optim.warmup_lr=3e38",
            "recipe.optim.warmup_epochs=0",
            "recipe.optim.weight_decay=0",
            "run.save_every=1",
        )
    for path in (tmp_path / "runs" / "tiny" / "checkpoints").glob("step-*/model.safetensors"):
        assert all(value.isfinite().all() for value in load_file(path).values())


def test_a_healthy_step_never_looks_up_what_a_message_would_name(tiny_config, tmp_path, monkeypatch):
    """Naming a step's images takes the keys of its whole batch: a millisecond for 1,024 views."""
    named = []
    where = training._Run._where
    monkeypatch.setattr(training._Run, "_where", lambda self, step: (named.append(step), where(self, step))[1])
    run(tiny_config, tmp_path)
    assert named == []
