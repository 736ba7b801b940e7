"""Upload to the Hub: what a stub server gets, and what is said where it refuses."""

import base64
import json
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import timm
import torch
from helpers.processes import run_cskd_bench
from huggingface_hub import constants

from cskd_bench.cli import main
from cskd_bench.models import architectures
from cskd_bench.models.checkpoints import load_checkpoint

REPO = "someone/student"


class StubHub(ThreadingHTTPServer):
    """A Hub of one repository: it keeps what is committed to it."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), StubHandler)
        self.requests, self.files = [], {}
        self.refusal = ""  # the path of the request that is refused
        self.public = False
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class StubHandler(BaseHTTPRequestHandler):
    """The endpoints that making a repository and a commit ask for."""

    def log_message(self, *_):
        """Stay silent."""

    def do_GET(self):
        if self.server.refusal == "/api/repos/create":
            return self.answer({"error": "Repository not found"}, 404)
        self.answer({"id": REPO, "modelId": REPO, "private": not self.server.public, "sha": "0" * 40})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, self.headers["Authorization"], body))
        if self.server.refusal and self.server.refusal in self.path:
            self.answer({"error": "You may not\ndo this."}, 403)
        elif self.path == "/api/repos/create":
            self.answer({"url": f"{self.server.address}/{REPO}", "name": REPO})
        elif "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self.answer({"files": files})
        elif "/commit/" in self.path:
            lines = [json.loads(line) for line in body.splitlines()]
            files = [line["value"] for line in lines if line["key"] == "file"]
            self.server.files |= {file["path"]: base64.b64decode(file["content"]) for file in files}
            self.answer({"commitUrl": f"{self.server.address}/{REPO}/commit/1", "commitOid": "1" * 40, "success": True})
        else:
            self.answer({}, 200)

    def answer(self, content, status=200):
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture
def hub():
    server = StubHub()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def upload(hub, run_folder, tmp_path, monkeypatch, capsys):
    """Run `cskd-bench export --to hub` against the stub and return its exit code and what it said."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    folder = run_folder()
    (tmp_path / "scratch").mkdir()

    def upload(*words, repo=REPO, token="hf_stub"):
        monkeypatch.setenv("HF_TOKEN", token)
        code = main(["export", "--checkpoint", str(folder), "--to", "hub", "--repo", repo, *words])
        assert not list((tmp_path / "scratch").iterdir()), "something is left"
        return code, capsys.readouterr().err

    return upload


def test_the_hub_gets_the_folder(hub, run_folder, tmp_path):
    """In a process of its own: endpoint and token come from the environment."""
    settings = {"HF_ENDPOINT": hub.address, "HF_TOKEN": "hf_stub", "HF_HOME": str(tmp_path / "hf")}
    settings |= {"HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    words = ["--to", "hub", "--repo", REPO, "--private", "--licence", "mit"]
    said = run_cskd_bench("export", "--checkpoint", run_folder(), *words, cwd=tmp_path, **settings)
    assert f"{hub.address}/{REPO}\n" in said
    path, token, body = hub.requests[0]
    assert (path, token) == ("/api/repos/create", "Bearer hf_stub")
    made = json.loads(body)
    assert (made["name"], made["organization"]) == ("student", "someone")
    assert made.get("visibility") == "private" or made.get("private") is True
    assert set(hub.files) == {"model.safetensors", "config.json", "README.md", "modeling.py"}
    for name, content in hub.files.items():
        (tmp_path / "got").mkdir(exist_ok=True)
        (tmp_path / "got" / name).write_bytes(content)
    architectures.register()
    model = timm.create_model(f"local-dir:{tmp_path / 'got'}", pretrained=True).eval()
    student = load_checkpoint(tmp_path / "runs" / "cskd").student
    views = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model((views - student.mean) / student.std), student.predict(views))
    card = hub.files["README.md"].decode()
    assert 'license: "mit"' in card and f'snapshot_download("{REPO}")' in card and "# student\n" in card


@pytest.mark.parametrize(
    ("refusal", "options", "expected"),
    [
        ("/api/repos/create", {}, "the Hub refused it: You may not do this."),
        ("/commit/", {}, "the Hub refused it: You may not do this."),
        ("", {"token": ""}, "no token for the Hub; set HF_TOKEN"),
        ("", {"repo": "student"}, "name it USER/NAME"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(hub, upload, refusal, options, expected):
    hub.refusal = refusal
    code, said = upload(**options)
    assert code == 2
    assert said.startswith("cskd-bench: ") and said.count("\n") == 1, said
    assert expected in said and hub.files == {}


def test_nothing_private_goes_to_a_public_repository(hub, upload):
    hub.public = True
    code, said = upload("--private")
    assert code == 2 and "is there already and public" in said
    assert hub.files == {}


def test_a_hub_that_is_not_there_is_one_sentence(hub, upload):
    hub.shutdown()
    hub.server_close()
    code, said = upload()
    assert code == 2
    assert "cannot be uploaded" in said and said.count("\n") == 1, said
