"""What weights, features and a teacher's labels are read from: checkpoints, parts, banks. None of it may run code."""

import io
import pickle
import re
import struct
import zipfile
import zlib
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from fuzz.choices import Choices
from fuzz.data_targets import npy, npy_array
from fuzz.documents import as_json, change
from fuzz.scratch import scratch
from helpers.tiny import tiny_run
from safetensors.torch import save
from torch import nn

from cskd_bench.bank.envelope import Ladder, declared_ratios, upper_envelope
from cskd_bench.bank.pack import pack, soft_targets
from cskd_bench.bank.store import Bank, describe_bank, read_manifest, shard_path, verify_bank
from cskd_bench.config import PretrainConfig
from cskd_bench.engine.checkpoint import load_latest
from cskd_bench.errors import UserError
from cskd_bench.models.checkpoints import load_checkpoint
from cskd_bench.models.run_summary import read_summary
from cskd_bench.models.weights import load_state
from cskd_bench.record import sha256_file
from cskd_bench.schema import validate
from cskd_bench.transfer.parts import Parts


class _Small(nn.Module):
    """Something with weights of several kinds, among them position embeddings that may be resized."""

    def __init__(self) -> None:
        super().__init__()
        self.num_prefix_tokens = 1
        self.patch_embed = SimpleNamespace(grid_size=(2, 2))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 2))
        self.head = nn.Linear(2, 3)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))


def fuzz_weights(data: bytes) -> None:
    """Load weights of any kind into a model; code in a file must not run."""
    choices = Choices(data)
    with scratch() as folder:
        root = Path(folder)
        touched = root / "touched"
        kind = choices.below(6)
        file = root / ("a.safetensors" if kind < 2 else choices.pick(("a.pth", "a.bin", "a.pt")))
        weights = choices.pick(("raw", "ema"))
        match kind:
            case 0 | 2:
                file.write_bytes(choices.rest())
            case 1:
                file.write_bytes(_safetensors(choices))
            case 3:
                file.write_bytes(_torch_zip(choices.rest()))
            case 4:
                torch.save(_checkpoint(choices), file)
            case _:
                program = _hostile(choices, touched)
                file.write_bytes(_torch_zip(program) if choices.below(2) else program)
        try:
            load_state(_Small(), file, weights)
        finally:
            assert not touched.exists(), "a checkpoint ran code"


def _safetensors(choices: Choices) -> bytes:
    header = {name: {"dtype": "F32", "shape": list(value.shape)} for name, value in _Small().named_parameters()}
    start = 0
    for entry in header.values():
        end = start + 4 * int(np.prod(entry["shape"]))
        entry["data_offsets"], start = [start, end], end
    text = as_json(change(header, choices))
    return struct.pack("<Q", len(text)) + text + choices.rest().ljust(start, b"\0")


def _torch_zip(program: bytes) -> bytes:
    """Return a file as torch.save writes it, with a pickle of any content."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in (
            ("data.pkl", program),
            ("byteorder", b"little"),
            ("data/0", bytes(64)),
            ("version", b"3"),
        ):
            archive.writestr(f"archive/{name}", content)
    return file.getvalue()


def _checkpoint(choices: Choices) -> Any:
    """Return what a trainer might have saved: tables, tensors of odd kinds, names with wrappers."""
    odd = (
        *(torch.zeros(1, 5, 2), torch.zeros(1, 10, 2), torch.zeros(1, 0, 2), torch.zeros(()), torch.zeros(3, 2)),
        *(torch.zeros(3), torch.full((3, 2), torch.nan), torch.zeros(3, 2, dtype=torch.complex64), torch.zeros(0, 2)),
        *(torch.zeros(3, 2).to_sparse(), torch.zeros(3, 2, device="meta"), torch.zeros(3, 2, dtype=torch.bool)),
        *(torch.quantize_per_tensor(torch.zeros(3, 2), 0.1, 0, torch.qint8), torch.zeros(3, 2, dtype=torch.bfloat16)),
        *(torch.zeros((), dtype=torch.int64), torch.zeros(3, 2, dtype=torch.float8_e4m3fn), None, 1, "a", {}, [], 0.5),
    )
    state: dict[Any, Any] = dict(_Small().state_dict())
    wrapper = choices.pick(("", "module.", "_orig_mod.module.", "student.", "model."))
    state = {f"{wrapper}{name}": value for name, value in state.items()}
    for _ in range(choices.below(4)):
        name = choices.pick((*state, choices.text(), "n_averaged", f"teacher.{choices.text()}", 3))
        state[name] = choices.pick(odd)
    inside = choices.pick(("", "model", "state_dict", "model_ema", "state_dict_ema", "student"))
    return choices.pick(({inside: state, "epoch": 3}, {inside: state, "teacher": state}, [state])) if inside else state


def _hostile(choices: Choices, touched: Path) -> bytes:
    """Return a pickle that would write a file, in one of several ways, and then anything."""
    path = str(touched)
    calls = (
        ("builtins", "open", (path, "w")),
        ("os", "mkdir", (path,)),
        ("posix", "mkdir", (path,)),
        ("os", "system", (f"touch {path}",)),
        ("builtins", "exec", (f"open({path!r}, 'w')",)),
        ("pathlib", "Path.touch", (touched,)),
        ("torch", "save", (0, path)),
        ("numpy", "save", (path, 0)),
        ("shutil", "copy", (__file__, path)),
        ("torch.serialization", "os.mkdir", (path,)),
    )
    module, name, words = choices.pick(calls)
    if choices.below(2):
        start = (
            b"\x80\x04" + b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name)) + b"\x93"
        )
    else:
        start = f"c{module}\n{name}\n".encode()
    return start + pickle.dumps(words, choices.pick((0, 2, 4)))[:-1].removeprefix(b"\x80\x04") + b"R." + choices.rest()


@cache
def run_tables() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return run.json of a pretraining and of a fine-tuning."""
    config = validate(PretrainConfig, {"name": "a", **tiny_run({})}, "a").model_dump(mode="json")
    method = {"kind": "cskd", "label": "cskd", "teacher": "", "config": {}}
    common = {"classes": ["a", "b", "c"], "sha256": {"model": ""}, "method": method, "config": config}
    tuning = {"task": "a", "fingerprint": "f", "record": "r", "seed": 0, "recipe": "q", "image_size": 32, "data": "d"}
    blueprint = {"name": "test_vit", "arguments": {}, "student": None, "heads": "class", "dropped": False}
    checkpoint = {"run": "a", "weights": "raw", "sha256": "", "pretrain_seed": 0}
    model = {"name": "a", "image_size": 32, "parameters": 3}
    tuned = {"kind": "finetuned", "tuning": tuning, "blueprint": blueprint, "num_classes": 3, "checkpoint": checkpoint}
    tuned |= {"mean": [0.5] * 3, "std": [0.5] * 3, "crop": 0.9, "interpolation": "bicubic", "model": model}
    return {**common, "identity": "i", "record": "r"}, {**common, **tuned}


def fuzz_run_json(data: bytes) -> None:
    """Read run.json of a finished run, of either kind: bytes as they are, or a changed one."""
    choices = Choices(data)
    with scratch() as folder:
        table = choices.pick(run_tables())
        content = choices.rest() if choices.below(2) else as_json(change(table, choices))
        Path(folder, "run.json").write_bytes(content)
        read_summary(Path(folder))


TIMM_CONFIG = {
    "architecture": "test_vit",
    "num_classes": 3,
    "model_args": {"img_size": 32, "depth": 1},
    "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "input_size": [3, 32, 32], "crop_pct": 0.9}
    | {"label_names": ["a", "b", "c"], "interpolation": "bicubic", "num_classes": 3},
}


@cache
def _vit_weights() -> bytes:
    import timm

    torch.manual_seed(0)
    return save(timm.create_model("test_vit", img_size=32, depth=1, num_classes=3).state_dict())


def fuzz_timm_folder(data: bytes) -> None:
    """Load a folder that timm reads, with any description of its model in config.json."""
    choices = Choices(data)
    with scratch() as folder:
        root = Path(folder)
        content = choices.rest() if choices.below(2) else as_json(change(TIMM_CONFIG, choices))
        if re.search(rb"[1-9]\d\d\d|[eE]\d", content):
            return  # a model of a billion layers is built as long as memory lasts
        (root / "config.json").write_bytes(content)
        (root / "model.safetensors").write_bytes(_vit_weights())
        load_checkpoint(root)


@cache
def _optimizer() -> bytes:
    file = io.BytesIO()
    torch.save({"state": {}}, file)
    return file.getvalue()


def fuzz_resume(data: bytes) -> None:
    """Find the newest valid checkpoint of a run that was cut off, with a state of any content."""
    choices = Choices(data)
    with scratch() as folder:
        step = Path(folder, "step-000000003")
        step.mkdir()
        (step / "model.safetensors").write_bytes(choices.pick((save({"a": torch.zeros(2)}), choices.bytes(16))))
        (step / "optimizer.pt").write_bytes(choices.pick((_optimizer(), choices.bytes(16))))
        hashes = {file.name: sha256_file(file) for file in sorted(step.iterdir())}
        state = {"step": 3, "sha256": hashes, "history": [], "identity": {"a": 1}}
        content = choices.rest() if choices.below(2) else as_json(change(state, choices))
        (step / "state.json").write_bytes(content)
        load_latest(Path(folder))


def fuzz_parts(data: bytes) -> None:
    """Read kept features: bytes as they are, or arrays of any type and shape."""
    choices = Choices(data)
    with scratch() as folder:
        parts = Parts(Path(folder), "key", 4, 2)
        (Path(folder) / "key").mkdir()
        for rows in parts.ranges:
            content = io.BytesIO()
            if choices.below(4) == 3:
                content.write(choices.bytes(choices.below(256)))
            else:
                _write_rows(content, choices)
            (Path(folder) / "key" / f"{rows.start:08d}-{rows.stop:08d}.npz").write_bytes(content.getvalue())
        if not parts.missing():
            assert parts.read().shape[0] == 4


def _write_rows(file: io.BytesIO, choices: Choices) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        content = io.BytesIO()
        np.save(content, npy_array(choices) if choices.below(2) else np.zeros((2, 3), np.float32))
        archive.writestr("rows.npy", content.getvalue() if choices.below(8) else npy(choices))


MANIFEST = {
    **{"format": 1, "views": {"seed": 0, "images": 4}, "teacher": {"name": "a", "weights": None}, "precision": "fp32"},
    **{"teacher_source": "timm", "num_classes": 5, "grid": [2, 2], "epochs": 2, "views_per_epoch": 4},
    **{"views_per_shard": 4, "soft_classes": 2, "soft_temperature": 1.0, "versions": {"torch": "2"}, "note": ""},
}


@cache
def _views() -> list[bytes]:
    torch.manual_seed(0)
    dense = torch.randn(4, 5, 2, 2)
    envelope = upper_envelope(dense, dense.mean((2, 3)), Ladder(declared_ratios(2)))
    return pack(envelope, soft_targets(dense.mean((2, 3)), 2, 1.0))


def fuzz_bank(data: bytes) -> None:
    """Read a bank: a changed manifest, and a shard that is damaged, or wrong with the right sums."""
    choices = Choices(data)
    with scratch() as folder:
        root = Path(folder)
        kind = choices.below(5)
        manifest = as_json(change(MANIFEST, choices)) if kind in (0, 1) else as_json(MANIFEST)
        (root / "manifest.json").write_bytes(choices.rest() if kind == 0 else manifest)
        try:
            name = read_manifest(root).fingerprint().encode()
        except UserError:
            name = b"0" * 16
        shard = bytearray(_shard(choices, name, hostile=kind == 4))
        if kind == 3:
            at = choices.below(len(shard))
            shard[at : at + choices.below(9)] = choices.bytes(choices.below(9))
        path = shard_path(root, 0, 0)
        path.parent.mkdir()
        path.write_bytes(choices.rest() if kind == 2 else shard)
        verify_bank(root)
        bank, positions = Bank(root), np.arange(4)
        assert bank.labels(0, positions, 0.5)[0].shape == (4, *bank.manifest.grid)
        bank.soft_targets(0, positions)
        describe_bank(root)


def _shard(choices: Choices, bank: bytes, *, hostile: bool) -> bytes:
    views = list(_views())
    offsets = np.cumsum([0, *map(len, views)]).astype("<u4")
    payload, head = bytearray(b"".join(views)), [0, 0, 4, 1024]
    if hostile:
        for _ in range(choices.below(3)):
            offsets[choices.below(5)] = choices.number() % 2**32
        head[choices.below(4)] = choices.pick((head[0], choices.number() % 2**32))
        for _ in range(choices.below(4)):
            payload[choices.below(len(payload))] = choices.below(256)
    begin = struct.pack("<8s16sIIII", b"CSKDBNK1", bank, *head) + offsets.tobytes()
    begin += struct.pack("<I", zlib.crc32(bytes(payload)))
    return begin + struct.pack("<I", zlib.crc32(begin)) + bytes(payload)
