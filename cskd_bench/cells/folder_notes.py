"""What of the data is left out, or used though others would not: said to a person once, and kept in records."""

import sys
from functools import lru_cache

from cskd_bench.config import DataConfig
from cskd_bench.data.sources import Source, data_path, folder_note


def join_notes(*sources: Source) -> str:
    """Return the notes of several sources as one; empty where there are none."""
    return "; ".join(dict.fromkeys(filter(None, map(folder_note, sources))))


def tell_note(data: DataConfig, note: str) -> None:
    """Say such a note on stderr, where there is one."""
    if note:
        _tell_once(f"{data_path(data.root)}: {note}")


@lru_cache
def _tell_once(sentence: str) -> None:
    print(sentence, file=sys.stderr)
