"""The model card of an export: what the model is, what was measured, under which licences, and how to load it."""

import json
from pathlib import Path
from typing import Any, Final

from cskd_bench.export.measured import Measured
from cskd_bench.models.checkpoints import Loaded
from cskd_bench.report.tuning import tuned_with
from cskd_bench.schema import read_toml
from cskd_bench.task import task_files

_HUB_NAMES: Final = {  # data sets under the names that the Hub knows them by
    "imagenet1k": "ILSVRC/imagenet-1k",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "food101": "ethz/food101",
}


def model_card(
    loaded: Loaded, architecture: str, own: bool, measured: Measured | None, licence: str, repo: str = ""
) -> str:
    """Return README.md: YAML for the Hub, then numbers, licences and how to load the folder, or `repo` of the Hub.

    `own`: whether the folder brings modeling.py. Without `licence` the card says that none was stated.
    """
    title = repo.rpartition("/")[2] or loaded.checkpoint.run
    data = _data_names(loaded, measured)
    front = _front_matter(loaded, title, data, measured, licence)
    rows = "\n".join(f"| {name} | {value} |" for name, value in _facts(loaded, architecture, measured).items())
    return "\n".join(
        (
            "---",
            *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()),
            "---",
            f"# {title}\n",
            f"A {loaded.model.name} ({loaded.method.label}), exported by cskd-bench.\n",
            f"| | |\n|---|---|\n{rows}\n",
            _licences(data, licence, own),
            "## Use\n",
            _usage(own, repo),
        )
    )


def _data_names(loaded: Loaded, measured: Measured | None) -> list[str]:
    """Name the data that the weights were trained on: of the pretraining, then of a task that followed."""
    names = [*loaded.checkpoint.pretrain_data.split(" then "), measured.record.task.name if measured else ""]
    return list(dict.fromkeys(name for name in names if name not in ("", "external")))


def _front_matter(
    loaded: Loaded, title: str, data: list[str], measured: Measured | None, licence: str
) -> dict[str, Any]:
    front: dict[str, Any] = {"license": licence or "other"}
    if not licence:
        front["license_name"] = "not-stated"
    front |= {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["timm", "image-classification", "cskd-bench", loaded.method.kind],
    }
    if data:
        front["datasets"] = [_HUB_NAMES.get(name, name) for name in data]
    if measured and measured.score is not None:
        name = measured.record.task.name
        metric = {"type": "accuracy", "name": measured.record.task.metric, "value": round(measured.score, 6)}
        about = {"name": name, "type": _HUB_NAMES.get(name, name)}
        result = {"task": {"type": "image-classification"}, "dataset": about, "metrics": [metric]}
        front["model-index"] = [{"name": title, "results": [result]}]
    return front


def _facts(loaded: Loaded, architecture: str, measured: Measured | None) -> dict[str, object]:
    """Return the rows of the card's table; what is not known is said so."""
    run, record = loaded.pretrain_config, measured.record if measured else None
    rows: dict[str, object] = {_metric(measured): _score(measured)}
    rows |= {
        "timm architecture": f"`{architecture}`",
        "image size": f"{loaded.image_size} px",
        "parameters": f"{loaded.model.parameters:,}",
        "classes": loaded.num_classes,
        "weights": f"{loaded.checkpoint.weights}, SHA-256 `{loaded.checkpoint.sha256}`",
        "method": loaded.method.label,
        "teacher": loaded.method.teacher or "none",
        "seed": record.seed if record else loaded.checkpoint.pretrain_seed,
        "recipe": f"{run.recipe.epochs} epochs, fingerprint `{run.recipe_fingerprint()}`" if run else None,
        "images": f"`{loaded.checkpoint.pretrain_images}`" if loaded.checkpoint.pretrain_images else None,
    }
    if record:
        changed = " (with changes that are not committed)" if record.code.dirty else ""
        if record.protocol != "pretrain":
            tuned = tuned_with(record.config.get("task") or {})
            taught = f" with {tuned}" if tuned else ""
            rows["then"] = f"{record.protocol} on {record.task.name}{taught}, recipe `{record.recipe}`"
        rows["commit"] = f"`{record.code.commit}`{changed}"
        rows["record"] = f"`{record.id}`"
        rows["trained with"] = ", ".join(f"{name} {number}" for name, number in sorted(record.versions.items()))
    else:
        rows["commit"] = None
    return {name: "not known" if value is None else value for name, value in rows.items()}


def _metric(measured: Measured | None) -> str:
    return measured.record.task.metric.replace("top1", "top-1") if measured else "top-1"


def _score(measured: Measured | None) -> str:
    if measured is None or measured.score is None:
        return "not measured"
    record = measured.record
    return f"{100 * measured.score:.2f} % of {record.examples:,} images ({record.task.name}, {record.protocol})"


def _licences(data: list[str], licence: str, own: bool) -> str:
    """Say under which licences weights, code and images stand, as far as that is known."""
    lines = [f"- Weights: {licence or 'none was stated by whoever exported them'}."]
    if own:
        lines.append("- `modeling.py`: Apache-2.0.")
    lines += [f"- Images of {name}: {data_licence(name) or 'licence not known here'}." for name in data]
    return "## Licences\n\n" + "\n".join(lines) + "\n"


def data_licence(name: str) -> str:
    """Return what the shipped task of that name, or of data of that name, states as its licence; else nothing."""
    tables = {task: read_toml(file).get("data", {}) for task, file in task_files().items()}
    found = [tables.get(name, {}), *(table for table in tables.values() if Path(str(table.get("root"))).name == name)]
    return next((str(table["licence"]) for table in found if table.get("licence")), "")


def _usage(own: bool, repo: str) -> str:
    """Return the lines that load the model through timm, from this folder or from the Hub."""
    lines = ["import timm"]
    if not own:
        place = f"hf-hub:{repo}" if repo else "local-dir:FOLDER"
        lines += ["", f'model = timm.create_model("{place}", pretrained=True).eval()']
    elif repo:
        lines = ["import sys", "", *lines, "from huggingface_hub import snapshot_download", ""]
        lines += [f'folder = snapshot_download("{repo}")', "sys.path.insert(0, folder)"]
        lines += ["import modeling  # registers the architecture with timm", ""]
        lines += ['model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()']
    else:
        lines += ["import modeling  # this folder's, which must be on Python's path; registers the architecture", ""]
        lines += ['model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()']
    lines += ["view = timm.data.resolve_model_data_config(model)", "transform = timm.data.create_transform(**view)"]
    return "\n".join(("```python", *lines, "```", ""))
