"""Links between README, docs and the other pages lead somewhere, and the site has every page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "examples/**/*.md", "tests/**/*.md")
    for path in ROOT.glob(pattern)
    if ".venv" not in path.parts
)
LINK = re.compile(r"!?\[[^]]*\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    """The page without its code blocks and code spans, which hold brackets that are no links."""
    return re.sub(r"```.*?```|`[^`\n]+`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of the headings, as GitHub and the site make them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_to_a_file_and_heading(page: Path) -> None:
    """Pictures too; links with a scheme are left to the reader's network."""
    broken = []
    for link in LINK.findall(prose(page)):
        target, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            continue
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(link)

    assert broken == []


def test_a_broken_link_would_be_found(tmp_path: Path) -> None:
    """The check sees links in tables and lists, and no links in code."""
    page = tmp_path / "page.md"
    page.write_text("# One `two`, three!\n| [a](b.md#c) |\n- ![d](e.svg)\n`[f](g.md)`\n```\n[h](i.md)\n# no\n```\n")

    assert LINK.findall(prose(page)) == ["b.md#c", "e.svg"]
    assert anchors(page) == {"one-two-three"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_test_file_that_a_page_names_exists(page: Path) -> None:
    """Also those named without their folder; a promise whose test was renamed would look untested."""
    named = set(re.findall(r"(?:\w+/)*test_\w+\.py", page.read_text(encoding="utf-8")))

    missing = [name for name in named if not any((ROOT / "tests").rglob(name.removeprefix("tests/")))]

    assert missing == []


def test_the_index_and_the_site_have_every_page() -> None:
    """A page that neither lists is found by nobody."""
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")

    for page in (ROOT / "docs").glob("*.md"):
        assert f": {page.name}\n" in site
        assert page.name == "index.md" or f"]({page.name})" in index


def test_the_readme_has_at_most_130_lines() -> None:
    """What does not fit belongs in docs/."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130
