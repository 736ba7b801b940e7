"""Writes the commit into wheels and sdists: an installed package names the code that it was built from."""

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CommitHook(BuildHookInterface):
    """Adds cskd_bench/commit.json; an editable install reads its checkout and needs none."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the file where the build can take it from."""
        if version == "editable":
            return
        module = _commit_module(Path(self.root))
        self.folder = tempfile.TemporaryDirectory()
        file = Path(self.folder.name) / "commit.json"
        file.write_text(module.as_json(module.commit_of(Path(self.root))))
        build_data["force_include"][str(file)] = module.FILE

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Take the file away again."""
        if version != "editable":
            self.folder.cleanup()


def _commit_module(root: Path) -> Any:
    """Load one module of the package: the package itself would want its dependencies."""
    spec = importlib.util.spec_from_file_location("commit", root / "cskd_bench" / "commit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
