"""`transfer` with data that are downloaded, unpacked, or not there: to a record, or to a sentence."""

import hashlib
import re
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from helpers import cifar, processes
from torchvision.datasets import CIFAR100

from cskd_bench.cli import main
from cskd_bench.record import read_records

MODEL = "test_vit"
FEWER = "kshot.shots: 10 training images a class are asked for, 100 of 100 classes have fewer (class 0 has 2)"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A weights file of a tiny ViT."""
    import timm
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model(MODEL, img_size=32).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return cifar.pack(tmp_path_factory.mktemp("authors"))


@pytest.fixture
def server(archive, monkeypatch):
    """The authors' server, on this machine; `asked` holds every path that it was asked for."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    asked: list[str] = []
    stub = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(archive.parent)))
    thread = threading.Thread(target=stub.serve_forever, daemon=True)
    thread.start()
    cifar.expect(monkeypatch, archive, f"http://127.0.0.1:{stub.server_port}/{cifar.ARCHIVE}")
    yield asked
    stub.shutdown()
    stub.server_close()
    thread.join()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder for all data sets, as $CSKD_BENCH_DATA names it."""
    monkeypatch.setenv("CSKD_BENCH_DATA", str(tmp_path / "data"))
    return tmp_path


def words(weights, folder, *tasks, protocol="knn", image_size=32):
    named = [word for task in tasks for word in ("--task", task)]
    return [
        *("transfer", *named, "--checkpoint", str(weights), "--model", MODEL, "--protocol", protocol),
        *("--set", f"image_size={image_size}", "--workers", "0"),
        *("--results", str(folder / "results"), "--runs", str(folder / "runs")),
    ]


def records(folder):
    return [record for _, record in read_records(folder / "results" / "records")]


def test_cifar_is_downloaded_once_and_scored(weights, server, here, capsys):
    assert main([*words(weights, here, "cifar100"), "--dry-run", "--download"]) == 0
    assert "would be downloaded" in capsys.readouterr().out and server == []
    assert main([*words(weights, here, "cifar100"), "--download"]) == 0
    root = here / "data" / "cifar100"
    assert f"{root / cifar.INNER}: downloaded" in capsys.readouterr().out
    assert [path.name for path in root.iterdir()] == [cifar.INNER]
    (record,) = records(here)
    assert (record.task.name, record.protocol, record.examples) == ("cifar100", "knn", 100)
    fetched = len(server)
    assert fetched and main([*words(weights, here, "cifar100", protocol="linear"), "--download"]) == 0
    assert "already there, not downloaded" in capsys.readouterr().out and len(server) == fetched
    assert {record.protocol for record in records(here)} == {"knn", "linear"}
    assert main(["tasks", "validate", "cifar100"]) == 2  # the task's kshot takes more than these two of each class
    assert FEWER in capsys.readouterr().err


def test_a_folder_of_ones_own_is_filled_too(weights, server, here, capsys):
    place = here / "elsewhere" / "mine"
    assert main(["tasks", "validate", "cifar100", "--data-dir", str(place), "--download"]) == 2
    assert FEWER in capsys.readouterr().err
    assert (place / cifar.INNER / "train").is_file()


def test_another_archive_is_refused_and_leaves_nothing(weights, server, here, capsys, monkeypatch):
    monkeypatch.setattr(CIFAR100, "tgz_md5", hashlib.md5(b"another").hexdigest())
    assert main([*words(weights, here, "cifar100"), "--download"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("cskd-bench: torch/cifar100 is not downloaded: ") and "another MD5" in said
    assert [*here.glob("data/**/*")] == [] and not records(here)


def test_files_that_differ_inside_the_archive_are_refused_and_leave_nothing(weights, server, here, capsys, monkeypatch):
    monkeypatch.setattr(CIFAR100, "test_list", [["test", hashlib.md5(b"another").hexdigest()]])
    assert main([*words(weights, here, "cifar100"), "--download"]) == 2
    assert "torch/cifar100 is not downloaded" in capsys.readouterr().err
    assert [*here.glob("data/**/*")] == []


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:1/x.tar.gz", r"its server cannot be reached \("),
        ("http://nohost.invalid/x", "cannot be reached"),
    ],
)
def test_without_a_network_a_download_is_one_sentence(weights, server, here, capsys, monkeypatch, url, reason):
    monkeypatch.setattr(CIFAR100, "url", url)
    assert main([*words(weights, here, "cifar100"), "--download"]) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cskd-bench")]
    assert re.search(reason, said) and "unpack cifar-100-python.tar.gz" in said


def test_a_file_that_the_server_does_not_have_is_one_sentence(weights, server, here, capsys, monkeypatch):
    monkeypatch.setattr(CIFAR100, "url", CIFAR100.url + ".gone")
    assert main([*words(weights, here, "cifar100"), "--download"]) == 2
    assert "answers 404" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "reason"),
    [("stanford_cars", "the authors' server is gone: take a mirror"), ("imagenet1k", "register at image-net.org")],
)
def test_what_nobody_can_download_says_how_to_get_it(here, capsys, task, reason):
    assert main(["tasks", "validate", task, "--download"]) == 2
    assert f"cannot be downloaded: {reason}" in capsys.readouterr().err


def test_a_part_of_the_data_is_not_written_over(server, archive, here, capsys):
    inner = cifar.unpacked(archive, here / "data" / "cifar100") / cifar.INNER
    (inner / "test").unlink()
    assert main(["tasks", "validate", "cifar100", "--download"]) == 2
    assert "is there, but not whole (torch/cifar100" in capsys.readouterr().err and server == []
    assert sorted(path.name for path in inner.iterdir()) == ["meta", "train"]


def test_one_task_without_data_does_not_stop_the_others(weights, server, archive, here, capsys):
    cifar.unpacked(archive, here / "data" / "cifar100")
    asked = words(weights, here, "flowers102", "cifar100", "digits")
    assert main(asked) == 1
    out = capsys.readouterr().out
    assert {record.task.name for record in records(here)} == {"cifar100", "digits"}
    told = [line.split() for line in out.splitlines()[-3:]]
    assert [line[:4] for line in told] == [
        ["flowers102", "knn", "0", "not"],
        ["cifar100", "knn", "0", "top1"],
        ["digits", "knn", "0", "top1"],
    ]
    assert "put 102flowers.tgz" in out.splitlines()[-3]
    shutil.rmtree(here / "data" / "cifar100")  # a finished cell needs no data
    assert main(asked) == 1
    assert re.search(r"\ncifar100 +knn +0 +top1 .*json\n", capsys.readouterr().out)


def test_images_of_every_task_are_opened_before_anything_is_computed(weights, server, archive, here, monkeypatch):
    from cskd_bench.transfer import readiness, run

    cifar.unpacked(archive, here / "data" / "cifar100")
    events, look, compute = [], readiness.look_at_data, run._run
    monkeypatch.setattr(readiness, "look_at_data", lambda spec: (events.append(f"look {spec.name}"), look(spec))[1])
    monkeypatch.setattr(run, "_run", lambda cell, *rest: (events.append(cell.spec.name), compute(cell, *rest))[1])
    assert main(words(weights, here, "digits", "cifar100")) == 0
    assert events == ["look digits", "look cifar100", "digits", "cifar100"]


@pytest.mark.parametrize("tasks", [("flowers102",), ("flowers102", "flowers102_deit")])
def test_where_nothing_can_run_for_one_reason_it_is_one_sentence(weights, here, capsys, tasks):
    protocol = "finetune" if len(tasks) > 1 else "knn"
    assert main(words(weights, here, *tasks, protocol=protocol)) == 2
    assert capsys.readouterr().err.count("cskd-bench: ") == 1


def test_an_archive_is_unpacked_by_the_run_and_not_by_its_plan(weights, server, archive, here, capsys):
    shutil.copy(archive, here)
    asked = [*words(weights, here, "cifar100"), "--data-dir", str(here / cifar.ARCHIVE)]
    assert main([*asked, "--dry-run"]) == 0
    assert "not unpacked yet; the run itself unpacks it" in capsys.readouterr().out
    assert not (here / cifar.INNER).exists()
    assert main(asked) == 0
    assert len(records(here)) == 1 and server == []


EXPECTING = """
import sys
from torchvision.datasets import CIFAR100
from cskd_bench.cli import main
CIFAR100.url, CIFAR100.tgz_md5, CIFAR100.train_list, CIFAR100.test_list, CIFAR100.meta = {expected!r}
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.gate
def test_of_several_ranks_one_downloads_and_all_go_on_past_a_task_without_data(weights, server, here, tmp_path):
    expected = CIFAR100.url, CIFAR100.tgz_md5, CIFAR100.train_list, CIFAR100.test_list, CIFAR100.meta
    (tmp_path / "asked.py").write_text(EXPECTING.format(expected=expected))
    asked = [*words(weights, here, "stanford_cars", "cifar100"), "--download"]
    said = processes.end(processes.start([*processes.TWO_RANKS, str(tmp_path / "asked.py"), *asked]), 1)
    assert re.search(r"\nstanford_cars  knn +0 +not ready: torchvision/stanford_cars cannot be downloaded", said)
    assert len(re.findall(r"\ncifar100 +knn +0 +top1 .*json\n", said)) == 1 and 'asked.py", line' not in said
    assert len(server) == 2, "asked for its address, and for the archive"
    assert [record.task.name for record in records(here)] == ["cifar100"]
