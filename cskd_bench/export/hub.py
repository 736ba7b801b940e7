"""Export a student to a repository of the Hugging Face Hub."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cskd_bench.errors import UserError
from cskd_bench.export.folder import RESULTS, fill_folder
from cskd_bench.models.checkpoints import load_checkpoint
from cskd_bench.models.weights import Weights

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def export_hub(
    checkpoint: Path,
    repo: str,
    weights: Weights = "raw",
    *,
    private: bool = False,
    model: str = "",
    results: Path = RESULTS,
    licence: str = "",
) -> str:
    """Upload the folder that `export_timm` writes to the repository USER/NAME; returns its address.

    The repository is made where it is not there. The token is the usual one ($HF_TOKEN, or what `hf auth login` kept).
    Raises UserError for a missing token, a name that is none, and whatever the Hub refuses; nothing is left here.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError("--to hub needs huggingface_hub: pip install huggingface_hub") from error
    if not re.fullmatch(r"[\w-]+/[\w.-]+", repo, re.ASCII):
        raise UserError(f"--repo {repo}: name it USER/NAME, of letters, digits, '.', '_' and '-'")
    token = huggingface_hub.get_token()
    if not token:
        raise UserError("no token for the Hub; set HF_TOKEN, or run `hf auth login`")
    loaded = load_checkpoint(checkpoint, model=model, weights=weights)
    with tempfile.TemporaryDirectory() as place:
        fill_folder(Path(place), loaded, checkpoint, results, licence, repo)
        return _upload(huggingface_hub.HfApi(token=token, library_name="cskd-bench"), Path(place), repo, private)


def _upload(api: HfApi, folder: Path, repo: str, private: bool) -> str:
    """Make the repository and commit the folder to it; UserError in the Hub's words where it refuses."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]  # of its HTTP library

    try:
        address = api.create_repo(repo, private=private or None, exist_ok=True)
        shown = private and not api.repo_info(repo).private
        if not shown:
            api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Export by cskd-bench")
    except HfHubHTTPError as error:
        raise UserError(f"{repo}: the Hub refused it: {_line(error.server_message or str(error))}") from error
    except (HTTPError, OSError, ValueError) as error:
        raise UserError(f"{repo}: cannot be uploaded: {_line(str(error) or type(error).__name__)}") from error
    if shown:
        raise UserError(f"{repo}: is there already and public, so nothing was uploaded; make it private first")
    return str(address)


def _line(text: str) -> str:
    return " ".join(text.split())
