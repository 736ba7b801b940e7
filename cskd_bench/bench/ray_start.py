"""How a bench comes to a Ray cluster, and what must hold there before its first cell starts."""

import json
import os
import socket
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cskd_bench.bench.resources import Resources
from cskd_bench.engine.provenance import code_ref
from cskd_bench.errors import UserError
from cskd_bench.record import CodeRef
from cskd_bench.schema import read_toml

REACH: Final = 10.0  # seconds in which the head of a Ray cluster must answer
PREPARED: Final = 900.0  # seconds in which a node must have prepared what is shipped to it
HERE: Final = "local"
_DATA: Final = "CSKD_BENCH_DATA"
_FAULTS: Final = (ValueError, TypeError, ConnectionError, RuntimeError, OSError)


@dataclass(frozen=True)
class RayPlace:
    """Which cluster, and what is shipped to its nodes; an empty address: RAY_ADDRESS's, else one started here."""

    address: str = ""
    runtime_env: Path | None = None


def import_ray() -> Any:
    """Return the module; UserError where it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise UserError("--executor ray needs Ray: pip install 'cskd-bench[ray]'") from error
    return ray


def connect(ray: Any, place: RayPlace, shipped: dict[str, Any], cpus: int, gpus: int) -> None:
    """Attach to a cluster, or start one here with CPUs and GPUs; what is `shipped` goes to its nodes.

    UserError where no cluster answers, or where Ray refuses what is to be shipped.
    """
    own = {_DATA: os.environ[_DATA]} if _DATA in os.environ else {}
    variables = own | _table(shipped, "env_vars", place)
    environment = shipped | ({"env_vars": variables} if variables else {})
    asked = os.environ.get("RAY_ADDRESS", "")
    address, named = place.address or asked or HERE, "--ray-address" if place.address else "RAY_ADDRESS"
    more: dict[str, Any] = {}
    if address == HERE:
        more = {"num_cpus": cpus, "num_gpus": gpus, "include_dashboard": False}
    elif address == "auto" and asked:
        _require_listener("RAY_ADDRESS", asked)
    else:
        _require_listener(named, address)
    try:
        ray.init(address, runtime_env=environment or None, log_to_driver=False, logging_level="error", **more)
    except _FAULTS as error:
        told = _first_line(error)
        if place.runtime_env:
            raise UserError(
                f"{named} {address} with --ray-runtime-env {place.runtime_env}: Ray says: {told}"
            ) from error
        raise UserError(f"{named} {address}: no Ray cluster can be reached there: {told}") from error


def read_runtime_env(file: Path | None) -> dict[str, Any]:
    """Read a TOML, or a JSON by its name's ending; UserError where it is neither or Ray knows no such keys."""
    if file is None:
        return {}
    from ray.runtime_env import RuntimeEnv

    if file.suffix != ".json":
        found: Any = read_toml(file)
    else:
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"--ray-runtime-env {file}: cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"--ray-runtime-env {file}: holds no table; write keys such as working_dir or pip")
    try:
        RuntimeEnv(**found)
    except _FAULTS as error:
        raise UserError(f"--ray-runtime-env {file}: Ray refuses it: {_first_line(error)}") from error
    return found


def _table(shipped: dict[str, Any], key: str, place: RayPlace) -> dict[str, str]:
    found = shipped.get(key) or {}
    if not isinstance(found, dict):
        raise UserError(f"--ray-runtime-env {place.runtime_env}: {key}: write a table of names and texts")
    return found


def has_gpus(ray: Any) -> bool:
    """Whether any node of the cluster has a GPU."""
    return float(ray.cluster_resources().get("GPU", 0)) > 0


def cpus_of(takes: Resources) -> int:
    """Return the CPUs that Ray sets aside for a cell; where no threads are asked for it has one."""
    return max(1, takes.threads)


def check_room(ray: Any, needs: dict[str, Resources]) -> list[dict[str, Any]]:
    """Return the nodes that can run a cell; UserError where none ever could run one of what is needed, by its name."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    able = {}
    for name, takes in needs.items():
        cpus = cpus_of(takes)
        fitting = [node for node in nodes if _has(node, "CPU") >= cpus and _has(node, "GPU") >= takes.gpus]
        if not fitting:
            sizes = sorted({f"{_has(node, 'CPU'):g} CPUs and {_has(node, 'GPU'):g} GPUs" for node in nodes})
            raise UserError(
                f"{name}: a cell takes {cpus} CPUs and {takes.gpus:g} GPUs, and no node of the Ray cluster has as "
                f"many (there are nodes of {'; of '.join(sizes)}); ask for less, or add such a node"
            )
        able.update({node["NodeID"]: node for node in fitting})
    return list(able.values())


def _has(node: dict[str, Any], resource: str) -> float:
    return float(node["Resources"].get(resource, 0))


def check_nodes(ray: Any, nodes: Sequence[dict[str, Any]], folder: str, shared: Sequence[Path]) -> None:
    """UserError for a node that does not see the shared folders, or would run other code than this bench's.

    `folder` is where cells work on a node: under it relative paths hold.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    with ExitStack() as stack:
        tokens = []
        for path in shared:
            path.mkdir(parents=True, exist_ok=True)
            token = stack.enter_context(tempfile.NamedTemporaryFile(dir=path, prefix=".seen-by-every-node-"))
            tokens.append(str(path / Path(token.name).name))
        look: Any = ray.remote(max_retries=0)(_look)
        asked = {}
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[look.options(num_cpus=0, scheduling_strategy=there).remote(folder, tokens)] = _name(node)
        for reference, name in asked.items():
            try:
                missing, code = ray.get(reference, timeout=PREPARED)
            except ray.exceptions.RayError as error:
                raise UserError(f"{name}: cskd-bench does not start there: {str(error).splitlines()[-1]}") from error
            _check_answer(name, missing, code)


def _look(folder: str, tokens: list[str]) -> tuple[str, CodeRef]:
    """Return, on a node, the first folder that is not seen there, and the code that would run."""
    paths = [Path(folder) / token for token in tokens]
    missing = [folder] if not Path(folder).is_dir() else [str(path.parent) for path in paths if not path.exists()]
    return (missing or [""])[0], code_ref()


def _check_answer(name: str, missing: str, code: CodeRef) -> None:
    if missing:
        raise UserError(
            f"{name}: does not see {missing} of this machine; runs, results and data must lie where every node that "
            "runs cells sees them, such as on a network file system"
        )
    here = code_ref()
    if code != here:
        raise UserError(
            f"{name}: would run cskd-bench {_describe(code)}, the bench is {_describe(here)}; install or ship the "
            "same there (docs/bench.md)"
        )


def _describe(code: CodeRef) -> str:
    commit = f"of commit {code.commit[:12]}" if code.commit else "of an unknown commit"
    return f"{code.version} {commit}{', changed' if code.commit and code.dirty else ''}"


def _name(node: dict[str, Any]) -> str:
    return f"Ray node {node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {node['NodeID'][:8]})"


def words_of(error: Exception) -> str:
    """Say in one line what Ray raised: for an error of the code that it ran, that error."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        return f"{type(cause).__name__}: {_first_line(cause)}"
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no further words"])[0]


def _require_listener(named: str, address: str) -> None:
    """UserError where nobody listens at HOST:PORT: Ray would wait there without end, and not hear Ctrl-C."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return  # `auto`, or what Ray itself refuses
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH).close()
    except (OSError, OverflowError) as error:
        todo = "start the cluster with `ray start --head`, or correct the address"
        if named == "RAY_ADDRESS":
            todo += ", or say `--ray-address local` for one started here"
        raise UserError(f"{named} {address}: no Ray cluster answers there ({error}); {todo}") from error
