"""What the site adds to docs/: pages from the rest of the repository, and links to files that are no pages."""

import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).resolve().parents[1]
# Files outside docs/ that are pages or pictures of the site, under their own paths.
OUTSIDE: Final = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "results/LEADERBOARD.md",
    "results/primary.svg",
    "results/leaderboard.svg",
    "results/first_look/README.md",
    "results/methods/LEADERBOARD.md",
    "results/small_data/LEADERBOARD.md",
    "results/detection/LEADERBOARD.md",
    "results/kept_out/LEADERBOARD.md",
)
LINK: Final = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files of OUTSIDE and the pictures that their pages show."""
    for name in OUTSIDE:
        for found in (ROOT / name, *find_pictures(ROOT / name)):
            path = found.resolve().relative_to(ROOT).as_posix()
            if not path.startswith("docs/") and files.get_file_from_path(path) is None:
                files.append(File.generated(config, path, abs_src_path=str(found)))
    return files


def find_pictures(page: Path) -> list[Path]:
    """Return the files of the pictures that a Markdown page shows."""
    text = page.read_text(encoding="utf-8") if page.suffix == ".md" else ""
    return [page.parent / picture for picture in re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", text)]


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at the site's pages; a link to any other file of the repository becomes the file's path."""
    here = page.file.src_uri
    folder = (ROOT if here in OUTSIDE else ROOT / "docs") / here
    back = "../" * here.count("/")

    def point(found: re.Match[str]) -> str:
        picture, text, target, anchor = found[1], found[2], found[3], found[4] or ""
        path = (folder.parent / target).resolve()
        if not path.is_relative_to(ROOT) or not path.exists():
            return found[0]  # the strict build names it
        inside = path.relative_to(ROOT).as_posix().removeprefix("docs/")
        if files.get_file_from_path(inside) is not None:
            return f"{picture}[{text}]({back}{inside}{anchor})"
        return text if text.strip("`") == inside else f"{text} (`{inside}`)"

    return LINK.sub(point, markdown)
