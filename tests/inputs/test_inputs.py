"""Each kind of input ends as docs/inputs.md says, and the doctor says of it what a transfer does."""

import json

import pytest
from helpers.inputs import doctor, transfer
from helpers.tiny import save_model
from inputs.gates import GATES

INPUTS = [given for gate in GATES for given in gate.INPUTS]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model") / "w.safetensors", "test_vit")


@pytest.mark.parametrize("given", [one for one in INPUTS if one.refused], ids=str)
def test_refused_by_transfer_and_by_doctor(given, tmp_path, checkpoint, capsys):
    given.make(tmp_path / "data")
    assert transfer(given, tmp_path / "data", checkpoint) == 2
    said = capsys.readouterr().err
    assert given.said in said
    assert len(said.strip().splitlines()) == 1
    assert not list((tmp_path / "results").rglob("*.json"))
    assert doctor(given, tmp_path / "data") == 1
    assert given.said in capsys.readouterr().out


@pytest.mark.parametrize("given", [one for one in INPUTS if not one.refused], ids=str)
def test_used_by_transfer_and_fine_for_doctor(given, tmp_path, checkpoint, capsys):
    given.make(tmp_path / "data")
    assert transfer(given, tmp_path / "data", checkpoint) == 0
    (record,) = (tmp_path / "results" / "records").glob("*.json")
    assert given.noted in json.loads(record.read_text())["note"]
    assert given.said in capsys.readouterr().err
    assert doctor(given, tmp_path / "data") == 0
