"""CSKDTask in a loop: labels, errors, precisions, compilation, checkpoints."""

import copy
import inspect
import warnings

import pytest
import timm
import torch
from timm.data import Mixup
from timm.optim import create_optimizer_v2
from timm.task import TrainingTask, resume_task_checkpoint
from timm.utils import CheckpointSaver, unwrap_model

from cskd_bench import CSKDLoss, CSKDTask, Student, Teacher, load_run
from cskd_bench.api.loss import CSKDSettings
from cskd_bench.config import CSKD, DeiT, PlainKD, Supervised
from cskd_bench.errors import UserError
from cskd_bench.methods import METHODS
from cskd_bench.outputs import Targets

SMALL = {"img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 3, "num_classes": 5}


def vit(name="deit_tiny_distilled_patch16_224", **options):
    torch.manual_seed(0)
    return timm.create_model(name, **(SMALL | options))


def cnn(classes=5):
    torch.manual_seed(1)
    model = timm.create_model("test_byobnet", num_classes=classes)
    model.head.fc.weight.data.mul_(30)  # an untrained head says the same of every image
    return model


def new_task(loss=None, epochs=10, **options):
    return CSKDTask(vit(), Teacher.from_timm(cnn(), image_size=64), loss, epochs=epochs, **options)


@pytest.fixture
def batch():
    torch.manual_seed(2)
    return torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 4])


def test_it_is_a_timm_task_with_the_losses_of_the_method(batch):
    images, labels = batch
    task = new_task(CSKDLoss(alpha=0.3, decay="quadratic"), mean=(0, 0, 0), std=(1, 1, 1))
    assert isinstance(task, TrainingTask)
    task.set_epoch(4)
    assert task.ratio == pytest.approx(0.36)
    result = task(images, labels)
    method, config = METHODS["cskd"], CSKD(alpha=0.3, decay="quadratic")
    targets = method.targets(config, task.teacher(images), task.ratio)
    student = task.student.student
    by_hand = method.losses(config, student(images, (2, 2)), targets, torch.eye(5)[labels])
    assert result["loss"] == by_hand["total"]
    for name in ("label", "global", "spatial"):
        assert result[name] == by_hand[name]
    assert result["output"].shape == (4, 5)


@pytest.mark.parametrize("method", [CSKD(), DeiT(), PlainKD()], ids=["cskd", "deit", "kd"])
def test_a_vit_teaches(method, batch):
    images, labels = batch
    model = vit("deit_tiny_patch16_224" if method.kind == "kd" else "deit_tiny_distilled_patch16_224")
    teacher = vit("vit_tiny_patch16_224", img_size=96)
    task = CSKDTask(Student(model, CSKDLoss(method).heads), teacher, CSKDLoss(method), epochs=2)
    assert task.teacher.image_size == 96 and task.teacher.model is teacher
    result = task(images, labels)
    result["loss"].backward()
    assert result["loss"].isfinite() and model.head.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_integer_and_soft_labels_are_the_same_where_they_say_the_same(batch):
    images, labels = batch
    task = new_task()
    assert task(images, labels)["loss"] == task(images, torch.eye(5)[labels])["loss"]
    mixed, soft = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, num_classes=5)(images.clone(), labels)
    task(mixed, soft)["loss"].backward()
    assert all(parameter.grad is not None for parameter in task.parameters())


def test_images_are_taken_back_to_what_the_loader_had(batch):
    """Student and teacher normalise for themselves: the loader's normalisation must not matter."""
    images, labels = batch
    plain = new_task(mean=(0, 0, 0), std=(1, 1, 1))(images, labels)["loss"]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    own = new_task()((images - mean) / std, labels)
    half = new_task(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))((images - 0.5) / 0.5, labels)
    torch.testing.assert_close(own["loss"], plain, atol=1e-5, rtol=0)
    torch.testing.assert_close(half["loss"], plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [48, 64, 128])
def test_views_of_any_size_reach_student_and_teacher_in_theirs(size):
    assert new_task()(torch.randn(2, 3, size, size), torch.tensor([0, 1]))["loss"].isfinite()


@pytest.mark.parametrize("method", [Supervised(), PlainKD(), DeiT()])
def test_other_methods_train_every_weight_that_asks_for_a_gradient(method, batch):
    model = vit() if method.kind == "deit" else vit("deit_tiny_patch16_224")
    task = CSKDTask(model, Teacher.from_timm(cnn(), image_size=64), CSKDLoss(method), epochs=10)
    task(*batch)["loss"].backward()
    assert all(parameter.grad is not None for parameter in task.parameters() if parameter.requires_grad)


def test_a_plain_loss_on_a_distilled_model_leaves_its_other_head_alone(batch):
    task = CSKDTask(vit(), None, CSKDLoss(Supervised()), epochs=10)
    task(*batch)["loss"].backward()
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in task.parameters())
    assert not task.student.student.model.head_dist.weight.requires_grad


def test_targets_of_a_bank_replace_the_teacher(batch):
    images, labels = batch
    with_teacher, without = new_task(), CSKDTask(vit(), None, epochs=10)
    known = with_teacher._teacher_targets(images)
    assert without(images, labels, targets=known)["loss"] == with_teacher(images, labels)["loss"]
    with pytest.raises(UserError, match="teacher: is None, and no targets were given"):
        without(images, labels)
    assert isinstance(known, Targets)


def test_a_timm_checkpoint_goes_on_where_it_stopped_and_is_a_timm_models(batch, tmp_path):
    task = new_task()
    task.set_epoch(3)
    state = task.get_checkpoint_state()
    assert state.keys() == {"state_dict", "task_state"}
    timm.create_model("deit_tiny_distilled_patch16_224", **SMALL).load_state_dict(state["state_dict"])
    torch.save(state, tmp_path / "last.pth.tar")
    read = torch.load(tmp_path / "last.pth.tar", weights_only=True)
    again = CSKDTask(vit(drop_rate=0.0), Teacher.from_timm(cnn(), image_size=64), epochs=10)
    torch.nn.init.zeros_(again.student.student.model.head.weight)
    again.load_checkpoint_state(read["state_dict"], read["task_state"])
    assert again.epoch == 3 and again(*batch)["loss"] == task(*batch)["loss"]


def test_a_weights_file_of_a_timm_loop_is_read_by_load_run(tmp_path):
    student = Student.from_timm("deit_tiny_patch16_224")
    task = CSKDTask(student, None, epochs=1)
    torch.save(task.get_checkpoint_state(), tmp_path / "last.pth.tar")
    loaded = load_run(tmp_path / "last.pth.tar", model="cskd_tiny_patch16_224")
    views = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(loaded.student.predict(views), student.eval().predict(views))


def test_state_dict_has_the_student_once_without_the_teacher():
    task = new_task()
    task.set_epoch(6)
    names = {f"student.{name}" for name in task.student.student.model.state_dict()}
    assert task.state_dict().keys() == names | {"_extra_state"}
    task.compile(backend="aot_eager")
    assert task.state_dict().keys() == names | {"_extra_state"}
    assert task.get_checkpoint_state()["state_dict"].keys() == {name.removeprefix("student.") for name in names}
    again = new_task()
    again.load_state_dict(task.state_dict())
    assert again.ratio == pytest.approx(0.4)


def test_a_register_token_student_keeps_its_own_head(batch):
    model = vit("vit_tiny_patch16_224", reg_tokens=1)
    task = CSKDTask(model, Teacher.from_timm(cnn(), image_size=64), epochs=10)
    state = task.get_checkpoint_state()["state_dict"]
    assert {"head_dist.weight", "reg_token", "head.weight"} <= state.keys()
    again = copy.deepcopy(task)
    torch.nn.init.zeros_(again.student.student.head_dist.weight)
    again.load_checkpoint_state(state)
    assert again(*batch)["loss"] == task(*batch)["loss"]


def test_the_evaluated_model_gives_the_methods_inference(batch):
    task = new_task()
    model = task.get_eval_model().eval()
    student = task.student.student
    views = task.unnormalize(batch[0])
    torch.testing.assert_close(model(batch[0]), student.predict(views))
    task.setup_ema(decay=0.5)
    torch.nn.init.zeros_(student.model.head.weight)
    task.update_ema(step=2)  # timm copies at its first step
    averaged = unwrap_model(task.get_eval_model(ema=True)).student.model.head.weight
    torch.testing.assert_close(averaged, vit().head.weight / 2)
    assert task.get_checkpoint_state(ema=True)["state_dict_ema"].keys() == student.model.state_dict().keys()


def test_compiled_it_has_the_same_losses_and_no_graph_of_a_ratio(batch):
    plain, task = new_task(), new_task()
    assert task.compile(backend="aot_eager") is task.get_eval_model()
    compiled = []
    for epoch in range(4):
        for one in (plain, task):
            one.set_epoch(epoch)
        result = task(*batch)
        result["loss"].backward()
        torch.testing.assert_close(result["loss"], plain(*batch)["loss"], atol=1e-6, rtol=0)
        compiled.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert len(set(compiled)) == 1
    torch._dynamo.reset()


def test_autocast_leaves_losses_and_the_teacher_in_fp32(batch):
    task, seen = new_task(), []
    teacher_forward = task.teacher.forward
    task.teacher.forward = lambda views: seen.append(teacher_forward(views)) or seen[-1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = task(*batch)
    assert result["output"].dtype == torch.bfloat16
    assert {result[name].dtype for name in ("loss", "label", "global", "spatial")} == {torch.float32}
    assert torch.equal(seen[0].dense, teacher_forward(task.unnormalize(batch[0])).dense)
    result["loss"].backward()
    assert result["loss"].item() == pytest.approx(new_task()(*batch)["loss"].item(), rel=0.05)


def test_a_grad_scaler_changes_nothing_but_the_scale(batch):
    scaled, plain = new_task(), new_task()
    for task, scaler in ((scaled, torch.amp.GradScaler("cpu", init_scale=2.0**8)), (plain, None)):
        optimizer = torch.optim.SGD(task.parameters(), lr=0.1)
        loss = task(*batch)["loss"]
        if scaler is None:
            loss.backward()
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            assert scaler.get_scale() == 2.0**8
    for ours, theirs in zip(scaled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_fp16_under_a_grad_scaler_takes_finite_steps(batch):
    task, scaler = new_task(), torch.amp.GradScaler("cpu")
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-3)
    losses = []
    for _ in range(6):
        with torch.autocast("cpu", dtype=torch.float16):
            loss = task(*batch)["loss"]
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_the_ratio_follows_the_epoch_to_the_end_and_stays_there():
    task = new_task(epochs=4)
    ratios = []
    for epoch in range(6):
        task.set_epoch(epoch)
        ratios.append(task.ratio)
    assert ratios == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]


def test_a_loop_that_never_says_its_epoch_is_told_once(batch):
    task = new_task()
    task.train()
    task(*batch)
    with pytest.warns(UserWarning, match="call set_epoch"):
        task.train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task.train()


@pytest.mark.parametrize("decay", ["linear", "local"])
def test_a_loop_that_says_its_epoch_or_has_one_ratio_is_not_told(batch, decay):
    task = new_task(CSKDLoss(decay=decay))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for epoch in range(3):
            if decay == "linear":
                task.set_epoch(epoch)
            task.train()
            task(*batch)


def test_the_teacher_moves_along_but_keeps_its_arithmetic():
    task = new_task().double()
    assert task.student.student.model.head.weight.dtype == torch.float64
    assert next(task.teacher.parameters()).dtype == torch.float32
    assert not task.train().teacher.training and not task.teacher.model.training


def refused(words, make):
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert isinstance(error.value, UserError)


def test_models_that_do_not_fit_are_refused_in_a_sentence():
    teacher = Teacher.from_timm(cnn(), image_size=64)
    refused("no distillation token", lambda: CSKDTask(vit("deit_tiny_patch16_224"), teacher, epochs=1))
    refused("not a ViT with patch tokens", lambda: CSKDTask(cnn(), teacher, epochs=1))
    refused(
        "no class token", lambda: Student(vit("vit_tiny_patch16_224", reg_tokens=1, global_pool="avg"), "class+dist")
    )
    refused("teacher: has 7 classes, the student 5", lambda: CSKDTask(vit(), cnn(7), epochs=1))
    refused("no feature map .* is no plain ViT", lambda: Teacher.from_timm(timm.create_model("levit_128s")))
    refused("not a timm model", lambda: Teacher.from_timm(torch.nn.Linear(2, 2)))
    refused("no model 'nothing'", lambda: CSKDTask(vit(), "nothing", epochs=1))
    refused("answers by 'class', this loss trains", lambda: CSKDTask(Student(vit(), "class"), teacher, epochs=1))
    refused("epochs: is 0", lambda: CSKDTask(vit(), teacher, epochs=0))
    refused("std above 0", lambda: CSKDTask(vit(), teacher, epochs=1, std=(0, 1, 1)))
    refused("epoch: is -1", lambda: CSKDTask(vit(), teacher, epochs=1).set_epoch(-1))


def test_settings_that_a_loss_does_not_have_are_refused():
    refused("alpha", lambda: CSKDLoss(alpha=2.0))
    refused("beta", lambda: CSKDLoss(beta=1.0))
    refused("not both", lambda: CSKDLoss(DeiT(), alpha=0.3))
    assert CSKDSettings.__annotations__.keys() == CSKD.model_fields.keys() - {"kind"}


@pytest.mark.parametrize("labels", [torch.zeros(3, dtype=torch.long), torch.zeros(4, 4), torch.zeros(4)])
def test_labels_of_another_shape_are_refused(labels):
    task = new_task()
    refused(r"give class indices \(4,\)", lambda: task(torch.randn(4, 3, 64, 64), labels))


def test_images_of_another_shape_are_refused():
    refused("give square ones", lambda: new_task()(torch.randn(2, 3, 64, 32), torch.tensor([0, 1])))


def test_a_teacher_of_more_classes_lends_those_that_are_named(batch):
    task = CSKDTask(vit(), Teacher.from_timm(cnn(9), image_size=64, class_indices=[8, 1, 0, 3, 2]), epochs=1)
    assert task.teacher.num_classes == 5
    assert task(*batch)["loss"].isfinite()


def test_models_without_a_timm_configuration_are_normalised_as_timm_does():
    model = vit()
    del model.pretrained_cfg
    assert Student(model, "class+dist").mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_forward_takes_timms_arguments():
    assert list(inspect.signature(CSKDTask.forward).parameters)[:3] == ["self", "input", "target"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("settings", [{}, {"global_loss": "soft", "spatial_loss": "soft"}])
def test_a_task_of_another_type_trains_and_evaluates(dtype, settings, batch):
    images, labels = batch
    task = new_task(CSKDLoss(**settings)).to(dtype)
    for given in (images, images.to(dtype)):
        result = task(given, labels)
        result["loss"].backward()
        assert result["output"].dtype == dtype and result["loss"].isfinite()
        assert task.get_eval_model()(given).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.complex64])
def test_pixels_that_no_loader_normalised_are_refused(dtype):
    refused(f"images: are {dtype}", lambda: new_task()(torch.zeros(2, 3, 64, 64, dtype=dtype), torch.tensor([0, 1])))


@pytest.mark.parametrize("label", [5, -1, -100])
def test_labels_of_no_class_are_refused(label, batch):
    refused(f"labels: run from .*{label}.*5 classes", lambda: new_task()(batch[0], torch.tensor([0, 1, 2, label])))


def test_students_whose_steps_the_heads_would_pass_by_are_refused(batch):
    teacher = Teacher.from_timm(cnn(), image_size=64)
    refused("64 x 96 px", lambda: CSKDTask(vit(img_size=(64, 96)), teacher, epochs=1))
    plain = {"name": "vit_tiny_patch16_224", "reg_tokens": 1}
    refused("patch_drop_rate=0", lambda: CSKDTask(vit(**plain, patch_drop_rate=0.5), teacher, epochs=1))
    refused("fc_norm=False", lambda: CSKDTask(vit(**plain, fc_norm=True), teacher, epochs=1))
    refused("is wrapped", lambda: CSKDTask(torch.compile(vit(), backend="eager"), teacher, epochs=1))
    refused("heads='patch'; there are 'class'", lambda: Student(vit(), "patch"))


def test_a_criterion_that_is_no_cskd_loss_is_refused(batch):
    for criterion in (torch.nn.CrossEntropyLoss(), DeiT(), CSKDLoss):
        refused("give a CSKDLoss", lambda given=criterion: CSKDTask(vit(), None, given, epochs=1))
    refused("method is 'deit'", lambda: CSKDLoss("deit"))

    class Partial(CSKDLoss):
        def forward(self, output, targets, labels):
            return {"mine": output.class_logits.sum()}

    refused("gives mine, but no 'total'", lambda: new_task(Partial())(*batch))


@pytest.mark.parametrize("number", [None, 2.5, float("nan"), "3"])
def test_epochs_are_whole_numbers(number):
    refused("epochs: is", lambda: CSKDTask(vit(), None, epochs=number))
    refused("epoch: is", lambda: new_task().set_epoch(number))


@pytest.mark.parametrize("mean", [0.5, (float("nan"), 0, 0), (0.5, 0.5)])
def test_a_mean_that_is_no_three_numbers_is_refused(mean):
    refused("give three numbers each", lambda: new_task(mean=mean))


def test_targets_of_other_views_are_refused(batch):
    task = new_task()
    right = task._teacher_targets(batch[0])
    for wrong, words in (
        (Targets(), "global_target and spatial_target missing"),
        (Targets(right.global_target), "spatial_target missing"),
        (Targets(right.global_target[:2], right.spatial_target), r"global_target is \(2,\)"),
        (Targets(right.global_target, right.spatial_target.flatten(1)), r"give class indices \(4, h, w\)"),
        (Targets(right.global_target, right.spatial_target.int()), "of int64"),
    ):
        refused(words, lambda given=wrong: task(*batch, targets=given))


@pytest.mark.parametrize("indices", [[0, 1, 2, 3, 9], [0, 1, 2, 3, -1], [0.0, 1, 2, 3, 4]])
def test_a_teachers_outputs_that_it_does_not_have_are_refused(indices):
    refused("from 0 to 8", lambda: Teacher.from_timm(cnn(9), image_size=64, class_indices=indices))


def test_a_teachers_size_and_precision_are_not_guessed():
    refused("does not run at 0 px", lambda: Teacher.from_timm(cnn(), image_size=0))
    refused("there are fp32", lambda: Teacher.from_timm(cnn(), image_size=64, precision="bf17"))


def test_compile_after_ddp_is_refused(monkeypatch):
    """It would train the student without its wrapper, each rank for itself."""

    class Wrapped(torch.nn.Module):
        def __init__(self, module, **options):
            super().__init__()
            self.module = module

    monkeypatch.setattr("cskd_bench.api.training_task.DistributedDataParallel", Wrapped)
    task = new_task().prepare_distributed()
    refused("call compile before prepare_distributed", lambda: task.compile(backend="eager"))


def test_the_average_is_kept_once_under_the_same_names_whatever_is_compiled(batch):
    plain, compiled = new_task(), new_task()
    plain.setup_ema()
    compiled.compile(backend="eager")
    compiled.setup_ema()
    compiled.compile_ema(backend="eager")
    compiled.update_ema(step=1)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(compiled.state_dict())
    views = batch[0]
    torch.testing.assert_close(compiled.get_eval_model(ema=True)(views), plain.get_eval_model(ema=True)(views))


@pytest.mark.parametrize("options", [{}, {"name": "vit_tiny_patch16_224", "reg_tokens": 1}])
def test_layer_wise_learning_rates_are_those_of_the_timm_model(options):
    def scales(model):
        groups = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.75).param_groups
        return {parameter.shape: group["lr_scale"] for group in groups for parameter in group["params"]}

    task = CSKDTask(vit(**options), None, epochs=1)
    assert scales(task.get_trainable_module()) == scales(task.student.student.model)
    assert len(set(scales(task.get_trainable_module()).values())) > 2


def test_a_task_is_written_whole_and_read_again(batch, tmp_path):
    task = new_task()
    torch.save(task, tmp_path / "task.pt")
    again = torch.load(tmp_path / "task.pt", weights_only=False)
    assert again.trainable_module is again.student
    assert again(*batch)["loss"] == task(*batch)["loss"]


def test_task_state_of_another_task_leaves_the_epoch():
    task = new_task()
    task.set_epoch(3)
    task.load_checkpoint_state(task.get_checkpoint_state()["state_dict"], {"projection": None})
    assert task.epoch == 3


def test_timms_saver_and_resume_work(batch, tmp_path):
    task = new_task()
    task.setup_ema(decay=0.5)
    optimizer = create_optimizer_v2(task.get_trainable_module(), opt="adamw", lr=1e-3)
    saver = CheckpointSaver(
        task.student, optimizer, task=task, checkpoint_dir=str(tmp_path), recovery_dir=str(tmp_path)
    )
    task.set_epoch(4)
    task(*batch)["loss"].backward()
    optimizer.step()
    task.update_ema(step=1)
    saver.save_checkpoint(4, metric=1.0)
    again = new_task()
    other = create_optimizer_v2(again.get_trainable_module(), opt="adamw", lr=1e-3)
    assert resume_task_checkpoint(again, tmp_path / "last.pth.tar", other) == 5
    assert again.epoch == 4 and again(*batch)["loss"] == task(*batch)["loss"]
