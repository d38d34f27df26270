"""Hooks of mkdocs: pages of the site that are files outside docs/, with their links adapted."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "examples/README.md": "examples.md",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite relative links: to pages of the site where there is one; to plain text where the file is not on it."""
    source = next((path for path, name in OUTSIDE.items() if name == page.file.src_uri), f"docs/{page.file.src_uri}")

    def rewrite(link: re.Match[str]) -> str:
        text, target, anchor = link.groups()
        try:
            path = (ROOT / source).parent.joinpath(target).resolve().relative_to(ROOT).as_posix()
        except ValueError:
            return link[0]
        if path in OUTSIDE:
            return f"[{text}]({OUTSIDE[path]}{anchor})"
        return f"[{text}]({path.removeprefix('docs/')}{anchor})" if path.startswith("docs/") else f"{text} (`{path}`)"

    return re.sub(r"(?<!!)\[([^]\n]+)\]\((?!\w+:|#)([^)#\s]+)((?:#[^)\s]*)?)\)", rewrite, markdown)
