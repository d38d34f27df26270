"""Draw docs/architecture.svg from the imports of the package and the layers in pyproject.toml.

    python docs/draw_architecture.py            write the picture
    python docs/draw_architecture.py --check    exit 1 if the committed picture is not what the imports say

Each box is a package with its number of modules; each line is at least one import, from the upper to the lower box.
Imports of ``core``, which every package has, are not drawn.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections import Counter
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "architecture.svg"
WIDTH, ROW, BOX = 960, 112, 46

STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2937; text-anchor: middle }
  .count { font-size: 10px; fill: #6b7280 }
  rect { fill: #f8fafc; stroke: #64748b; rx: 6 }
  .pure { fill: #ecfdf5; stroke: #059669 }
  path { fill: none; stroke: #94a3b8; stroke-width: 1 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e5e7eb } .count { fill: #9ca3af }
    rect { fill: #1f2937; stroke: #94a3b8 } .pure { fill: #064e3b; stroke: #34d399 } path { stroke: #64748b }
  }
"""
PURE = {"route", "pace", "breaker"}


def layers() -> list[list[str]]:
    """The layers of the import linter, uppermost first."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    rows = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    names = [[part.strip(" ()").removeprefix("llmbatch.") for part in row.split("|")] for row in rows]
    return [[name for name in row if (ROOT / "llmbatch" / name).is_dir()] for row in names]


def imports() -> tuple[Counter[str], set[tuple[str, str]]]:
    """Modules per package, and which package imports which."""
    modules: Counter[str] = Counter()
    edges: set[tuple[str, str]] = set()
    for file in sorted((ROOT / "llmbatch").rglob("*.py")):
        parts = file.relative_to(ROOT / "llmbatch").parts
        if len(parts) < 2:
            continue
        package = parts[0]
        modules[package] += file.name != "__init__.py"
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llmbatch."):
                edges.add((package, str(node.module).split(".")[1]))
    return modules, {(upper, lower) for upper, lower in edges if upper != lower}


def draw() -> str:
    """The picture as SVG text."""
    rows, (modules, edges) = layers(), imports()
    at: dict[str, tuple[float, float]] = {}
    boxes: list[str] = []
    for depth, row in enumerate(rows):
        width = min(150.0, (WIDTH - 40) / len(row) - 16)
        for place, name in enumerate(row):
            x = WIDTH * (place + 0.5) / len(row)
            y = 24 + depth * ROW
            at[name] = (x, y)
            kind = ' class="pure"' if name in PURE else ""
            boxes.append(f'<rect{kind} x="{x - width / 2:.0f}" y="{y}" width="{width:.0f}" height="{BOX}"/>')
            boxes.append(f'<text x="{x:.0f}" y="{y + 20}">{escape(name)}/</text>')
            boxes.append(f'<text class="count" x="{x:.0f}" y="{y + 36}">{modules[name]} modules</text>')
    lines: list[str] = []
    for upper, lower in sorted(edges):
        if lower == "core" or upper not in at or lower not in at:
            continue
        (x1, y1), (x2, y2) = at[upper], at[lower]
        middle = (y1 + BOX + y2) / 2
        lines.append(f'<path d="M{x1:.0f} {y1 + BOX} C{x1:.0f} {middle:.0f} {x2:.0f} {middle:.0f} {x2:.0f} {y2}"/>')
    height = 24 + len(rows) * ROW - (ROW - BOX) + 24
    title = "The packages of llmbatch in layers: upper ones import lower ones"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}">',
            f"<style>{STYLE}</style>",
            *lines,
            *boxes,
            "</svg>\n",
        ]
    )


def main() -> None:
    """Write or compare the picture."""
    picture = draw()
    if "--check" not in sys.argv:
        PICTURE.write_text(picture)
    elif not PICTURE.exists() or PICTURE.read_text() != picture:
        sys.exit("docs/architecture.svg is not what the imports say: run python docs/draw_architecture.py")


if __name__ == "__main__":
    main()
