"""Export a student as a folder that timm loads: weights, configuration, model card and, where needed, its code."""

import json
from pathlib import Path
from typing import Any

from torch import nn

from cskd_bench import __version__
from cskd_bench.errors import UserError
from cskd_bench.export.architecture import build_exported, timm_architecture
from cskd_bench.export.card import model_card
from cskd_bench.export.measured import find_measured
from cskd_bench.files import write_folder
from cskd_bench.models import architectures
from cskd_bench.models.checkpoints import Loaded, load_checkpoint
from cskd_bench.models.weights import Weights, plain_state, save_tensors

RESULTS = Path("results")
MODELING = "modeling.py"


def export_timm(
    checkpoint: Path,
    output: Path,
    weights: Weights = "raw",
    *,
    model: str = "",
    results: Path = RESULTS,
    licence: str = "",
) -> str:
    """Write a folder that gives the student's logits through timm alone; returns how to load it.

    `model` is the timm name of a weights file's architecture; the card's numbers come from the run's record in
    `results`. Raises UserError for a folder that is in use or a student that has no timm architecture.
    """
    loaded = load_checkpoint(checkpoint, model=model, weights=weights)
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UserError(f"{output}: is there already; name a new folder")
    try:
        with write_folder(output, replace=False) as folder:
            fill_folder(folder, loaded, checkpoint, results, licence)
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror or error}") from error
    first = f"import modeling  # with {output} on the path; then " if (output / MODELING).exists() else ""
    return f'{first}timm.create_model("local-dir:{output}", pretrained=True)'


def fill_folder(folder: Path, loaded: Loaded, checkpoint: Path, results: Path, licence: str, repo: str = "") -> None:
    """Write model.safetensors, config.json, README.md and, for an architecture of ours, modeling.py.

    Nothing is written unless the exported logits are the native ones. `repo` is where the Hub will hold the folder.
    """
    architecture, arguments = timm_architecture(loaded)
    exported = build_exported(loaded, architecture, arguments)
    own = architecture.startswith("cskd_")
    card = model_card(loaded, architecture, own, find_measured(checkpoint, results, loaded), licence, repo)
    save_tensors(folder / "model.safetensors", plain_state(loaded.student))
    config = json.dumps(timm_config(loaded, architecture, arguments, exported), indent=1)
    (folder / "config.json").write_text(config + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")
    if own:
        (folder / MODELING).write_text(modeling_text(), encoding="utf-8")


def timm_config(loaded: Loaded, architecture: str, arguments: dict[str, Any], exported: nn.Module) -> dict[str, Any]:
    """Return timm's config.json: the architecture with its arguments, and how views are made."""
    student, timms = loaded.student, exported.pretrained_cfg
    assert isinstance(timms, dict)
    names = {"label_names": list(loaded.classes)} if loaded.classes else {}
    return {
        "architecture": architecture,
        "num_classes": loaded.num_classes,
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [3, loaded.image_size, loaded.image_size],
            "mean": student.mean.flatten().tolist(),
            "std": student.std.flatten().tolist(),
            "interpolation": loaded.interpolation,
            "crop_pct": loaded.crop,
            "fixed_input_size": bool(timms.get("fixed_input_size")),
            "num_classes": loaded.num_classes,
            "classifier": timms["classifier"],
            "first_conv": timms["first_conv"],
            **names,
        },
    }


def modeling_text() -> str:
    """Return the module that registers our architectures where cskd-bench is not installed."""
    text = Path(architectures.__file__).read_text(encoding="utf-8")
    return f"# cskd_bench/models/architectures.py of cskd-bench {__version__}, Apache-2.0.\n{text}\n\nregister()\n"
