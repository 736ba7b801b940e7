"""Fine-tuning's settings: how it is carried out names no score; what is chosen is chosen off the test images."""

import numpy as np
import pytest
import timm
import torch
from helpers.tiny import save_model
from timm.layers import DropPath

from cskd_bench.bench.plan import Benchmark, expand
from cskd_bench.bench.registration import resolve_plan
from cskd_bench.cli import main
from cskd_bench.data.open import open_split
from cskd_bench.engine import training
from cskd_bench.engine.distributed import Ranks
from cskd_bench.errors import Interrupted, UserError
from cskd_bench.models.stochastic_depth import set_drop_path
from cskd_bench.report.recompute import contradictions
from cskd_bench.stopping import Stop
from cskd_bench.task import load_task
from cskd_bench.task_identity import former_settings
from cskd_bench.transfer import finetune, precision, scan
from cskd_bench.transfer.learning_rate import hold_out
from cskd_bench.transfer.run import open_cell, transfer
from cskd_bench.transfer.size import FinetuneMemory, size_of_finetuning

CPU, GPU = Ranks(0, 1, torch.device("cpu")), Ranks(0, 1, torch.device("cuda"))
MODEL = "test_vit"
TASK = """
protocols = ["finetune", "linear", "lowlabel"]
image_size = 32
published_as = "squares"
[data]
root = "{data}"
num_classes = 3
eval_crop = 1.0
[finetune]
epochs = 2
batch_size = 16
[finetune.optim]
lr = 1e-3
"""
GRID = "finetune.lr_grid=[1.0, 2e-3]"  # the first is far too large


@pytest.fixture(scope="module")
def place(tmp_path_factory, colour_squares):
    """A folder with a weights file and a task of three colours."""
    folder = tmp_path_factory.mktemp("settings")
    save_model(folder / "model.safetensors", MODEL, img_size=32)
    (folder / "squares.toml").write_text(TASK.format(data=colour_squares))
    return folder


def task_of(place, *settings):
    return load_task(str(place / "squares.toml"), None, settings)


def tune(place, where, *settings, workers=0, stop=None, protocol="finetune"):
    return transfer(
        task_of(place, *settings), protocol, place / "model.safetensors", 0,
        results=where / "results", work=where / "work", ranks=CPU, model=MODEL, workers=workers, stop=stop,
    )  # fmt: skip


def cell_of(place, *settings, protocol="finetune", ranks=CPU):
    weights = place / "model.safetensors"
    return open_cell(task_of(place, *settings), protocol, weights, 0, work=place / "w", ranks=ranks, model=MODEL)


def confidences(record, where):
    with np.load(where / "results" / "records" / record.per_example.name) as side:
        return side["confidence"]


def stop_at(monkeypatch, module, name, call):
    """Ask to stop on the given call of a function; return the request, and what was counted."""
    stop, calls, whole = Stop(), [], getattr(module, name)

    def counted(*given, **named):
        calls.append(1)
        stop.requested = stop.requested or len(calls) == call
        return whole(*given, **named)

    monkeypatch.setattr(module, name, counted)
    return stop, calls


# -- [run] ------------------------------------------------------------------------------------------------------------

RUN = ["run.workers=3", "run.accumulate=4", "run.save_every=5", "run.compile=all", "run.eval_every=2", "run.keep=1"]


@pytest.mark.parametrize("setting", [*RUN, "run.log_every=1", "run.eval_batch_size=8"])
def test_how_a_run_is_carried_out_is_part_of_no_name(place, setting):
    usual, other = task_of(place), task_of(place, setting)
    assert other.run != usual.run and other.published_as == usual.published_as == "squares"
    assert other.identity() == usual.identity() and "run" not in usual.identity()
    for protocol in ("", "finetune", "linear", "lowlabel"):
        assert other.fingerprint(protocol) == usual.fingerprint(protocol)
    assert task_of(place, "finetune.epochs=3").published_as == ""


def test_run_settings_reach_the_loop_and_plans(place, monkeypatch, tmp_path):
    jobs = []

    def fit(job, *_):
        jobs.append(job)
        raise InterruptedError

    monkeypatch.setattr(finetune, "fit", fit)
    for settings in (("run.accumulate=2",), ("run.accumulate=2", "run.workers=3")):
        with pytest.raises(InterruptedError):
            tune(place, tmp_path, *settings, workers=1)
    assert [(job.run.accumulate, job.run.workers) for job in jobs] == [(2, 1), (2, 3)]
    assert (cell_of(place).batch_size, cell_of(place, "run.eval_batch_size=8").batch_size) == (256, 8)
    plan = Benchmark(
        students=("digits",),
        methods=({"kind": "supervised"},),
        seeds=(0,),
        tasks=(str(place / "squares.toml"),),
        protocols=("finetune",),
        task_settings=("run.accumulate=2",),
    )
    student = place / "student.toml"
    student.write_text('[student]\nimage_size = 32\n[method]\nkind = "supervised"\n')
    (cell,) = expand(plan.model_copy(update={"students": (str(student),)}), place / "plan.toml").transfer
    assert cell.task.run.accumulate == 2 and cell.settings == ("run.accumulate=2",)
    assert cell.task.fingerprint("finetune") == task_of(place).fingerprint("finetune")


def test_two_micro_batches_train_as_one_does_to_rounding(place, tmp_path):
    whole, halves = (
        tune(place, tmp_path / str(parts), f"run.accumulate={parts}", "run.save_every=1") for parts in (1, 2)
    )
    assert (halves.id, halves.recipe, halves.task) == (whole.id, whole.recipe, whole.task)
    assert halves.config == whole.config
    one, two = (confidences(record, tmp_path / name) for record, name in ((whole, "1"), (halves, "2")))
    np.testing.assert_allclose(two, one, rtol=1e-4)
    assert one.std() > 1e-3
    assert contradictions(halves) == []


def test_a_stopped_run_goes_on_under_other_run_settings(place, tmp_path, monkeypatch):
    stop, _ = stop_at(monkeypatch, training, "learning_rate", 4)
    with pytest.raises(Interrupted, match="after step 4 of 6"):
        tune(place, tmp_path, stop=stop)
    monkeypatch.undo()
    record = tune(place, tmp_path, "run.accumulate=2", "run.keep=1", "run.log_every=1")
    undisturbed = tune(place, tmp_path / "other")
    assert record.resumptions == 1 and record.id == undisturbed.id
    np.testing.assert_allclose(confidences(record, tmp_path), confidences(undisturbed, tmp_path / "other"), rtol=1e-4)


# -- stochastic depth -------------------------------------------------------------------------------------------------


def rates(model):
    return [
        module.drop_prob if isinstance(module, DropPath) else 0.0
        for name, module in model.named_modules()
        if name.endswith(("drop_path1", "drop_path2"))
    ]


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "swin_tiny_patch4_window7_224"])
def test_stochastic_depth_is_set_as_timm_builds_it(name):
    built, plain = timm.create_model(name, drop_path_rate=0.2), timm.create_model(name)
    set_drop_path(plain, 0.2)
    assert rates(plain) == rates(built) and max(rates(plain)) == pytest.approx(0.2)
    set_drop_path(built, 0.0)
    assert set(rates(built)) == {0.0} and not any(isinstance(module, DropPath) for module in built.modules())


def test_a_model_without_such_blocks_is_refused():
    with pytest.raises(UserError, match=r"finetune.drop_path: this ResNet has no ViT blocks"):
        set_drop_path(timm.create_model("resnet18"), 0.1)


def test_the_checkpoints_own_stochastic_depth_stays_unless_a_task_says_more(place):
    cell = cell_of(place)
    set_drop_path(cell.model.student.model, 0.3)
    own = rates(cell.model.student.model)
    assert rates(finetune.new_student(cell, task_of(place).finetune).model) == own and max(own) > 0.29
    for rate in (0.0, 0.1):
        recipe = task_of(place, f"finetune.drop_path={rate}").finetune
        assert max(rates(finetune.new_student(cell, recipe).model)) == pytest.approx(rate)
    assert rates(cell.model.student.model) == own  # other protocols read the same student


def test_what_is_new_is_left_out_of_fingerprints_where_it_is_not_used(place):
    usual = task_of(place)
    assert not {"drop_path", "lr_grid", "lr_grid_epochs", "validation"} & usual.identity()["finetune"].keys()
    for unused in ("finetune.validation=0.5", "finetune.lr_grid_epochs=1"):
        assert task_of(place, unused).fingerprint() == usual.fingerprint()
    changed = [task_of(place, "finetune.drop_path=0.0"), task_of(place, GRID)]
    changed += [task_of(place, GRID, "finetune.validation=0.5"), task_of(place, GRID, "finetune.lr_grid_epochs=1")]
    assert len({task.fingerprint("finetune") for task in [usual, *changed]}) == 5
    assert task_of(place, GRID, "finetune.optim.lr=1.0").fingerprint() == changed[1].fingerprint()


# -- a grid of learning rates -----------------------------------------------------------------------------------------


def test_the_rate_is_chosen_off_test_and_then_trained_on_all_of_train(place, tmp_path, monkeypatch):
    scored, whole = [], finetune.scan_split
    monkeypatch.setattr(finetune, "scan_split", lambda cell, source, *a, **k: scored.append(source) or whole(
        cell, source, *a, **k
    ))  # fmt: skip
    record, plain = tune(place, tmp_path, GRID), tune(place, tmp_path / "plain", "finetune.optim.lr=2e-3")
    metrics, test = record.metrics, open_split(task_of(place).data, "test")
    assert [source.identity == test.identity for source in scored] == [False, False, True, True]
    assert metrics["chosen_lr"] == 2e-3 and metrics["chosen_lr_at_edge"] == 1.0
    assert metrics["validation_top1"] == metrics["validation_top1_at_lr_0.002"] > metrics["validation_top1_at_lr_1.0"]
    assert "learning rate 0.002 chosen by top1 on 9 images held out of train (1.0: " in record.note
    assert "0.002 is the smallest of finetune.lr_grid: a better one may lie beyond it" in record.note
    np.testing.assert_array_equal(confidences(record, tmp_path), confidences(plain, tmp_path / "plain"))
    assert record.id != plain.id and record.recipe != plain.recipe
    assert contradictions(record) == []
    assert {path.name for path in (tmp_path / "work").iterdir()} <= {"features", "locks"}


def test_a_finished_trial_is_not_trained_again(place, tmp_path, monkeypatch):
    """Stopped at the third step of the second trial's four: the first is kept, the second goes on."""
    stop, _ = stop_at(monkeypatch, training, "learning_rate", 4 + 3)
    with pytest.raises(Interrupted, match="after step 3 of 4"):
        tune(place, tmp_path, GRID, stop=stop)
    monkeypatch.undo()
    _, calls = stop_at(monkeypatch, training, "learning_rate", 0)
    record = tune(place, tmp_path, GRID)
    assert len(calls) == 1 + 6 and record.resumptions == 1
    monkeypatch.undo()
    other = tune(place, tmp_path / "other", GRID)
    assert record.metrics == other.metrics and record.note == other.note
    assert record.cost.seconds > 0


def test_trials_may_be_shorter_and_are_counted(place):
    steps = [size_of_finetuning(task_of(place, *settings), 0, place)[0] for settings in (
        (), (GRID,), (GRID, "finetune.lr_grid_epochs=1")
    )]  # fmt: skip
    assert steps == [6, 6 + 2 * 4, 6 + 2 * 2]  # 3 batches of 48 images, 2 of the 39 that are left


def test_low_label_training_holds_out_images_that_it_does_not_train_on():
    labels = np.repeat([0, 1, 2], 20)
    recipe = load_task("cifar100", None, ["finetune.batch_size=16"]).finetune
    chosen = np.resize(np.asarray([0, 1, 2, 3, 20, 21, 22, 40, 41, 42]), 60)
    seen, unseen = hold_out(labels, chosen, recipe, 0)
    assert len(unseen) == 3 and set(seen) | set(unseen) == set(chosen) and not set(seen) & set(unseen)
    assert len(seen) == 60 * 7 // 10
    with pytest.raises(UserError, match="no class has two training images"):
        hold_out(labels, np.asarray([0, 20, 40]), recipe, 0)


@pytest.mark.parametrize("schedule", ["steps", "epochs"])
def test_low_label_training_chooses_a_rate_for_each_fraction(place, tmp_path, schedule):
    few = ["lowlabel.classifier=finetune", "lowlabel.fractions=[0.25, 0.5]", f"lowlabel.schedule={schedule}", GRID]
    record = tune(place, tmp_path, *few, protocol="lowlabel")
    assert {record.metrics[f"chosen_lr_at_{fraction}"] for fraction in ("0.25", "0.5")} <= {1.0, 2e-3}
    assert "at 0.5: learning rate" in record.note and "on 6 images held out" in record.note


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["finetune.lr_grid=[1e-3, 1e-3]"], "the same learning rate stands twice"),
        ([GRID, "finetune.lr_grid_epochs=1", "finetune.optim.warmup_epochs=2.0"], "longer than lr_grid_epochs 1"),
        (["finetune.drop_path=1.0"], "finetune.drop_path"),
    ],
)
def test_settings_that_cannot_be_are_refused(place, settings, said):
    with pytest.raises(UserError, match=said):
        task_of(place, *settings)


# -- precision --------------------------------------------------------------------------------------------------------


@pytest.fixture
def with_units(monkeypatch):
    """What the process takes for its device is a GPU with bf16 units."""
    monkeypatch.setattr(precision, "default_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(precision, "precisions", lambda device: ["fp32", "fp16", "bf16"])


def test_a_gpu_with_units_fine_tunes_in_bf16_and_a_cpu_in_fp32(place, with_units, monkeypatch):
    on_cpu, on_gpu = cell_of(place), cell_of(place, ranks=GPU)
    assert (on_cpu.spec.finetune.precision, on_gpu.spec.finetune.precision) == ("fp32", "bf16")
    assert on_gpu.name != on_cpu.name and on_gpu.recipe != on_cpu.recipe
    assert on_gpu.name == cell_of(place, "finetune.precision=bf16").name
    assert on_cpu.spec.fingerprint() == task_of(place).fingerprint()
    assert on_gpu.spec.published_as == "squares"
    stated = cell_of(place, "finetune.precision=fp32", ranks=GPU)
    assert stated.name == on_cpu.name
    assert cell_of(place, protocol="linear", ranks=GPU).name == cell_of(place, protocol="linear").name
    tuned = cell_of(place, "lowlabel.classifier=finetune", protocol="lowlabel", ranks=GPU)
    assert tuned.spec.finetune.precision == "bf16"
    monkeypatch.setattr(precision, "precisions", lambda device: ["fp32", "fp16"])
    assert cell_of(place, ranks=GPU).name == on_cpu.name


def test_plans_contrasts_and_reruns_name_the_precision_that_workers_take(place, with_units):
    student = place / "planned.toml"
    student.write_text("[student]\nimage_size = 32\n")
    plan = Benchmark(
        students=(str(student),),
        methods=({"kind": "supervised"}, {"kind": "cskd"}),
        seeds=(0, 1),
        tasks=(str(place / "squares.toml"),),
        primary=({"method": "cskd", "against": "supervised", "protocol": "finetune", "task": "squares"},),
    )
    cells = [cell for cell in expand(plan, place / "plan.toml").transfer if cell.protocol == "finetune"]
    worker = cell_of(place, ranks=GPU).spec.fingerprint("finetune")
    assert {cell.task.fingerprint("finetune") for cell in cells} == {worker} and len(cells) == 4
    assert cells[0].settings == ("finetune.precision=bf16",)
    (contrast,) = resolve_plan(plan, place / "plan.toml").contrasts
    assert contrast.fingerprint == worker
    assert "finetune.precision=fp32" in former_settings(task_of(place).identity())  # a record's, wherever it is rerun


# -- size, and the scoring of test ------------------------------------------------------------------------------------


def test_the_least_accumulate_that_fits_is_told():
    memory = FinetuneMemory(batch_size=768, group=16, state=10**9, fixed=0, per_view=10**8)
    assert memory.at(1) == 10**9 + 768 * 10**8 and memory.activations(4, ranks=2) == 96 * 10**8
    assert [memory.fitting(card) for card in (100e9, 80e9, 24e9, 1.2e9)] == [1, 2, 4, None]
    assert memory.fitting(24e9, ranks=2) == 2
    assert memory.fitting(5e9) == 24  # 32 views; 22 and 23 would leave mixing groups in pieces


def test_a_dry_run_says_steps_memory_and_accumulate(place, capsys, monkeypatch):
    words = ["transfer", "--task", str(place / "squares.toml"), "--checkpoint", str(place / "model.safetensors")]
    words += ["--model", MODEL, "--runs", str(place / "r"), "--results", str(place / "r"), "--dry-run"]
    assert main([*words, "--set", "run.accumulate=2"]) == 0
    said = capsys.readouterr().out
    assert "6 steps, 96 views, fp32; estimated memory of one GPU, not measured" in said
    assert "micro-batch of 8 views; run.accumulate=1 fits a GPU of 80 GB" in said
    assert said.count("estimated memory") == 1 and len(said.splitlines()) == 4  # a line for each protocol, and this one
    monkeypatch.setattr("cskd_bench.transfer.size.gpu_memory", lambda: 10**6)
    assert main([*words, "--protocol", "finetune"]) == 0
    assert "no run.accumulate fits a GPU of 0 GB" in capsys.readouterr().out


def test_a_killed_scoring_of_test_goes_on_from_what_is_kept(place, tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "PART", 8)  # images in a file: test has three of them
    stop, calls = stop_at(monkeypatch, finetune, "first_classes", 2)
    with pytest.raises(Interrupted, match="predictions of 16 of 24 images are kept"):
        tune(place, tmp_path, stop=stop)
    stop.requested, before = False, len(calls)
    record = tune(place, tmp_path)
    assert len(calls) == before + 1
    undisturbed = tune(place, tmp_path / "other")
    np.testing.assert_array_equal(confidences(record, tmp_path), confidences(undisturbed, tmp_path / "other"))
