"""Writes the corpus that fuzzing begins with: python -m fuzz.seeds, with the folder `tests` on PYTHONPATH.

`seed-*` are sound inputs and a few arbitrary ones; `mended-*` are inputs that once raised what they should not.
"""

import io
import random
import shutil
import tarfile
import zipfile
from collections.abc import Mapping

import numpy as np
from fuzz import data_targets as data
from fuzz import report_targets as report
from fuzz import settings_targets as settings
from fuzz import weights_targets as weights
from fuzz.data_targets import SEPARATOR, picture
from fuzz.documents import as_json, as_toml
from fuzz.targets import CORPUS, TARGETS

AS_IT_IS = b"\1"  # what follows is the file itself
CHANGED = b"\0"  # what follows says what is changed of a sound one


def sound() -> Mapping[str, list[bytes]]:
    """Return inputs of each target that the product takes."""
    plain = 5 * b"\0" + AS_IT_IS  # no method, no words, not a shipped file, its name
    return {
        "image": [picture(kind) for kind in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "ICO")],
        "npz": [AS_IT_IS + _npz()],
        "tar": [AS_IT_IS + _tar()],
        "annotations": [AS_IT_IS + as_json(data.COCO)],
        "coco_list": [AS_IT_IS + as_json(data.LIST)],
        "lists": _lists(),
        "config": [plain + b'[method]\nkind = "cskd"\n', plain + as_toml(settings.config_table())],
        "task": [plain + as_toml(settings.TASK), b"\0\2\0\0\0" + AS_IT_IS + as_toml(settings.TASK)],
        "plan": [b"\0" + AS_IT_IS + as_toml(settings.PLAN)],
        "published": [AS_IT_IS + as_toml(settings.PUBLISHED)],
        "record": [b"\0" + AS_IT_IS + as_json(report.record_tables()[1])],
        "registered": [AS_IT_IS + as_json(report.REGISTERED)],
        "report": [bytes([12]), bytes([12, 0, 0, 1])],
        "manifest": [b"0" * 64 + b"  a.json\n"],
        "weights": _weights(),
        "run_json": [b"\0" + AS_IT_IS + as_json(table) for table in weights.run_tables()],
        "timm_folder": [AS_IT_IS + as_json(weights.TIMM_CONFIG)],
        "resume": [b"\0\0" + AS_IT_IS + b'{"step": 3, "sha256": {}}'],
        "parts": [b"\0\0\1\0\0\1"],
        "bank": [b"\3", b"\4\2"],
    }


def mended() -> Mapping[str, Mapping[str, bytes]]:
    """Return inputs of each target that were faults once, by what is wrong with them; some as the fuzzer found them."""
    plan, plain = b"\0" + AS_IT_IS, 5 * b"\0" + AS_IT_IS
    return {
        "npz": {
            "text-beyond-unicode": bytes.fromhex("68494e4544ae42ed0100540fff2141ffff4f00002a000f2c0000000000000000000f")
        },
        "lists": {"name-with-a-zero-byte": b"\0" + SEPARATOR.join((b"1 a\0.jpg", b"1 a", b"1 1", b"1 1"))},
        "config": {
            "kind-is-a-table": plain + b"[method]\nkind = {}\n",
            "method-with-a-backslash": bytes.fromhex("0000a900000500013f002c0523253f01"),
        },
        "plan": {
            "kind-is-a-table": plan + as_toml(settings.PLAN | {"methods": [{"kind": {}}]}),
            "student-is-the-root": plan + as_toml(settings.PLAN | {"students": ["/"]}),
            "student-has-a-long-name": plan + as_toml(settings.PLAN | {"students": ["x" * 300]}),
            "number-of-many-digits": bytes.fromhex("321a0a0100" + 100 * "af" + "00002d"),
        },
        "weights": {"empty-position-embedding": bytes([4, 0, 0, 0, 1, 0, 0, 0, 2, 0])},
        "parts": {"rows-of-different-shapes": bytes.fromhex("00636a6a45263a66044ec91a095a453a66044ec91a095a5c8de03b")},
        "bank": {
            "fewer-entries-than-said": bytes.fromhex("0e420effffffffffffffff"),
            "view-beyond-the-end": bytes.fromhex("6d4dcd4d4d4d4d4d4d4d4d024d000000000000001e4d4d4d4d4d4d4d4d02"),
        },
    }


def arbitrary(name: str) -> list[bytes]:
    """Return changes of sound inputs, the same at every call."""
    rng = random.Random(name)
    others = ("image", "npz", "coco_list", "annotations", "manifest", "lists")  # bytes as they are, or sound ones, do
    return [] if name in others else [CHANGED + rng.randbytes(30) for _ in range(4)]


def _npz() -> bytes:
    file, jpeg = io.BytesIO(), picture()
    arrays = {"jpeg": np.frombuffer(2 * jpeg, np.uint8), "labels": np.array([0, 1])}
    np.savez(file, offsets=np.array([0, 1, 2]) * len(jpeg), **arrays)
    return file.getvalue()


def _tar() -> bytes:
    """Return two members without what pads a tar at its end."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in (("0.png", picture()), ("0.cls", b"1")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()[: 3 * 512 + 1]


def _lists() -> list[bytes]:
    cub = b"1 a.jpg", b"1 a", b"1 1", b"1 1"
    sun = b"/a/a.jpg", b"/a"
    voc = b"a 1", b"a -1"
    return [bytes([kind]) + SEPARATOR.join(files) for kind, files in enumerate((cub, sun, voc))]


def _weights() -> list[bytes]:
    import torch
    from safetensors.torch import save

    small = {"head.bias": torch.zeros(3)}
    file = io.BytesIO()
    torch.save(small, file)
    with zipfile.ZipFile(file) as archive:
        (program,) = (archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    return [b"\0\0" + save(small), b"\3\0\0" + program, b"\4\0\0\0\0", *(bytes([5, 0, 0, way]) for way in range(10))]


def write_corpus() -> None:
    """Write every file of the corpus anew."""
    shutil.rmtree(CORPUS, ignore_errors=True)
    for name in TARGETS:
        folder = CORPUS / name
        folder.mkdir(parents=True)
        for number, content in enumerate([*sound()[name], *arbitrary(name)]):
            (folder / f"seed-{number:02d}").write_bytes(content)
        for what, content in mended().get(name, {}).items():
            (folder / f"mended-{what}").write_bytes(content)


if __name__ == "__main__":
    write_corpus()
