"""A bank of a ViT teacher: trained from it, a run is the run with that teacher, also on a grid finer than its own."""

import json

import pytest
import timm
import tomlkit
import torch
from bank_runs import small_run
from safetensors.torch import load_file, save_file

from cskd_bench.bank.build import build_bank
from cskd_bench.bank.store import Bank
from cskd_bench.bank.targets import bank_targets
from cskd_bench.cells.pretrain import pretrain
from cskd_bench.cli import main
from cskd_bench.config import CSKD, DeiT, PlainKD, TeacherConfig
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.estimate import estimate

ALONE = Ranks(0, 1, torch.device("cpu"))
GRID = (6, 6)  # 96 px in patches of 16; the student's is 4 x 4


def vit_run(folder, name="run", method=None):
    config = small_run(folder / "vit.safetensors", name, method, epochs=1)
    settings = {"name": "test_vit", "weights": str(folder / "vit.safetensors"), "image_size": 96, "num_classes": 10}
    return config.model_copy(update={"teacher": TeacherConfig(**settings)})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The weights of a ViT that tells images apart, and a bank of its labels."""
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(7)
    state = timm.create_model("test_vit", num_classes=10).state_dict()
    save_file(
        {name: tensor + 0.2 * torch.randn_like(tensor) for name, tensor in state.items()}, folder / "vit.safetensors"
    )
    build_bank(vit_run(folder, method=PlainKD()), folder / "bank")
    return folder


@pytest.mark.gate
@pytest.mark.parametrize("method", [CSKD(decay="local"), DeiT()], ids=["cskd", "deit"])
def test_training_from_the_bank_is_training_with_the_vit(place, tmp_path, method):
    assert Bank(place / "bank").manifest.grid == GRID
    expected = pretrain(vit_run(place, "teacher", method), tmp_path, tmp_path / "a", ALONE)
    from_bank = vit_run(place, "bank", method)
    found = pretrain(from_bank, tmp_path, tmp_path / "b", ALONE, bank_targets(place / "bank", from_bank))
    assert found.value == expected.value and found.method.teacher == expected.method.teacher
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("teacher", "bank"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours.keys() | theirs.keys())


def test_a_vits_labels_differ_between_positions_and_are_counted(place, capsys):
    config = vit_run(place)
    augment = config.recipe.augment.model_copy(update={"mixup": 0.0, "cutmix": 0.0})
    config = config.model_copy(update={"recipe": config.recipe.model_copy(update={"augment": augment})})
    (place / "run.toml").write_text(tomlkit.dumps(config.model_dump(mode="json", exclude_none=True)))
    build_bank(config, place / "plain")
    capsys.readouterr()  # the progress of building
    assert main(["bank", "agreement", str(place / "plain"), str(place / "run.toml")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert 0 < told["global_top1"] < 1 and 0 < told["local_top1"] < 1 and 0 < told["local_is_global"] < 1
    assert main(["bank", "flips", str(place / "run.toml"), "--views", "16"]) == 0
    assert "6x6 positions" in capsys.readouterr().out


def test_a_dry_run_counts_the_heads_of_all_its_tokens(place):
    size = estimate(vit_run(place))
    model = timm.create_model("test_vit", num_classes=10, img_size=96)
    assert size.teacher_parameters == sum(parameter.numel() for parameter in model.parameters())
    linear = 2 * 64 * 10 * (36 + 1)  # 2 FLOPs per multiply-add; 36 patch tokens and the class token
    blocks = len(model.blocks) * 2 * (37 * 64 * 64 * (4 + 2 * 3) + 2 * 37 * 37 * 64)  # projections, MLP, attention
    patches = 2 * 36 * 64 * 3 * 16 * 16
    assert size.teacher_flops == linear + blocks + patches
