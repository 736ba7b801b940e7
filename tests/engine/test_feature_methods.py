"""Methods with a projector: it is trained, kept and averaged over ranks with the student, and is no part of it."""

import sys
from pathlib import Path

import pytest
import torch
from helpers.processes import TWO_RANKS, end, finish, kill, start
from helpers.runs import small_student
from safetensors.torch import load_file
from torch.nn.utils.parametrizations import orthogonal

sys.path.insert(0, str(Path(__file__).parent))  # feature_ranks.py, which torchrun runs too

import feature_ranks

from cskd_bench.bank.build import build_bank
from cskd_bench.cells.pretrain import pretrain
from cskd_bench.config import Locality, OptimConfig, VkD, load_config
from cskd_bench.engine import training
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.estimate import estimate
from cskd_bench.engine.optim import build_optimizer
from cskd_bench.engine.projected import build_projector, with_projector
from cskd_bench.errors import UserError
from cskd_bench.export import export_timm
from cskd_bench.methods.projection import OrthonormalLinear, PooledProjector
from cskd_bench.models.checkpoints import load_checkpoint
from cskd_bench.models.students import initial_student
from cskd_bench.models.weights import plain_state
from cskd_bench.outputs import TeacherWidths

CPU = torch.device("cpu")
WITH_PROJECTOR = ["vkd", "srd", "locality"]
STAGES = {"locality": ["method.student_blocks=[0, 1, 1]"]}


def load(config, kind, *settings):
    return load_config(config, ["recipe.epochs=2", *STAGES.get(kind, []), *settings], kind)


def run(config, folder):
    return pretrain(config, folder / "runs", folder / "results", Ranks(0, 1, CPU))


@pytest.fixture
def kept_run(monkeypatch):
    """What the training loop held at its end."""
    held = []
    before = training._Run.train
    monkeypatch.setattr(training._Run, "train", lambda self, bar: (held.append(self), before(self, bar))[1])
    return held


@pytest.mark.parametrize("kind", WITH_PROJECTOR)
def test_the_projector_is_trained_and_no_part_of_the_student(tiny_config, tmp_path, kept_run, kind):
    config = load(tiny_config, kind)
    record = run(config, tmp_path)
    assert 0 <= record.metrics["top1"] <= 1 and all(entry["feature"] == entry["feature"] for entry in record.curve)
    (held,) = kept_run
    projector = held.trained.projector
    fresh = build_projector(config.method, held.student, held.job.targets.widths, config.seed)
    changed = [not torch.equal(a, b) for a, b in zip(projector.parameters(), fresh.parameters(), strict=True)]
    assert changed and all(changed)
    weights = load_file(tmp_path / "runs" / config.name / "model.safetensors")
    student = initial_student(config)
    assert set(weights) == set(plain_state(student)) and not any("projector" in name for name in weights)
    assert record.model.parameters == sum(weight.numel() for weight in student.parameters())
    export_timm(tmp_path / "runs" / config.name, tmp_path / "export")
    assert not [name for name in load_file(tmp_path / "export" / "model.safetensors") if "projector" in name]
    loaded = load_checkpoint(tmp_path / "runs" / config.name).student
    views = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded.eval().predict(views), held.student.cpu().eval().predict(views))


def test_students_start_alike_under_all_methods_with_the_same_heads(tiny_config):
    """Heads add tokens and layers, which draw; the projector has draws of its own."""
    for kinds in (["supervised", "kd", "kd-dist", "locality"], ["deit", "vkd", "srd", "cskd"]):
        first, *others = [initial_student(load(tiny_config, kind)).state_dict() for kind in kinds]
        equal = [torch.equal(state[name], first[name]) for state in others for name in first]
        assert equal == [True] * len(first) * len(others)


def test_a_projector_leaves_the_global_draws_alone():
    student = small_student("class+dist")
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first, same, other = (build_projector(VkD(), student, TeacherWidths(8), seed).layer.weight for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, same) and not torch.equal(first, other)


@pytest.mark.parametrize(("width", "channels"), [(24, 60), (24, 24), (24, 10)])
def test_an_orthogonal_projection_stays_orthogonal_while_it_is_trained(width, channels):
    torch.manual_seed(0)
    projector = PooledProjector(width, TeacherWidths(channels), True)
    start_ = projector.layer.weight.detach().clone()
    optimizer = build_optimizer(torch.nn.Linear(1, 1), OptimConfig(lr=0.1, weight_decay=0.05), projector)
    for _ in range(5):
        optimizer.zero_grad()
        projector.layer(torch.randn(4, width)).square().sum().backward()
        optimizer.step()
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 3
    weight = projector.layer.weight.detach()
    gram = weight.T @ weight if channels >= width else weight @ weight.T
    assert torch.allclose(gram, torch.eye(len(gram)), atol=1e-5)
    assert (weight - start_).abs().max() > 1e-3


def householder(lower):
    """Multiply the reflections of a matrix's columns one after the other: (n, n)."""
    product = torch.eye(len(lower), dtype=lower.dtype)
    for number, column in enumerate(lower.tril(-1).T):
        vector = column.clone()
        vector[number] = 1
        product -= 2 / vector.dot(vector) * torch.outer(product @ vector, vector)
    return product


@pytest.mark.parametrize(("rows", "columns"), [(60, 24), (24, 24), (10, 24)])
def test_an_orthonormal_map_is_torchs_parametrisation_in_value_and_gradient(rows, columns):
    """Its reflectors are torch's raw weights without their diagonal, which holds signs alone.

    What torch adds to the first columns of its base is drawn; here it follows from these.
    """
    torch.manual_seed(0)
    plain = torch.nn.Linear(columns, rows, bias=False).double()
    ours = OrthonormalLinear(plain.weight.detach())
    theirs = orthogonal(plain, orthogonal_map="householder")
    raw = theirs.parametrizations.weight.original
    assert torch.allclose(ours.weight, theirs.weight, atol=1e-12)
    size = max(rows, columns)
    signs = torch.cat([ours.start_signs, torch.ones(size - min(rows, columns))]).double()
    theirs.parametrizations.weight[0].base = householder(ours.start) * signs
    moved = torch.randn(raw.shape, dtype=raw.dtype).mul(0.3).fill_diagonal_(0.0)
    with torch.no_grad():
        raw += moved
        ours.reflectors += moved.T if rows < columns else moved
    features, wanted = torch.randn(4, columns).double(), torch.randn(4, rows).double()
    for layer in (ours, theirs):
        (layer(features) * wanted).sum().backward()
    assert torch.allclose(ours.weight, theirs.weight, atol=1e-12)
    gradient = raw.grad.T if rows < columns else raw.grad
    assert torch.allclose(ours.reflectors.grad.tril(-1), gradient.tril(-1), atol=1e-12)
    assert ours.reflectors.grad.tril(-1).abs().max() > 0.01


@pytest.mark.parametrize("blocks", [(0, 1), (1, 0, 1)])
def test_blocks_are_those_of_a_slow_look(blocks):
    student = small_student("class")
    views = torch.rand(2, 3, 32, 32)
    output = student(views, pooled=True, blocks=blocks)
    seen = {}
    hooks = [
        block.register_forward_hook(lambda module, _, out, index=index: seen.update({index: out}))
        for index, block in enumerate(student.model.blocks)
    ]
    tokens = student.tokens(views)
    for hook in hooks:
        hook.remove()
    prefix = student.model.num_prefix_tokens
    assert torch.equal(output.class_logits, student.model.forward_head(tokens))
    assert torch.allclose(output.pooled, tokens[:, prefix:].mean(1))
    for block, maps in zip(blocks, output.blocks, strict=True):
        for place in range(16):
            assert torch.equal(maps[:, :, place // 4, place % 4], seen[block][:, prefix + place])


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("vkd", ["student.name=resnet18", "student.patch_size=8"], "not a ViT with patch tokens|only ViTs"),
        ("locality", ["method.student_blocks=[0, 1, 2]"], "names block 2, the student has blocks 0 to 1"),
        ("locality", ["method.teacher_stages=[2, 3, 9]"], "test_byobnet has stages 0 to 4; there is no stage 9"),
        ("srd", ["run.accumulate=2"], "compares the images of a batch with each other"),
        ("kd-dist", ["run.accumulate=2"], "compares the images of a batch with each other"),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(tiny_config, tmp_path, kind, settings, words):
    with pytest.raises(UserError, match=words):
        run(load(tiny_config, kind, *settings), tmp_path)
    assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("log.jsonl"))


def test_a_student_without_patch_tokens_has_no_projector():
    with pytest.raises(UserError, match=r"Linear is not a ViT with patch tokens, which method locality needs"):
        build_projector(Locality(), wrapped(torch.nn.Linear(2, 2)), TeacherWidths(0, (1, 2, 3)), 0)


def wrapped(model):
    holder = torch.nn.Module()
    holder.model = model
    return holder


@pytest.mark.parametrize("kind", WITH_PROJECTOR)
def test_a_bank_is_refused(tiny_config, tmp_path, kind):
    with pytest.raises(UserError, match=f"a bank has no features; method {load(tiny_config, kind).method.kind} needs"):
        build_bank(load(tiny_config, kind), tmp_path / "bank")


@pytest.mark.parametrize("kind", [*WITH_PROJECTOR, "kd-standardised", "deit-standardised"])
def test_a_run_is_sized_up_without_weights(tiny_config, kind):
    size, plain = (estimate(load(tiny_config, name)) for name in (kind, "supervised"))
    assert size.student_step_flops > plain.student_step_flops or kind.startswith("kd")
    assert size.activation_bytes_per_view > 0 and size.teacher_flops > 0


def test_autocast_leaves_an_orthogonal_projection_in_fp32():
    student = small_student("class+dist")
    projector = build_projector(VkD(), student, TeacherWidths(8), 0)
    module = with_projector(student, student, projector, VkD())
    with torch.autocast("cpu", torch.bfloat16):
        output = module(torch.rand(2, 3, 32, 32), None)
    assert output.projected[0].dtype == torch.float32


@pytest.mark.gate
@pytest.mark.parametrize("kind", WITH_PROJECTOR)
def test_killed_and_started_again_it_ends_with_the_same_bits(new_run_at, kind):
    settings = [f"method.kind={kind}", *STAGES.get(kind, [])]
    whole, killed = new_run_at(f"{kind}-whole"), new_run_at(f"{kind}-killed")
    whole.finish(*settings)
    process = killed.start(*settings)
    while not list(killed.checkpoints.glob("step-*/projector.safetensors")):
        assert process.poll() is None, finish(process, 30)
    kill(process)
    finish(process, 30)
    assert "resuming from step" in killed.finish(*settings)
    ours, theirs = killed.weights(), whole.weights()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert killed.log() == whole.log()


@pytest.mark.gate
def test_two_ranks_have_the_gradients_of_one_process(tmp_path):
    """Projections included: both ranks hold the mean, and it is not zero."""
    kinds = [*WITH_PROJECTOR, "kd-dist", "deit"]
    end(start([*TWO_RANKS, Path(feature_ranks.__file__), tmp_path, *kinds]))
    for kind in kinds:
        alone = feature_ranks.gradients(kind, 0, 1)
        first, second = (load_file(tmp_path / f"{kind}-{rank}.safetensors") for rank in (0, 1))
        for name, gradient in alone.items():
            assert torch.equal(first[name], second[name]), name
            torch.testing.assert_close(first[name], gradient, atol=1e-12, rtol=1e-9)
        projected = [gradient for name, gradient in alone.items() if name.startswith("projector")]
        assert bool(projected) == (kind in WITH_PROJECTOR)
        assert all(gradient.abs().max() > 0 for gradient in projected)
