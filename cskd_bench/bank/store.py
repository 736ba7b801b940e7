"""A bank on disk: manifest.json, which says what its labels depend on, and one folder of shards an epoch."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError, model_validator

from cskd_bench.bank.envelope import MOST_EPOCHS, Ladder, declared_ratios
from cskd_bench.bank.pack import SoftTargets
from cskd_bench.bank.shard import Shard
from cskd_bench.config import Precision
from cskd_bench.data.decode import DECODING
from cskd_bench.errors import UserError
from cskd_bench.files import write_file
from cskd_bench.schema import StrictModel, fingerprint

_LEFT_OUT: Any = object()  # a setting at its default that a bank or a run does not name

MOST_PARTS: Final = 100_000  # of an epoch
SOFT_CLASSES: Final = 64  # most logits of a view that soft targets keep


class BankManifest(StrictModel):
    """What a bank's labels depend on. `views` and `teacher` are compared with a run, key by key."""

    format: Literal[1] = 1
    views: dict[str, Any]  # seed, data, augmentation, view size, images, SHA-256 of some views' pixels
    teacher: dict[str, Any]  # name, SHA-256 of the weights, resolution, precision
    teacher_source: Literal["", "timm", "file"] = ""  # of the weights; "" in banks that do not say
    precision: Precision  # of the teacher while labelling
    num_classes: PositiveInt
    grid: tuple[PositiveInt, PositiveInt]  # h, w
    epochs: Annotated[int, Field(ge=1, le=MOST_EPOCHS)]  # the schedules of a run of so many epochs have exact ratios
    views_per_epoch: PositiveInt
    views_per_shard: PositiveInt
    soft_classes: NonNegativeInt = 0  # k of the soft targets
    soft_temperature: PositiveFloat = 1.0
    versions: dict[str, str]  # when it was begun; told where pixels differ, not compared
    note: Annotated[str, Field(exclude_if=lambda note: not note)] = ""  # what records made from it should say
    decoding: Annotated[int, Field(exclude_if=lambda rules: rules == 1)] = 1  # of images: data/decode.py; 1 is not said

    @model_validator(mode="after")
    def _has_names(self) -> "BankManifest":
        if self.parts() > MOST_PARTS:
            raise ValueError(f"an epoch of {self.parts()} shards; names of their files hold up to {MOST_PARTS}")
        return self

    def fingerprint(self) -> str:
        """Name the bank; every shard carries it. Library versions do not change it: the pixels' hash would."""
        return fingerprint(self.model_dump(mode="json", exclude={"versions", "teacher_source", "note", "decoding"}))

    def tell_decoding(self, folder: Path) -> None:
        """Say on stderr where the labels were made of images that were decoded otherwise than now."""
        if self.decoding != DECODING:
            print(
                f"{folder}: its labels are of images that were not turned as their EXIF data say, nor scaled from 16 "
                "bits; where the data have such images, build it again",
                file=sys.stderr,
            )

    def parts(self) -> int:
        """Return how many shards an epoch has."""
        return -(-self.views_per_epoch // self.views_per_shard)


class Bank:
    """Teacher labels that were computed ahead of training, by epoch, position and ratio.

    Any number of processes may read one bank. UserError for a folder without a bank, and a damaged or missing shard.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self.ladder = Ladder(declared_ratios(self.manifest.epochs))
        self._fingerprint = self.manifest.fingerprint()
        self._open: dict[tuple[int, int], Shard] = {}

    def labels(self, epoch: int, positions: np.ndarray, ratio: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the fused labels (B, h, w) at a ratio and the global labels (B,), int64, of an epoch's positions."""
        code = self.ladder.code(ratio)
        order, groups = self._by_part(positions)
        with self._unpacking(epoch):
            views = [self.shard(epoch, part).views(group) for part, group in groups]
            fused = np.concatenate([group.labels(code) for group in views])
            return fused[order], np.concatenate([group.global_labels() for group in views])[order]

    def soft_targets(self, epoch: int, positions: np.ndarray) -> SoftTargets:
        """Return the stored part of the global logits of an epoch's positions."""
        order, groups = self._by_part(positions)
        with self._unpacking(epoch):
            found = [self.shard(epoch, part).views(group).soft_targets() for part, group in groups]
            fields = zip(*((soft.classes, soft.logits, soft.rest) for soft in found), strict=True)
            return SoftTargets(*(np.concatenate(field)[order] for field in fields))

    @contextlib.contextmanager
    def _unpacking(self, epoch: int) -> Iterator[None]:
        """UserError where a shard's views are not packed labels, though its sums are right."""
        try:
            yield
        except UserError:
            raise
        except (IndexError, ValueError) as error:
            raise UserError(
                f"{self.folder}: a shard of epoch {epoch} holds views that cannot be unpacked ({error}); remove the "
                "epoch's folder and run bank build again"
            ) from error

    def _by_part(self, positions: np.ndarray) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
        """Group positions by shard; `order` puts the concatenated groups back."""
        part = positions // self.manifest.views_per_shard
        sorted_by_part = np.argsort(part, kind="stable")
        return np.argsort(sorted_by_part), [(int(one), positions[part == one]) for one in np.unique(part)]

    def shard(self, epoch: int, part: int) -> Shard:
        """Open a shard; it stays open for the batches that follow."""
        if (epoch, part) not in self._open:
            if len(self._open) > 64:
                self._open.clear()
            path = shard_path(self.folder, epoch, part)
            shard = Shard(path, self._fingerprint, self.manifest.grid, self.manifest.soft_classes)
            if (shard.epoch, shard.first) != (epoch, part * self.manifest.views_per_shard):
                raise UserError(f"{path}: holds epoch {shard.epoch} from view {shard.first}; it was renamed")
            self._open[epoch, part] = shard
        return self._open[epoch, part]

    def missing(self, epochs: range) -> list[Path]:
        """Return the shards of these epochs that are not there yet."""
        wanted = (shard_path(self.folder, epoch, part) for epoch in epochs for part in range(self.manifest.parts()))
        return [path for path in wanted if not path.exists()]

    def present(self) -> Iterator[tuple[int, int]]:
        """Yield (epoch, part) of every shard that is there, in order."""
        digit = "[0-9]"
        for path in sorted(self.folder.glob(f"epoch{4 * digit}/part{5 * digit}.labels")):
            yield int(path.parent.name.removeprefix("epoch")), int(path.stem.removeprefix("part"))


def labelling_seconds(bank: Bank, epochs: range) -> float:
    """Return what labelling some epochs took, summed over processes; what was not noted counts nothing."""
    seconds = 0.0
    for epoch, part in bank.present():
        if epoch in epochs:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                seconds += float(json.loads(cost_path(bank.folder, epoch, part).read_text(encoding="utf-8"))["seconds"])
    return seconds


def cost_path(folder: Path, epoch: int, part: int) -> Path:
    """Name the file beside a shard that says what labelling it took."""
    return shard_path(folder, epoch, part).with_suffix(".json")


def shard_path(folder: Path, epoch: int, part: int) -> Path:
    """Name a shard's file."""
    return folder / f"epoch{epoch:04d}" / f"part{part:05d}.labels"


def read_manifest(folder: Path) -> BankManifest:
    """Read a bank's manifest; UserError where there is none or it is not one."""
    path = folder / "manifest.json"
    try:
        return BankManifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{folder}: no bank here ({path.name}: {error.strerror}); make one with bank build") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{path}: not a bank's manifest: {'.'.join(map(str, first['loc']))} {first['msg']}") from error


def begin_bank(folder: Path, manifest: BankManifest) -> None:
    """Write the manifest of a new bank, or check that the bank there is the same; UserError with the difference."""
    if not (folder / "manifest.json").exists():
        content = (manifest.model_dump_json(indent=1) + "\n").encode()
        with contextlib.suppress(FileExistsError):  # another process began it just now
            write_file(folder / "manifest.json", content, replace=False)
    there = read_manifest(folder)
    if changes := differences(there.model_dump(mode="json"), manifest.model_dump(mode="json")):
        raise UserError(f"{folder}: is another bank; choose another folder. {refusal(changes, there.versions)}")


def differences(bank: dict[str, Any], run: dict[str, Any], prefix: str = "") -> list[str]:
    """Say where a bank and a run disagree, "key: bank has X, run has Y"; None in the run agrees with anything.

    A key that only one of them has is a setting that the other left at its default.
    """
    found = []
    for key in sorted((bank.keys() | run.keys()) - {"versions", "note", "decoding"}):
        ours, theirs = bank.get(key, _LEFT_OUT), run.get(key, _LEFT_OUT)
        if theirs is None or ours == theirs or (key == "teacher_source" and not ours):
            continue
        if isinstance(ours, dict) and isinstance(theirs, dict):
            found += differences(ours, theirs, f"{prefix}{key}.")
        else:
            found.append(f"{prefix}{key}: bank has {_shown(ours)}, run has {_shown(theirs)}")
    return found


def _shown(value: object) -> str:
    return "the default" if value is _LEFT_OUT else repr(value)


def refusal(changes: list[str], versions: dict[str, str]) -> str:
    """Put differences into one sentence; where only pixels differ, the libraries do."""
    text = "; ".join(changes)
    if any(change.startswith("views.pixels") for change in changes):
        text += f" (the bank was made with {', '.join(f'{name} {version}' for name, version in versions.items())})"
    return text


def verify_bank(folder: Path) -> list[str]:
    """Check every byte of every shard; return one sentence per damaged or foreign file."""
    bank = Bank(folder)
    problems = []
    for epoch, part in bank.present():
        try:
            bank.shard(epoch, part).verify()
        except UserError as error:
            problems.append(str(error))
    return problems


def describe_bank(folder: Path) -> dict[str, Any]:
    """Return the manifest, the epochs that are complete, and views and bytes so far."""
    bank = Bank(folder)
    shards = list(bank.present())
    views = sum(bank.shard(epoch, part).count for epoch, part in shards)
    size = sum(shard_path(folder, epoch, part).stat().st_size for epoch, part in shards)
    begun = sorted({epoch for epoch, _ in shards})
    return {
        "manifest": bank.manifest.model_dump(mode="json"),
        "complete_epochs": [epoch for epoch in begun if not bank.missing(range(epoch, epoch + 1))],
        "incomplete_epochs": [epoch for epoch in begun if bank.missing(range(epoch, epoch + 1))],
        "views": views,
        "bytes": size,
        "bytes_per_view": size / views if views else 0.0,
        "labelling_seconds": labelling_seconds(bank, range(bank.manifest.epochs)),
    }
