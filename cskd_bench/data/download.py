"""Download a data set through torchvision's own code, which checks the MD5 of what it gets."""

import http.client
import socket
import tarfile
import urllib.error
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cskd_bench.data.layouts import PACKED
from cskd_bench.data.named import DOWNLOADED
from cskd_bench.data.open import open_source
from cskd_bench.data.sources import data_path
from cskd_bench.data.unpack import move_in, staging
from cskd_bench.errors import UserError
from cskd_bench.task import TaskData

PATIENCE: Final = 60.0  # seconds without a byte


def can_download(data: TaskData) -> bool:
    """Whether torchvision can download a task's data."""
    return data.dataset in DOWNLOADED


def download(data: TaskData, splits: Sequence[str]) -> str:
    """Download a task's data into its root unless the splits are there; say in a sentence what was done.

    Everything is fetched and unpacked in a folder of its own and named at the end: an interrupted download, or one
    with another MD5, leaves nothing. UserError for data that torchvision cannot download, without a network, for a
    wrong file, and where the root holds a part of the data.
    """
    root, layout = data_path(data.root), PACKED.get(data.dataset)
    try:
        for split in splits:
            open_source(data, split)
        return f"{root if data.root else data.dataset}: already there, not downloaded"
    except UserError as error:
        broken = str(error)
    if not can_download(data) or layout is None:
        raise UserError(f"{data.dataset} cannot be downloaded: {data.by_hand or broken}")
    if (root / layout.inner).exists():
        raise UserError(f"{root / layout.inner}: is there, but not whole ({broken}); move it away, and download again")
    with staging(root) as temporary:
        _fetch(data, DOWNLOADED[data.dataset], temporary)
        (temporary / "whole").mkdir()
        (temporary / layout.inner).rename(temporary / "whole" / layout.inner)
        move_in(temporary / "whole", root)
    for split in splits:
        open_source(data, split)
    return f"{root / layout.inner}: downloaded"


def _fetch(data: TaskData, name: str, folder: Path) -> None:
    import torchvision.datasets

    told = f"{data.dataset} is not downloaded"
    by_hand = f"; to get the data: {data.by_hand}" if data.by_hand else ""
    try:
        with _guarded():
            getattr(torchvision.datasets, name)(folder, download=True)
    except urllib.error.HTTPError as error:
        raise UserError(f"{told}: {error.url} answers {error.code} {error.reason}{by_hand}") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise UserError(f"{told}: its server cannot be reached ({reason}){by_hand}") from error
    except OSError as error:
        raise UserError(f"{told}: {error.strerror or error}") from error
    except (RuntimeError, tarfile.TarError, EOFError, zlib.error, ValueError) as error:
        reason = str(error).partition("\n")[0].replace("You can use download=True to download it", "").strip()
        raise UserError(f"{told}: what came is damaged, or has another MD5 than it should have ({reason})") from error


@contextmanager
def _guarded() -> Iterator[None]:
    """Give up on a silent server, and let no archive write outside of its folder."""
    waiting, unguarded = socket.getdefaulttimeout(), getattr(tarfile.TarFile, "extraction_filter", None)
    socket.setdefaulttimeout(PATIENCE)
    if hasattr(tarfile, "data_filter"):
        tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        yield
    finally:
        socket.setdefaulttimeout(waiting)
        if hasattr(tarfile, "data_filter"):
            tarfile.TarFile.extraction_filter = unguarded
