"""Banks whose sums are right and whose content is not: refused with a sentence, never unpacked into wrong labels."""

import json
import struct
import zlib

import numpy as np
import pytest
import torch

from cskd_bench.bank.envelope import Ladder, declared_ratios, upper_envelope
from cskd_bench.bank.pack import pack
from cskd_bench.bank.shard import write_shard
from cskd_bench.bank.store import Bank, read_manifest, shard_path
from cskd_bench.errors import UserError

MANIFEST = {
    **{"views": {"seed": 0}, "teacher": {"name": "a"}, "precision": "fp32", "num_classes": 5, "grid": [2, 2]},
    **{"epochs": 1, "views_per_epoch": 4, "views_per_shard": 4, "versions": {}},
}


def begin(folder, **changes):
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(MANIFEST | changes))
    return shard_path(folder, 0, 0), read_manifest(folder).fingerprint()


def views():
    torch.manual_seed(0)
    dense = torch.randn(4, 5, 2, 2)
    return pack(upper_envelope(dense, dense.mean((2, 3)), Ladder(declared_ratios(1))))


def read(folder):
    return Bank(folder).labels(0, np.arange(4), 0.5)


def test_a_sound_bank_of_this_kind_is_read(tmp_path):
    path, name = begin(tmp_path)
    write_shard(path, name, 0, 0, views())
    assert read(tmp_path)[0].shape == (4, 2, 2)


@pytest.mark.parametrize("content", [b"\0\0", b"\xff\xff\xff\xff", b"\1\0\4\0\0\0", b"\1\0\0"])
def test_views_that_cannot_be_unpacked_are_refused(tmp_path, content):
    path, name = begin(tmp_path)
    write_shard(path, name, 0, 0, [*views()[:3], content])
    with pytest.raises(UserError, match=r"shard of epoch 0 holds views that cannot be unpacked .*bank build again"):
        read(tmp_path)


def test_a_shard_of_a_bank_whose_name_is_no_text_is_of_another_bank(tmp_path):
    path, name = begin(tmp_path)
    write_shard(path, name, 0, 0, views())
    content = bytearray(path.read_bytes())
    content[8:24] = b"\xff" * 16
    end = 40 + 4 * (4 + 1 + 1)
    content[end : end + 4] = struct.pack("<I", zlib.crc32(content[:end]))
    path.write_bytes(content)
    with pytest.raises(UserError, match="belongs to another bank"):
        read(tmp_path)


def test_a_grid_larger_than_what_the_shard_holds_is_refused_before_memory_is_asked_for(tmp_path):
    path, name = begin(tmp_path, grid=[2**20, 2**20])
    write_shard(path, name, 0, 0, views())
    with pytest.raises(UserError, match="its length is damaged"):
        read(tmp_path)


def test_more_shards_than_names_can_number_are_refused(tmp_path):
    with pytest.raises(UserError, match="an epoch of 1000000000 shards; names of their files hold up to 100000"):
        begin(tmp_path, views_per_epoch=10**9, views_per_shard=1)
