"""Strict base model, TOML loading with overrides, fingerprints, shipped files."""

import copy
import hashlib
import json
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    PlainSerializer,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from cskd_bench.errors import UserError
from cskd_bench.names import readable

Model = TypeVar("Model", bound="StrictModel")
_DEEPEST: Final = 40  # levels of tables


def _any_text(value: Any, check: ValidatorFunctionWrapHandler) -> str:
    """Let a text be, also one with bytes that are not UTF-8, which pydantic refuses."""
    return value if isinstance(value, str) else str(check(value))


# A file or folder by its name, which need not be UTF-8; records hold it as a person can read it.
PathText = Annotated[str, WrapValidator(_any_text), PlainSerializer(readable, when_used="json")]


class StrictModel(BaseModel):
    """A frozen settings object that refuses unknown keys and wrong types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def fingerprint(value: StrictModel | dict[str, Any]) -> str:
    """Return 16 hex digits that change with any value (SHA-256 of canonical JSON)."""
    data = value.model_dump(mode="json") if isinstance(value, StrictModel) else value
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; a missing, unreadable or malformed one is a UserError that names it."""
    try:
        if path.is_fifo() and path.parts[:2] != ("/", "dev"):  # a shell's own pipes lie there, with a writer
            raise UserError(f"{path}: is a named pipe, which may never end; give a file")
        text = path.read_bytes().decode("utf-8-sig")  # editors of Windows put a mark before the text
        read = tomllib.loads(text)
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error
    except RecursionError as error:
        raise UserError(f"{path}: not valid TOML: its values are nested too deeply") from error
    except ValueError as error:  # TOMLDecodeError, or a number with thousands of digits
        raise UserError(f"{path}: not valid TOML: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if _too_deep(read):
        raise UserError(f"{path}: not valid TOML: its values are nested too deeply")
    return read


def _too_deep(value: Any) -> bool:
    """Whether tables and arrays lie deeper in each other than any settings do; dotted keys need no brackets."""
    level = [value]
    for _ in range(_DEEPEST):
        tables = [item for item in level if isinstance(item, dict | list)]
        level = [inner for item in tables for inner in (item.values() if isinstance(item, dict) else item)]
    return bool(level)


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of `data` with `a.b=value` applied; values are TOML, or else plain strings."""
    result = copy.deepcopy(data)
    for text in overrides:
        dotted, separator, value = text.partition("=")
        keys = dotted.strip().split(".")
        if not separator or not all(keys):
            raise UserError(f"--set {text}: expected key=value, for example --set recipe.epochs=100")
        node = result
        for key in keys[:-1]:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise UserError(f"--set {text}: {key!r} is a value, not a table")
        node[keys[-1]] = _toml_value(value.strip())
    return result


def override(key: str, text: str) -> str:
    """Return the override that sets a key to a text, whatever stands in it: a folder's name may hold any sign."""
    quoted = json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML has JSON's escapes
    return f"{key}={quoted}"


def _toml_value(text: str) -> Any:
    try:
        read = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # nested too deeply, or with too many digits, to be a value of ours
        return text
    return read["value"] if len(read) == 1 else text  # a line break may begin another key


def validate(model: type[Model], data: dict[str, Any], where: str) -> Model:
    """Validate `data`; every problem is reported with its key in a UserError that names `where`."""
    if problem := next(_unfit(data), ""):
        raise UserError(f"{where}: {problem}")
    try:
        return model.model_validate(as_tuples(data))
    except ValidationError as error:
        raise UserError(f"{where}: {'; '.join(map(_sentence, error.errors()))}") from error


def _unfit(value: Any, key: str = "") -> Iterator[str]:
    """Yield a sentence on each number that is too large for TOML, and each text that no file name can hold."""
    if isinstance(value, dict):
        for inner, item in value.items():
            yield from _unfit(item, f"{key}.{inner}".lstrip("."))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _unfit(item, key)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield f"{key}: {str(value)[:24]} is no number of 64 bits"
    elif isinstance(value, str) and "\0" in value:
        yield f"{key}: holds a zero byte ({value[:40]!r})"


def as_tuples(value: Any) -> Any:
    """Return a table with tuples for arrays: TOML and JSON have the latter, frozen models the former."""
    if isinstance(value, dict):
        return {key: as_tuples(item) for key, item in value.items()}
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value


def _sentence(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key}"
    if problem["type"] == "missing":
        return f"missing key {key}"
    if problem["type"] == "union_tag_not_found":
        return f"missing key {key}.{_kind_of(problem)}"
    if problem["type"] == "union_tag_invalid":
        wanted, given = problem["ctx"]["expected_tags"], problem["ctx"]["tag"]
        return f"{key}.{_kind_of(problem)}: input should be one of {wanted} (got {given!r})"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    shown = problem.get("input")
    given = f" (got {shown!r})" if isinstance(shown, str | int | float | bool) else ""
    return f"{key}: {message}{given}" if key else f"{message}{given}"


def _kind_of(problem: Any) -> str:
    """Return the key that says of which kind a table is."""
    return str(problem["ctx"]["discriminator"]).strip("'")


def load_toml(path: Path, model: type[Model], overrides: Sequence[str] = ()) -> Model:
    """Load and validate one TOML file, with `--set` overrides applied before validation."""
    return validate(model, apply_overrides(read_toml(path), overrides), str(path))


def shipped(folder: str) -> Path:
    """Return the shipped `tasks` or `configs` folder, from the wheel or from the checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "shipped" / folder
    return installed if installed.is_dir() else package.parent / folder


def shipped_file(folder: str, path: Path) -> Path:
    """Resolve a file as given, else within a shipped folder (`configs/deit_tiny.toml` or `deit_tiny`)."""
    inside = shipped(folder) / (path.relative_to(folder) if path.parts[:1] == (folder,) else path)
    for candidate in (path, inside, inside.parent / f"{inside.name}.toml"):
        if is_file(candidate):
            return candidate
    return path


def is_file(path: Path) -> bool:
    """Say whether there is a file of a name; of a name that no file system takes there is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
