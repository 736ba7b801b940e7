"""How strong teachers are on the views of runs: the files that `bank agreement --output` leaves in RESULTS/teachers."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, PositiveInt, ValidationError

from cskd_bench.errors import UserError
from cskd_bench.files import write_file
from cskd_bench.record import CodeRef
from cskd_bench.schema import StrictModel

TEACHERS: Final = "teachers"  # in a results folder
TEACHER_HEAD: Final = [
    *("teacher", "data", "map", "views whose global label is the image's class", "positions whose local label is"),
    *("positions where both are the same", "views", "seeds"),
]
Share = Annotated[float, Field(ge=0, le=1)]


class TeacherMeasure(StrictModel):
    """What `bank agreement` counted on the views of one seed, and where it comes from; shares from 0 to 1.

    `student`, `pretrain_data` and `pretrain_recipe` are those of the run's records. `teacher` is its name with
    resolution and stride.
    """

    schema_version: int = 1
    student: str
    pretrain_data: str
    pretrain_recipe: str
    seed: int
    teacher: str
    weights: str  # 12 hex digits of the hash of its file, or "timm"
    grid: tuple[PositiveInt, PositiveInt]
    views: PositiveInt
    global_top1: Share
    local_top1: Share
    local_is_global: Share
    command: str
    created: str  # UTC
    code: CodeRef
    versions: dict[str, str]  # of the libraries that labelled

    def write(self, path: Path) -> None:
        """Keep the measurement in a new file; UserError where there is one already."""
        content = (json.dumps(self.model_dump(mode="json"), indent=1) + "\n").encode()
        try:
            write_file(path, content, replace=False)
        except FileExistsError:
            raise UserError(f"{path}: exists already; measurements are not overwritten, name a new file") from None

    @property
    def named(self) -> str:
        """The teacher as tables name it, with the hash of its weights: `b_cnn@0123456789ab at 64 px`."""
        name, space, set_up = self.teacher.partition(" ")
        return self.teacher if self.weights == "timm" else f"{name}@{self.weights}{space}{set_up}"

    def is_of(self, pretrain_data: str, teacher: str) -> bool:
        """Say whether these are labels of that teacher for that data."""
        return self.pretrain_data == pretrain_data and same_teacher(self.named, teacher)


def without_hash(teacher: str) -> str:
    """Return a teacher's name in tables without the hash of its weights."""
    return re.sub(r"@\S+", "", teacher)


def same_teacher(one: str, other: str) -> bool:
    """Whether two names in tables are of one teacher; a name without a hash is that of any weights."""
    return one == other or (("@" not in one or "@" not in other) and without_hash(one) == without_hash(other))


def read_teachers(results: Path) -> list[TeacherMeasure]:
    """Read every measurement of a results folder in name order; UserError names a file that is none."""
    return [_read(path) for path in sorted((results / TEACHERS).glob("*.json"))]


def teacher_rows(measures: Sequence[TeacherMeasure]) -> list[list[str]]:
    """Return a row, under `TEACHER_HEAD`, of each teacher and recipe in the order of the files, over all seeds.

    A hash is named only where teachers of one name have several weights, a recipe only where one row would be like
    another.
    """
    weights = Counter(teacher for teacher, _ in {(one.teacher, one.weights) for one in measures})
    found: dict[tuple[str, str, str, tuple[int, int]], list[TeacherMeasure]] = {}
    for one in measures:
        name = one.named if weights[one.teacher] > 1 else one.teacher
        found.setdefault((name, one.pretrain_data, one.pretrain_recipe, one.grid), []).append(one)
    recipes = Counter((teacher, data) for teacher, data, _, _ in found)
    rows = []
    for (teacher, data, recipe, (height, width)), group in found.items():
        views = sum(one.views for one in group)
        shares = [
            sum(one.views * getattr(one, key) for one in group) / views
            for key in ("global_top1", "local_top1", "local_is_global")
        ]
        told = [f"{100 * share:.1f} %" for share in shares]
        views_of = f"{data}, recipe {recipe[:8]}" if recipes[teacher, data] > 1 else data
        rows.append(
            [teacher, views_of, f"{height} x {width}", *told, f"{views:,}", f"{len({one.seed for one in group})}"]
        )
    return rows


def _read(path: Path) -> TeacherMeasure:
    try:
        return TeacherMeasure.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        problem = ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
        raise UserError(f"{path}: not written by `bank agreement --output`: {problem}") from error
