"""The map of the course, drawn from what each notebook declares that it reads and writes, so that it cannot lie."""

import io
import json
from pathlib import Path
from typing import Any

BOX, BLUE, GREY = "#E8F1F8", "#0072B2", "#777777"  # blue is Okabe and Ito's


def declared(folder: Path) -> list[dict[str, Any]]:
    """For every notebook of a folder, in order.

    Name, title, reads, writes. Raises ValueError for one that declares nothing.
    """
    rows = []
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        book = json.loads(path.read_text(encoding="utf-8"))
        if "bpo" not in book["metadata"]:
            raise ValueError(f"{path.name}: no `bpo` metadata; declare what the notebook reads and writes")
        title = next(line for cell in book["cells"] for line in cell["source"] if line.startswith("# "))
        rows.append({"name": path.stem, "title": title.lstrip("# ").strip(), **book["metadata"]["bpo"]})
    return rows


def course_map(folder: Path) -> Any:
    """The map as an SVG picture: one box per notebook, one arc to each later notebook that reads what it wrote."""
    from IPython.display import SVG
    from matplotlib.figure import Figure

    rows = declared(folder)
    figure = Figure(figsize=(11, 0.8 * len(rows) + 0.4))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 11), ylim=(-len(rows) + 0.4, 0.6))
    axes.axis("off")
    for place, row in enumerate(rows):
        box = {"boxstyle": "round,pad=0.5", "facecolor": BOX, "edgecolor": BLUE}
        axes.text(2.4, -place, row["title"], va="center", fontsize=11, bbox=box)
        axes.text(
            7.2, -place, "\n".join(_lines(row["writes"])), va="center", fontsize=8.5, family="monospace", color=GREY
        )
    for writer, reader in _links(rows):
        curve = f"arc3,rad={0.35 if reader - writer > 1 else 0.5}"
        bend = {"arrowstyle": "-|>", "color": BLUE, "alpha": 0.55, "connectionstyle": curve}
        axes.annotate("", xy=(2.2, -reader + 0.08), xytext=(2.2, -writer - 0.08), arrowprops=bend)
    axes.text(7.2, 0.5, "writes", fontsize=9, color=GREY, va="center")
    picture = io.BytesIO()
    figure.savefig(picture, format="svg", metadata={"Date": None})
    return SVG(picture.getvalue())


def _links(rows: list[dict[str, Any]]) -> list[tuple[int, int]]:
    pairs = ((w, r) for r in range(len(rows)) for w in range(r))
    return [(w, r) for w, r in pairs if any(_same(a, b) for a in rows[w]["writes"] for b in rows[r]["reads"])]


def _same(written: str, read: str) -> bool:
    return written == read or (written.endswith("/") and read.startswith(written))


def _lines(files: list[str], most: int = 3) -> list[str]:
    files = files or ["nothing"]
    return files if len(files) <= most else [*files[: most - 1], f"and {len(files) - most + 1} more"]
