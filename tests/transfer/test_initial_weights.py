"""`--weights initial`: a run's student as its seed drew it, which is the row that nothing was learnt for."""

import pytest
import torch
from helpers.tiny import PLAIN_VIEWS, write_run

from cskd_bench.cells.pretrain import pretrain
from cskd_bench.cli import main
from cskd_bench.config import load_config
from cskd_bench.engine.distributed import Ranks
from cskd_bench.errors import UserError
from cskd_bench.models.checkpoints import load_checkpoint
from cskd_bench.models.students import initial_student
from cskd_bench.record import read_records
from cskd_bench.report.selection import method_of, setting_of

RANKS = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def place(tmp_path_factory, colour_squares):
    """A finished pretraining run, and a task of the same images."""
    folder = tmp_path_factory.mktemp("initial")
    changes = {"method.kind": "supervised", "data.root": colour_squares, **PLAIN_VIEWS}
    write_run(folder / "tiny.toml", changes)
    pretrain(load_config(folder / "tiny.toml"), folder / "runs", folder / "results", RANKS)
    (folder / "squares.toml").write_text(f'protocols = ["knn"]\n[data]\nroot = "{colour_squares}"\nnum_classes = 3\n')
    return folder


def transferred(place, results, *options):
    given = ["--task", str(place / "squares.toml"), "--checkpoint", str(place / "runs" / "tiny"), "--workers", "0"]
    return main(["transfer", *given, "--runs", str(place / "runs"), "--results", str(place / results), *options])


def test_the_weights_are_those_that_training_began_with(place):
    drawn = initial_student(load_config(place / "tiny.toml")).state_dict()
    loaded = load_checkpoint(place / "runs" / "tiny", weights="initial")
    found = loaded.student.state_dict()
    assert drawn.keys() == found.keys() and all(torch.equal(drawn[name], found[name]) for name in drawn)
    assert loaded.checkpoint.sha256 != load_checkpoint(place / "runs" / "tiny").checkpoint.sha256
    assert (loaded.method.kind, loaded.method.label) == ("initial", "no pretraining")


def test_another_size_resamples_what_was_drawn(place):
    own, larger = (load_checkpoint(place / "runs" / "tiny", weights="initial", image_size=size) for size in (None, 48))
    assert own.checkpoint.sha256 == larger.checkpoint.sha256
    assert torch.equal(own.student.model.blocks[0].mlp.fc1.weight, larger.student.model.blocks[0].mlp.fc1.weight)
    assert larger.student.model.pos_embed.shape[1] == 1 + 36


def test_its_record_is_a_row_of_the_same_table_and_passes_verification(place, capsys):
    assert transferred(place, "both") == 0 and transferred(place, "both", "--weights", "initial") == 0
    found = {record.method.kind: record for _, record in read_records(place / "both" / "records")}
    trained, initial = found["supervised"], found["initial"]
    assert trained.id != initial.id and initial.checkpoint.weights == "initial"
    assert setting_of(trained) == setting_of(initial) and method_of(trained) != method_of(initial)
    assert main(["records", "verify", "--results", str(place / "both")]) == 0, capsys.readouterr()
    assert main(["report", "--results", str(place / "both"), "--include-dirty"]) == 0
    assert "no pretraining" in (place / "both" / "LEADERBOARD.md").read_text(encoding="utf-8")


def test_what_has_no_seed_of_its_own_is_refused(place, tmp_path):
    with pytest.raises(UserError, match="needs the run folder"):
        load_checkpoint(place / "runs" / "tiny" / "model.safetensors", model="x", weights="initial")
    with pytest.raises(UserError, match="no initial weights"):
        load_checkpoint("timm:resnet18", weights="initial")
    with pytest.raises(UserError, match=r"run\.json"):
        load_checkpoint(tmp_path, weights="initial")
