"""Fine-tuning with a teacher: its method's heads learn and answer, and who taught is part of what names a score."""

import itertools
import json
import shutil
import time

import numpy as np
import pytest
import torch
from helpers import processes
from helpers.runs import random_run
from helpers.tiny import save_model
from safetensors.torch import load_file

from cskd_bench.api.runs import run_task
from cskd_bench.bench.plan import Benchmark, expand
from cskd_bench.bench.registration import resolve_plan
from cskd_bench.bench.rerun import transfer_again
from cskd_bench.cli import main
from cskd_bench.config import Supervised
from cskd_bench.data.mixing import resize_view
from cskd_bench.engine import training
from cskd_bench.engine.distributed import Ranks
from cskd_bench.errors import Interrupted, UserError
from cskd_bench.export import export_timm
from cskd_bench.methods import METHODS
from cskd_bench.models.checkpoints import load_checkpoint
from cskd_bench.models.run_summary import read_summary
from cskd_bench.outputs import Targets
from cskd_bench.record import read_records, sha256_file
from cskd_bench.report import words
from cskd_bench.report.compare import compare
from cskd_bench.report.recompute import contradictions
from cskd_bench.report.selection import select, setting_of
from cskd_bench.stopping import Stop
from cskd_bench.task import load_task
from cskd_bench.transfer import finetune
from cskd_bench.transfer.readiness import why_unready
from cskd_bench.transfer.run import open_cell, transfer
from cskd_bench.transfer.size import estimate_memory

CPU = Ranks(0, 1, torch.device("cpu"))
TASK = """
protocols = ["finetune", "linear", "lowlabel", "evaluate"]
image_size = 32
[data]
root = "{data}"
num_classes = 3
eval_crop = 1.0
[finetune]
epochs = 2
batch_size = 16
[finetune.optim]
lr = 3e-3
[lowlabel]
fractions = [0.5]
classifier = "finetune"
"""
HEADS = {"supervised": "class", "kd": "class", "deit": "class+dist", "cskd": "class+dist+patch"}


@pytest.fixture(scope="module")
def place(tmp_path_factory, colour_squares):
    """A folder with a finished run of each method, a teacher of the three colours and a task of them."""
    folder = tmp_path_factory.mktemp("taught")
    save_model(folder / "teacher.safetensors", num_classes=3)
    save_model(folder / "other.safetensors", num_classes=3, seed=1)
    for kind in ("supervised", "deit", "cskd"):
        random_run(folder / "runs" / kind, kind)
    (folder / "squares.toml").write_text(TASK.format(data=colour_squares))
    return folder


def taught(place, kind, weights="teacher.safetensors", **more):
    """Return the settings of a fine-tuning with a method and a teacher of 64 px, as --set takes them."""
    teacher = {"name": "test_byobnet", "weights": place / weights, "image_size": 64} | more
    return [f"finetune.method.kind={kind}", *(f"finetune.teacher.{key}={value}" for key, value in teacher.items())]


def task_of(place, *settings):
    return load_task(str(place / "squares.toml"), None, settings)


def tune(place, where, run, *settings, protocol="finetune", stop=None, keep=True):
    return transfer(
        task_of(place, *settings), protocol, place / "runs" / run, 0,
        results=where / "results", work=where / "work", ranks=CPU, workers=0, keep_weights=keep, stop=stop,
    )  # fmt: skip


def cell_of(place, run, *settings, protocol="finetune"):
    return open_cell(task_of(place, *settings), protocol, place / "runs" / run, 0, work=place / "w", ranks=CPU)


def sha(place, weights="teacher.safetensors"):
    return sha256_file(place / weights)[:12]


def odd(record):
    """Return what a record's settings contradict; the invented pretraining's record of its method is empty."""
    return [said for said in contradictions(record) if not said.startswith("its method.config")]


def confidences(record, where):
    with np.load(where / "results" / "records" / record.per_example.name) as side:
        return side["confidence"]


def write_task(place, folder, kind, weights="teacher.safetensors"):
    """Write the task with a method and a teacher of its own and return its file."""
    teacher = f'{{ name = "test_byobnet", weights = "{place / weights}", image_size = 64 }}'
    whole = TASK.format(data=task_of(place).data.root)
    stated = whole.replace("[finetune]", f'[finetune]\nmethod = {{ kind = "{kind}" }}\nteacher = {teacher}')
    (folder / "squares.toml").write_text(stated)
    return folder / "squares.toml"


def words_of(place, where, *settings, run="deit", protocol="finetune"):
    sets = [word for setting in settings for word in ("--set", setting)]
    return [
        *("transfer", "--task", place / "squares.toml", "--protocol", protocol, "--checkpoint", place / "runs" / run),
        *("--workers", "0", "--results", where / "results", "--runs", where / "runs", *sets),
    ]  # fmt: skip


# -- what learns, and what answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "kind"),
    [("deit", "deit"), ("cskd", "deit"), ("deit", "cskd"), ("cskd", "cskd"), ("cskd", "kd"), ("supervised", "kd")],
)
def test_the_methods_heads_learn_and_answer_and_the_folder_reopens(place, tmp_path, run, kind):
    record = tune(place, tmp_path, run, *taught(place, kind))
    folder = tmp_path / "work" / record.id
    opened = load_checkpoint(folder)
    assert opened.student.heads == HEADS[kind]
    first, last = record.curve[0], record.curve[-1]
    assert last["label"] < first["label"] and last["total"] < first["total"] and last["global"] != first["global"]
    assert ("spatial" in last) == (kind == "cskd")
    again = tune(place, tmp_path, folder, protocol="evaluate")
    np.testing.assert_array_equal(confidences(again, tmp_path), confidences(record, tmp_path))
    tuning, teacher = read_summary(folder).tuning, f"test_byobnet@{sha(place)}"
    assert (tuning.method.kind, tuning.teacher) == (kind, teacher)
    assert again.config["finetuned"]["teacher"] == teacher and again.config["finetuned"]["method"]["kind"] == kind
    assert odd(record) == odd(again) == []


def test_the_loop_is_given_method_teacher_and_views_of_the_larger_size(place, tmp_path, monkeypatch):
    jobs = []

    def fit(job, *_):
        jobs.append(job)
        raise InterruptedError

    monkeypatch.setattr(finetune, "fit", fit)
    larger = "finetune.augment.view_size=96"
    for settings in (taught(place, "cskd"), [*taught(place, "cskd"), larger], taught(place, "kd", image_size=24), []):
        with pytest.raises(InterruptedError):
            tune(place, tmp_path, "cskd", *settings)
    assert [(job.view_size, job.image_size) for job in jobs] == [(64, 32), (96, 32), (32, 32), (32, 32)]
    assert [job.method.kind for job in jobs] == ["cskd", "cskd", "kd", "supervised"]
    assert [job.targets.grid for job in jobs] == [(2, 2), (2, 2), None, None]
    assert [job.targets.labels_from for job in jobs] == ["teacher", "teacher", "teacher", "none"]


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_the_teachers_loss_reaches_the_distillation_head(place, tmp_path, alpha):
    """The bias of a head without a gradient stays: weight decay leaves biases alone."""
    settings = [*taught(place, "deit"), f"finetune.method.alpha={alpha}"]
    cell = cell_of(place, "deit", *settings)
    before = finetune.new_student(cell, cell.spec.finetune).state_dict()["model.head_dist.bias"]
    record = tune(place, tmp_path, "deit", *settings)
    after = load_file(tmp_path / "work" / record.id / "model.safetensors")["head_dist.bias"]
    assert torch.equal(before, after) == (alpha == 0)


def test_another_teachers_labels_train_another_student(place, tmp_path):
    one, other = (
        tune(place, tmp_path, "deit", *taught(place, "deit", weights))
        for weights in ("teacher.safetensors", "other.safetensors")
    )
    assert one.id != other.id and (confidences(one, tmp_path) != confidences(other, tmp_path)).any()


def test_a_teacher_of_the_class_head_leaves_the_distillation_head_alone(place):
    cell = cell_of(place, "cskd", *taught(place, "kd"))
    student = finetune.new_student(cell, cell.spec.finetune)
    assert student.heads == "class" and student(torch.rand(1, 3, 32, 32)).class_logits.shape == (1, 3)
    assert not any(parameter.requires_grad for parameter in student.distillation_head.parameters())
    assert torch.equal(student.predict(views := torch.rand(2, 3, 32, 32)), student(views).class_logits)


def test_a_head_that_was_dropped_learns_again_under_a_method_that_has_it(place, tmp_path):
    dropped = tune(place, tmp_path, "deit", "finetune.distillation_token=drop")
    folder = tmp_path / "work" / dropped.id
    cell = cell_of(place, folder, *taught(place, "deit"))
    student = finetune.new_student(cell, cell.spec.finetune)
    assert cell.model.student.heads == "class" and student.heads == "class+dist"
    assert all(parameter.requires_grad for parameter in student.distillation_head.parameters())


@pytest.mark.parametrize("kind", ["supervised", "kd", "deit", "cskd"])
@pytest.mark.parametrize("run", ["deit", "cskd", "dropped"])
def test_every_weight_that_learns_has_a_gradient(place, run, kind):
    """Ranks wait for each of them."""
    cell = cell_of(place, "deit" if run == "dropped" else run, *(taught(place, kind) if kind != "supervised" else []))
    if run == "dropped":
        cell.model.student.drop_distillation_head()
    recipe, views = cell.spec.finetune, torch.rand(2, 3, 64, 64)
    student, method = finetune.new_student(cell, recipe), recipe.method or Supervised()
    output = student(resize_view(views, 32), cell.targets.grid)
    targets = cell.targets(views, Targets(), 0.5)
    METHODS[method.kind].losses(method, output, targets, torch.eye(3)[:2])["total"].backward()
    learning = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    reached = {name for name, parameter in student.named_parameters() if parameter.grad is not None}
    assert learning == reached and any("head" in name for name in reached)


# -- every way to a record --------------------------------------------------------------------------------------------


def test_the_verb_fine_tunes_with_a_teacher_and_its_record_says_so(place, tmp_path, capsys):
    assert main([str(word) for word in words_of(place, tmp_path, *taught(place, "deit"))]) == 0
    ((_, record),) = read_records(tmp_path / "results" / "records")
    tuning = record.config["task"]["finetune"]
    assert tuning["method"] == {"kind": "deit", "alpha": 0.5, "global_loss": "hard", "temperature": 1.0}
    assert tuning["teacher"]["weights"] == f"test_byobnet@{sha(place)}" and tuning["teacher"]["num_classes"] == 3
    assert str(place) not in json.dumps(record.config)
    assert (record.method.kind, record.method.teacher) == ("deit", "test_byobnet@12345678")  # of the pretraining
    assert (record.labels_from, record.cost.labelling_seconds, record.hardware.tf32) == ("teacher", 0, False)
    assert "weights: " in capsys.readouterr().out


def test_a_task_file_may_hold_a_teacher_and_python_runs_it(place, tmp_path):
    folders = {"results": tmp_path / "results", "work": tmp_path / "work", "workers": 0}
    record = run_task(write_task(place, tmp_path, "kd"), place / "runs" / "deit", protocol="finetune", **folders)
    assert record.id == cell_of(place, "deit", *taught(place, "kd")).name and record.labels_from == "teacher"


def test_low_label_fine_tuning_has_the_teacher_too(place, tmp_path):
    record = tune(place, tmp_path, "deit", *taught(place, "deit"), protocol="lowlabel")
    assert record.labels_from == "teacher" and "global" in record.curve[-1]
    assert odd(record) == []


def test_every_rate_of_a_grid_is_tried_with_the_teacher(place, tmp_path, monkeypatch):
    methods, whole = [], finetune.fit
    monkeypatch.setattr(finetune, "fit", lambda job, *rest: methods.append(job.method.kind) or whole(job, *rest))
    record = tune(place, tmp_path, "deit", *taught(place, "deit"), "finetune.lr_grid=[1e-3, 3e-3]")
    assert methods == ["deit"] * 3 and record.metrics["chosen_lr"] in (1e-3, 3e-3)
    assert odd(record) == []


def test_a_stopped_fine_tuning_goes_on_to_the_same_bits(place, tmp_path, monkeypatch):
    stop, steps, whole = Stop(), itertools.count(1), training.learning_rate

    def fourth(*given):
        stop.requested = stop.requested or next(steps) == 4
        return whole(*given)

    monkeypatch.setattr(training, "learning_rate", fourth)
    settings = [*taught(place, "cskd"), "finetune.ema_decay=0.5", "finetune.augment.mixup=0.8", "run.save_every=1"]
    settings += ["finetune.augment.mix_group=8"]
    with pytest.raises(Interrupted, match="after step 4 of 6"):
        tune(place, tmp_path, "cskd", *settings, stop=stop)
    monkeypatch.undo()
    record, other = (tune(place, where, "cskd", *settings) for where in (tmp_path, tmp_path / "other"))
    assert (record.resumptions, other.resumptions) == (1, 0) and record.curve == other.curve
    ours, theirs = (load_file(where / "work" / record.id / "model.safetensors") for where in (
        tmp_path, tmp_path / "other"
    ))  # fmt: skip
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.gate
def test_a_killed_fine_tuning_goes_on_to_the_same_bits(place, tmp_path):
    settings = [*taught(place, "deit"), "run.save_every=1"]
    words = [processes.CSKD_BENCH, words_of(place, tmp_path / "killed", *settings)]
    process = processes.start(itertools.chain(*words))
    work = tmp_path / "killed" / "runs" / "transfer"
    while not list(work.glob("*/checkpoints/step-*2")):
        assert process.poll() is None, processes.finish(process)
        time.sleep(0.01)
    processes.kill(process)
    processes.finish(process)
    killed, undisturbed = (tmp_path / name for name in ("killed", "undisturbed"))
    for where in (killed, undisturbed):
        processes.run_cskd_bench(*words_of(place, where, *settings))
    ((_, one),), ((_, other),) = (list(read_records(where / "results" / "records")) for where in (killed, undisturbed))
    varying = {"created", "started", "resumptions", "cost", "command", "argv"}
    assert (one.resumptions, other.resumptions) == (1, 0)
    assert one.model_dump(exclude=varying) == other.model_dump(exclude=varying)


@pytest.mark.gate
@pytest.mark.parametrize(("run", "kind"), [("cskd", "cskd"), ("cskd", "deit"), ("cskd", "kd")])
def test_two_ranks_come_to_the_record_of_one(place, tmp_path, run, kind):
    settings = taught(place, kind)
    words = words_of(place, tmp_path / "two", *settings, run=run)
    processes.end(processes.start([*processes.TWO_RANKS, "-m", "cskd_bench.cli", *words]))
    ((_, two),) = read_records(tmp_path / "two" / "results" / "records")
    one = tune(place, tmp_path / "one", run, *settings)
    assert two.id == one.id and (two.hardware.world, two.labels_from) == (2, "teacher")
    np.testing.assert_allclose(confidences(two, tmp_path / "two"), confidences(one, tmp_path / "one"), rtol=2e-2)


# -- refused before anything is trained -------------------------------------------------------------------------------


def faults(place):
    """Return run, settings and what is said, by a name."""
    save_model(place / "five.safetensors", num_classes=5)
    save_model(place / "xcit.safetensors", "xcit_nano_12_p16_224", num_classes=3)
    xcit = ["finetune.method.kind=cskd", "finetune.teacher.name=xcit_nano_12_p16_224"]
    xcit += ["finetune.teacher.image_size=64"]
    return {
        "no token": ("supervised", taught(place, "deit"), "trains a distillation token, and the checkpoint supervised"),
        "dropped": ("deit", [*taught(place, "deit"), "finetune.distillation_token=drop"], "leave the key out"),
        "no teacher": ("deit", ["finetune.method.kind=deit"], "method deit needs a teacher of the task's classes"),
        "no method": ("deit", taught(place, "deit")[1:], "teacher: nothing is asked of it"),
        "supervised": ("deit", taught(place, "supervised"), "teacher: nothing is asked of it"),
        "no file": ("deit", taught(place, "deit", "gone.safetensors"), "gone.safetensors: no such weights file"),
        "other classes": ("deit", taught(place, "deit", "five.safetensors"), "of 3 classes at 64 px: "),
        "five classes": ("deit", taught(place, "deit", "five.safetensors", num_classes=5), "its 5 classes cannot be"),
        "no map": ("cskd", [*xcit, f"finetune.teacher.weights={place / 'xcit.safetensors'}"], "has no feature map"),
        "no model": ("deit", taught(place, "deit", name="resnet5"), "timm has no model 'resnet5'"),
        "no method of that name": ("deit", taught(place, "dyt"), "finetune.method"),
    }


@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize(
    "fault",
    [
        *("no token", "dropped", "no teacher", "no method", "supervised", "no file", "other classes", "five classes"),
        *("no map", "no model", "no method of that name"),
    ],
)
def test_what_cannot_be_is_one_sentence_before_anything_is_trained(place, tmp_path, capsys, monkeypatch, fault, dry):
    monkeypatch.setattr(finetune, "fit", None)
    run, settings, said = faults(place)[fault]
    words = words_of(place, tmp_path, *settings, run=run) + ["--dry-run"] * dry
    assert main([str(word) for word in words]) == 2
    errors = capsys.readouterr().err
    assert said in errors and errors.count("\n") == 1, errors
    assert not (tmp_path / "results").exists()


def test_a_task_whose_teacher_does_not_fit_leaves_its_probes_alone(place, tmp_path, capsys):
    words = words_of(place, tmp_path, *taught(place, "deit", "gone.safetensors"), protocol="finetune,linear")
    assert main([str(word) for word in words]) == 1
    assert "gone.safetensors: no such weights file" in capsys.readouterr().out
    assert [record.protocol for _, record in read_records(tmp_path / "results" / "records")] == ["linear"]
    save_model(place / "five.safetensors", num_classes=5)
    wrong = task_of(place, *taught(place, "deit", "five.safetensors"))
    with pytest.raises(UserError, match=r"no fine-tuning with test_byobnet of 3 classes at 64 px: .* differs in shape"):
        cell_of(place, "deit", *taught(place, "deit", "five.safetensors")).check()  # which ranks call together
    assert "differs in shape" in why_unready(wrong, "lowlabel") and why_unready(wrong, "linear") == ""


def test_a_dry_run_says_who_teaches_and_counts_its_memory(place, tmp_path, capsys):
    def described(*settings):
        assert main([str(word) for word in [*words_of(place, tmp_path, *settings), "--dry-run"]]) == 0
        return capsys.readouterr().out

    assert f"6 steps, 96 views, fp32, method deit from test_byobnet@{sha(place)}; estimated" in described(
        *taught(place, "deit")
    )
    assert "6 steps, 96 views, fp32; estimated" in described()
    memory = [estimate_memory(cell_of(place, "deit", *settings)) for settings in ((), taught(place, "deit"))]
    teacher = sum(tensor.numel() for tensor in load_file(place / "teacher.safetensors").values())
    assert 0 < memory[1].state - memory[0].state < 4 * teacher and memory[1].per_view > memory[0].per_view


def test_the_doctor_looks_at_the_teacher_of_a_task(place, tmp_path, capsys):
    for weights, code, said in (
        ("teacher.safetensors", 0, f"test_byobnet@{sha(place)} at 64 px knows the task's classes"),
        ("gone.safetensors", 1, "gone.safetensors: no such weights file"),
    ):
        file = write_task(place, tmp_path, "deit", weights)
        assert main(["doctor", "--task", str(file), "--runs", str(tmp_path / "runs"), "--json"]) == code
        findings = json.loads(capsys.readouterr().out)
        assert said in json.dumps(findings)


# -- names ------------------------------------------------------------------------------------------------------------


def test_a_teacher_and_a_method_name_a_score_and_their_absence_does_not(place):
    usual = task_of(place)
    assert not {"method", "teacher"} & usual.model_dump()["finetune"].keys()
    assert task_of(place, "finetune.method.kind=supervised").identity() == usual.identity()
    several = [
        *([], taught(place, "deit"), taught(place, "kd"), taught(place, "deit", image_size=32)),
        *(taught(place, "deit", "other.safetensors"), [*taught(place, "deit"), "finetune.method.alpha=0.1"]),
    ]
    for protocol in ("finetune", "lowlabel"):
        cells = [cell_of(place, "deit", *settings, protocol=protocol) for settings in several]
        names = [(cell.name, str(cell.recipe), cell.spec.fingerprint(protocol)) for cell in cells]
        assert [len(set(column)) for column in zip(*names, strict=True)] == [len(several)] * 3
    probes = [cell_of(place, "deit", *settings, protocol="linear") for settings in several]
    assert len({cell.spec.fingerprint("linear") for cell in probes}) == 1


def test_a_teacher_is_the_same_wherever_its_file_lies(place, tmp_path, monkeypatch):
    shutil.copy(place / "teacher.safetensors", tmp_path / "copy.safetensors")
    name = cell_of(place, "deit", *taught(place, "deit")).name
    assert cell_of(place, "deit", *taught(place, "deit", tmp_path / "copy.safetensors")).name == name
    monkeypatch.setenv("CSKD_BENCH_DATA", str(tmp_path))
    relative = [*taught(place, "deit"), "finetune.teacher.weights=copy.safetensors"]
    assert cell_of(place, "deit", *relative).name == name


def test_the_fingerprint_that_is_validated_is_the_records(place, tmp_path, capsys):
    assert main(["tasks", "validate", str(write_task(place, tmp_path, "deit"))]) == 0
    said = capsys.readouterr().out
    for protocol in ("finetune", "lowlabel"):
        name = cell_of(place, "deit", *taught(place, "deit"), protocol=protocol).spec.fingerprint(protocol)
        assert f"{protocol:10} fingerprint {name}" in said


def test_the_card_of_an_export_names_who_taught(place, tmp_path):
    record = tune(place, tmp_path, "deit", *taught(place, "deit"))
    export_timm(tmp_path / "work" / record.id, tmp_path / "out", results=tmp_path / "results")
    then = f"| then | finetune on squares with deit from test_byobnet@{sha(place)} at 64 px, recipe `{record.recipe}` |"
    assert then in (tmp_path / "out" / "README.md").read_text()


def test_a_plans_cells_are_those_of_the_records_and_untaught_students_are_refused(place, tmp_path):
    (place / "student.toml").write_text("[student]\nimage_size = 32\n")
    plan = Benchmark(
        students=(str(place / "student.toml"),),
        methods=({"kind": "deit"}, {"kind": "cskd"}),
        seeds=(0, 1),
        tasks=(str(place / "squares.toml"),),
        protocols=("finetune",),
        task_settings=tuple(taught(place, "deit")),
        primary=({"method": "cskd", "against": "deit", "protocol": "finetune", "task": "squares"},),
    )
    cells, where = expand(plan, place / "plan.toml").transfer, place / "plan.toml"
    worker = cell_of(place, "deit", *taught(place, "deit")).spec.fingerprint("finetune")
    assert {cell.task.fingerprint("finetune") for cell in cells} == {worker} and len(cells) == 4
    assert [contrast.fingerprint for contrast in resolve_plan(plan, where).contrasts] == [worker]
    mixed = plan.model_copy(update={"methods": Benchmark.model_validate(
        {**plan.model_dump(), "methods": ({"kind": "supervised"},), "primary": ()}
    ).methods, "primary": ()})  # fmt: skip
    with pytest.raises(UserError, match="a student pretrained with method supervised has none; take a student"):
        expand(mixed, where)


def test_a_record_is_run_again_with_its_own_teacher_alone(place, tmp_path):
    record = tune(place, tmp_path, "deit", *taught(place, "deit"))
    named = [str(place / "squares.toml")]
    assert transfer_again(record, "deit", named, taught(place, "deit"), None).task.fingerprint("finetune") == (
        record.task.fingerprint
    )
    with pytest.raises(
        UserError, match=f"fine-tuning was test_byobnet@{sha(place)}, the weights here are test_byobnet@"
    ):
        transfer_again(record, "deit", named, taught(place, "deit", "other.safetensors"), None)


def test_a_report_names_method_and_teacher_of_a_column(place, tmp_path):
    settings = [[], taught(place, "deit"), [*taught(place, "kd", image_size=32), "finetune.method.alpha=0.3"]]
    records = [tune(place, tmp_path, "deit", *more, keep=False) for more in settings]
    found = select(tmp_path / "results" / "records", include_dirty=True)
    columns = [setting_of(record) for record in records]
    assert [words.column(column, columns) for column in columns] == [
        "fine-tune",
        f"fine-tune with deit from test_byobnet@{sha(place)} at 64 px",
        f"fine-tune with kd (alpha=0.3) from test_byobnet@{sha(place)} at 32 px",
    ]
    assert words.column(columns[1], columns[1:2]) == words.column(columns[1], columns)
    (note,) = found.notes
    assert "finetune.method (deit, kd (alpha=0.3)), finetune.teacher (test_byobnet@" in note
    (table,) = compare(tmp_path / "results" / "records", found).tables
    assert set(table.settings) == set(columns)
