"""Probes, evaluation and segmentation, ended at ten points: the same record, and nothing kept is computed twice."""

import json

import numpy as np
import pytest
import timm
import torch
from helpers import processes
from PIL import Image
from safetensors.torch import save_file

from cskd_bench.record import read_records

pytestmark = pytest.mark.gate

MODEL = "vit_tiny_patch16_224"
TASK = """
protocols = ["linear", "evaluate"]
image_size = 32
[data]
root = "{data}"
num_classes = 3
eval_crop = 1.0
"""
SCENES = """
group = "segmentation"
protocols = ["segment"]
metric = "miou"
image_size = 32
[data]
dataset = "segmentation"
root = "{data}"
num_classes = 3
[segment]
c_grid = [0.01, 1.0]
"""
CELLS = {  # the parts of each, with those of a C grid
    "squares linear": 48 // 2 + 24 // 2 + 5,
    "numbers evaluate": 24 // 2,
    "scenes segment": 2 * (12 // 2 + 6 // 2) + 2,
}
# One process imports everything; each attempt is a fork of it that signals itself at its nth event. An event is a part
# that is about to be kept, and one that has been kept. Attempts take what is kept further, so that the points differ.
ATTEMPTS = """
import json, os, signal, sys
from cskd_bench.cli import main
from cskd_bench.transfer import cell, parts, run, scan, segment_cell, segment_tokens
sent, ends, log, words = getattr(signal, sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]
scan.PART = segment_tokens.PART = 2
cell.views_at_a_time = segment_cell.views_at_a_time = lambda size: 1
keep, codes = parts.Parts.put, []

def attempt(stop_at):
    events = []
    def event(what, part):
        events.append(what)
        with open(log, "a") as file:
            file.write(json.dumps([what, part.folder, part.start]) + "\\n")
        if len(events) == stop_at:
            os.kill(os.getpid(), sent)
    def put(self, part, rows):
        place = type("Place", (), {"folder": self.folder.name, "start": part.start})
        event("computed", place)
        keep(self, part, rows)
        event("kept", place)
    parts.Parts.put = put
    code = main(words)
    sys.stdout.flush()
    os._exit(code)

for number in range(ends + 1):
    child = os.fork()
    if not child:
        attempt(1 + number % 2 if number < ends else 0)
    _, status = os.waitpid(child, 0)
    codes.append(os.waitstatus_to_exitcode(status))
print(json.dumps(codes))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, colour_squares):
    folder = tmp_path_factory.mktemp("place")
    torch.manual_seed(0)
    model = timm.create_model(MODEL, img_size=32, num_classes=1000)
    save_file(model.state_dict(), folder / "random.safetensors")
    (folder / "squares.toml").write_text(TASK.format(data=colour_squares))
    numbers = folder / "numbers"  # the same images under names that a model of 1,000 outputs knows
    for split in ("train", "test"):
        for number, colour in enumerate(sorted(path.name for path in (colour_squares / split).iterdir())):
            (numbers / split).mkdir(parents=True, exist_ok=True)
            (numbers / split / str(number)).symlink_to(colour_squares / split / colour)
    (folder / "numbers.toml").write_text(TASK.format(data=numbers))
    write_scenes(folder / "scenes")
    (folder / "scenes.toml").write_text(SCENES.format(data=folder / "scenes"))
    return folder


def write_scenes(root):
    """Write images of two halves, each of one of three greys, with label maps of these."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            label = np.repeat(rng.integers(0, 3, (1, 2), np.uint8), 16, 1).repeat(32, 0)
            noise = rng.integers(0, 60, (32, 32, 3), np.uint8)
            Image.fromarray(noise + 90 * label[..., None]).save(root / "images" / split / f"{number:02d}.png")
            Image.fromarray(label).save(root / "labels" / split / f"{number:02d}.png")


@pytest.fixture(scope="module", params=CELLS)
def undisturbed(request, place, tmp_path_factory):
    """A task and protocol with the record of a run that nothing ended."""
    results = tmp_path_factory.mktemp("undisturbed")
    processes.run_python(ATTEMPTS, "SIGKILL", 0, results / "log", *arguments(place, results, *request.param.split()))
    return request.param, only_record(results)


def arguments(place, results, task, protocol):
    return [
        *("transfer", "--task", str(place / f"{task}.toml"), "--protocol", protocol, "--workers", "0"),
        *("--checkpoint", str(place / "random.safetensors"), "--model", MODEL),
        *("--results", str(results), "--runs", str(results / "runs")),
    ]


def only_record(results):
    ((_, record),) = read_records(results / "records")
    varying = {"created", "started", "resumptions", "cost", "command", "argv"}
    return record.model_dump(exclude=varying)


@pytest.mark.parametrize("sent", ["SIGKILL", "SIGTERM"])
def test_ten_ends_leave_the_record_of_an_undisturbed_run(place, tmp_path, undisturbed, sent):
    named, record = undisturbed
    log = tmp_path / "log"
    words = arguments(place, tmp_path / "ended", *named.split())
    said = processes.run_python(ATTEMPTS, sent, 10, log, *words)
    assert json.loads(said.splitlines()[-1]) == [-9 if sent == "SIGKILL" else 75] * 10 + [0]
    events = [json.loads(line) for line in log.read_text().splitlines()]
    kept = [event[1:] for event in events if event[0] == "kept"]
    assert len(kept) == len({tuple(part) for part in kept})  # nothing that was kept is computed again
    assert len(kept) == CELLS[named]
    assert only_record(tmp_path / "ended") == record
