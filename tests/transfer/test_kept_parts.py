"""Probes and evaluation, ended at ten points: the same record, and nothing that was kept is computed twice."""

import json

import pytest
import timm
import torch
from helpers import processes
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
# One process imports everything; each attempt is a fork of it that signals itself at its nth event. An event is a part
# that is about to be kept, and one that has been kept. Attempts take what is kept further, so that the points differ.
ATTEMPTS = """
import json, os, signal, sys
from cskd_bench.cli import main
from cskd_bench.transfer import cell, parts, run, scan  # all that an attempt needs, but for what it computes
sent, ends, log, words = getattr(signal, sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]
scan.PART = 2
cell.views_at_a_time = lambda size: 1
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
    return folder


@pytest.fixture(scope="module", params=[("squares", "linear"), ("numbers", "evaluate")], ids=["linear", "evaluate"])
def undisturbed(request, place, tmp_path_factory):
    """A task and protocol with the record of a run that nothing ended."""
    results = tmp_path_factory.mktemp("undisturbed")
    processes.run_python(ATTEMPTS, "SIGKILL", 0, results / "log", *arguments(place, results, *request.param))
    return *request.param, only_record(results)


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
    task, protocol, record = undisturbed
    log = tmp_path / "log"
    words = arguments(place, tmp_path / "ended", task, protocol)
    said = processes.run_python(ATTEMPTS, sent, 10, log, *words)
    assert json.loads(said.splitlines()[-1]) == [-9 if sent == "SIGKILL" else 75] * 10 + [0]
    events = [json.loads(line) for line in log.read_text().splitlines()]
    kept = [event[1:] for event in events if event[0] == "kept"]
    assert len(kept) == len({tuple(part) for part in kept})  # nothing that was kept is computed again
    assert len(kept) == {"linear": 48 // 2 + 24 // 2 + 5, "evaluate": 24 // 2}[protocol]
    assert only_record(tmp_path / "ended") == record
