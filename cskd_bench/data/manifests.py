"""Manifests: how many classes and images a complete, well-known data set has."""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from pydantic import PositiveInt

from cskd_bench.schema import StrictModel, validate


class Manifest(StrictModel):
    """A data set as its authors published it; `folders` are names that its folder usually has."""

    title: str
    classes: PositiveInt
    folders: tuple[str, ...]
    splits: dict[str, PositiveInt]
    source: str


@cache
def manifests() -> Mapping[str, Manifest]:
    """Return the shipped manifests by name: imagenet1k, cifar10, cifar100, flowers102, stanford_cars, coco."""
    path = Path(__file__).resolve().parents[1] / "manifests.toml"
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    return {name: validate(Manifest, table, f"{path}: {name}") for name, table in tables.items()}


def manifest_for_folder(root: str) -> Manifest | None:
    """Return the manifest of the data set whose folder usually has this name, if there is one."""
    name = Path(root).name.lower()
    return next((manifest for manifest in manifests().values() if name in manifest.folders), None)
