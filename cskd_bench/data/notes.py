"""What a person and a record should know of the data of a run: files left out, labels read in another way."""

import sys
from functools import lru_cache

from cskd_bench.config import DataConfig
from cskd_bench.data.sources import Source, data_path


def join_notes(*notes: str) -> str:
    """Return several notes as one, each of them once; empty where there are none."""
    return "; ".join(dict.fromkeys(filter(None, notes)))


def folder_note(source: Source) -> str:
    """Say which files of a source's folders are left out, or used though torchvision would leave them out."""
    return _collect(source, "folder_note")


def label_note(source: Source) -> str:
    """Say how the labels of a source were read where that is not obvious."""
    return _collect(source, "label_note")


def tell_folder_note(data: DataConfig, note: str) -> None:
    """Say a folder's note on stderr, where there is one."""
    if note:
        say_once(f"{data_path(data.root)}: {note}")


@lru_cache
def say_once(sentence: str) -> None:
    """Say a sentence on stderr, once in a process."""
    print(sentence, file=sys.stderr)


def _collect(source: object, name: str) -> str:
    """Join an attribute of a source with those of the sources that it was made from."""
    inner = [*getattr(source, "parts", ()), getattr(source, "source", None), getattr(source, "clean", None)]
    return join_notes(str(getattr(source, name, "")), *(_collect(one, name) for one in inner if one is not None))
