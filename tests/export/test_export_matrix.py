"""Four methods by four uses of an export: all that is done with them is done in a process without cskd_bench."""

import json

import pytest
import timm
import torch
from helpers.processes import run_python
from helpers.runs import random_run
from timm.models.vision_transformer import VisionTransformer

from cskd_bench.export import export_timm
from cskd_bench.methods import METHODS
from cskd_bench.models import architectures
from cskd_bench.models.checkpoints import load_checkpoint

KINDS = ("supervised", "kd", "deit", "cskd")
SIZE, OTHER = 32, 48  # pixels of a side
USES = """
import json, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "cskd_bench":
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
import timm, torch

folders, inputs, output = json.loads(sys.argv[1]), torch.load(sys.argv[2]), sys.argv[3]

def use(folder, kind):
    name = "local-dir:" + folder
    if kind == "cskd":
        sys.path.insert(0, folder)
        import modeling
    with torch.no_grad():
        native = timm.create_model(name, pretrained=True).eval()(inputs["same"])
        features = timm.create_model(name, pretrained=True, features_only=True).eval()(inputs["same"])
        larger = timm.create_model(name, pretrained=True, img_size=inputs["other"].shape[-1]).eval()(inputs["other"])
    tuned = timm.create_model(name, pretrained=True, num_classes=7).train()
    before = {name: tensor.clone() for name, tensor in tuned.state_dict().items()}
    distilled = hasattr(tuned, "set_distilled_training")
    if distilled:
        tuned.set_distilled_training(True)
    step = torch.optim.SGD(tuned.parameters(), 0.1)
    logits = tuned(inputs["same"])
    parts = logits if distilled else [logits]
    loss = sum(torch.nn.functional.cross_entropy(part, torch.tensor([5, 6])) for part in parts)
    loss.backward()
    step.step()
    still = [name for name, tensor in tuned.state_dict().items() if torch.equal(tensor, before[name])]
    return dict(native=native, features=features, larger=larger, tuned=before, distilled=distilled, still=still)

torch.save({kind: use(folder, kind) for kind, folder in folders.items()}, output)
"""


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    """What every use of every export gave, and the runs they come from."""
    place = tmp_path_factory.mktemp("matrix")
    torch.manual_seed(1)
    inputs = {"same": torch.randn(2, 3, SIZE, SIZE), "other": torch.randn(2, 3, OTHER, OTHER)}
    torch.save(inputs, place / "inputs.pt")
    folders = {}
    for kind in KINDS:
        export_timm(random_run(place / "runs" / kind, kind, depth=3), place / kind)
        folders[kind] = str(place / kind)
    run_python(USES, json.dumps(folders), place / "inputs.pt", place / "found.pt", cwd=place, PYTHONPATH="")
    return place, inputs, torch.load(place / "found.pt")


def native(place, kind, image_size=SIZE):
    return load_checkpoint(place / "runs" / kind, image_size=image_size).student.cpu()


def predict(student, normalised):
    with torch.no_grad():
        return student.predict(normalised * student.std + student.mean)


@pytest.mark.parametrize("kind", KINDS)
def test_the_logits_are_the_native_ones(matrix, kind):
    place, inputs, found = matrix
    torch.testing.assert_close(found[kind]["native"], predict(native(place, kind), inputs["same"]))


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_the_patch_tokens_of_the_last_three_blocks(matrix, kind):
    place, inputs, found = matrix
    model = native(place, kind).model
    with torch.no_grad():
        expected = model.forward_intermediates(inputs["same"], indices=3, intermediates_only=True)
    assert isinstance(model, VisionTransformer) and len(expected) == 3
    assert [one.shape for one in found[kind]["features"]] == [(2, 24, 4, 4)] * 3
    torch.testing.assert_close(found[kind]["features"], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_another_number_of_classes_keeps_the_backbone_and_trains(matrix, kind):
    place, _, found = matrix
    tuned, own = found[kind]["tuned"], native(place, kind).model.state_dict()
    heads = {name for name in tuned if name.startswith("head")}
    distilled = METHODS[kind].heads != "class"
    assert {name.partition(".")[0] for name in heads} == ({"head", "head_dist"} if distilled else {"head"})
    assert {len(tuned[name]) for name in heads} == {7}
    backbone = own.keys() - heads
    torch.testing.assert_close({name: tuned[name] for name in backbone}, {name: own[name] for name in backbone})
    assert tuned.keys() == own.keys()
    assert found[kind]["distilled"] == distilled
    assert found[kind]["still"] == [], "one step changes every weight, the distillation head's too"


@pytest.mark.parametrize("kind", KINDS)
def test_another_image_size_resamples_position_embeddings(matrix, kind):
    place, inputs, found = matrix
    expected = predict(native(place, kind, OTHER), inputs["other"])
    torch.testing.assert_close(found[kind]["larger"], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_timm_prepares_images_as_the_run_did(matrix, kind):
    place, *_ = matrix
    architectures.register()
    stated = timm.data.resolve_model_data_config(timm.create_model(f"local-dir:{place / kind}"))
    run = load_checkpoint(place / "runs" / kind)
    assert stated["mean"] == pytest.approx(run.student.mean.flatten().tolist())
    assert stated["std"] == pytest.approx(run.student.std.flatten().tolist())
    assert (tuple(stated["input_size"]), stated["crop_pct"]) == ((3, SIZE, SIZE), run.pretrain_config.data.eval_crop)
    assert stated["interpolation"] == run.pretrain_config.recipe.augment.interpolation


def test_only_an_architecture_of_ours_brings_code(matrix):
    place, *_ = matrix
    bring = {kind: (place / kind / "modeling.py").exists() for kind in KINDS}
    named = {kind: json.loads((place / kind / "config.json").read_text())["architecture"] for kind in KINDS}
    assert bring == {"supervised": False, "kd": False, "deit": False, "cskd": True}
    assert [kind for kind in KINDS if named[kind] not in timm.list_models("deit_*")] == ["cskd"]
