"""A notebook as it lies on disk, for the checks: its JSON untouched, its cells with their places, its clean form."""

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
NOTEBOOK_METADATA = {"bpo", "kernelspec", "language_info"}
CELL_METADATA = {"tags"}


@dataclass(frozen=True)
class Problem:
    """One broken rule. `str()` gives the line that is printed."""

    notebook: str
    place: str
    what: str
    to_do: str

    def __str__(self) -> str:
        return f"{self.notebook}, {self.place}: {self.what}; {self.to_do}"


@dataclass(frozen=True)
class Source:
    """One notebook as it lies on disk: its JSON, untouched."""

    name: str
    text: str
    node: dict[str, Any]

    @cached_property
    def cells(self) -> list["Cell"]:
        """All cells, each with the nearest heading at or above it."""
        cells, heading = [], ""
        for position, raw in enumerate(self.node["cells"]):
            source = raw["source"] if isinstance(raw["source"], str) else "".join(raw["source"])
            if raw["cell_type"] == "markdown" and (found := re.findall(r"^#{1,6}\s+(.+?)\s*$", source, re.MULTILINE)):
                heading = found[-1]
            cells.append(Cell(position, raw, source, heading))
        return cells

    @property
    def code(self) -> list["Cell"]:
        """The code cells."""
        return [cell for cell in self.cells if cell.kind == "code"]

    @property
    def opening(self) -> str:
        """All text above the first code cell."""
        end = self.code[0].position if self.code else len(self.cells)
        return "\n\n".join(cell.source for cell in self.cells[:end])

    @property
    def reads(self) -> list[str]:
        """What the metadata say the notebook reads."""
        return self.node["metadata"].get("bpo", {}).get("reads", [])

    @property
    def writes(self) -> list[str]:
        """What the metadata say the notebook writes."""
        return self.node["metadata"].get("bpo", {}).get("writes", [])

    def problem(self, what: str, to_do: str, cell: "Cell | None" = None) -> Problem:
        """A problem of this notebook, at a cell or of the whole."""
        return Problem(self.name, cell.place if cell else "the notebook", what, to_do)


@dataclass(frozen=True)
class Cell:
    """One cell: its place, its JSON, its text, the heading it stands under."""

    position: int
    raw: dict[str, Any]
    source: str
    heading: str

    @property
    def kind(self) -> str:
        return self.raw["cell_type"]

    @property
    def tags(self) -> list[str]:
        return self.raw["metadata"].get("tags", [])

    @property
    def place(self) -> str:
        name = f"cell {self.raw['id']!r}" if "id" in self.raw else f"cell {self.position + 1}"
        return f"{name} ({self.heading})" if self.heading else name


def read(path: Path) -> Source:
    """Read one notebook. Raises ValueError if it is no notebook of format 4."""
    text = path.read_text(encoding="utf-8")
    try:
        node = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path.name}, line {error.lineno}: not JSON ({error.msg}); restore it from git") from error
    if not isinstance(node, dict) or node.get("nbformat") != 4 or not isinstance(node.get("cells"), list):
        raise ValueError(f"{path.name}: not a notebook of format 4; restore it from git, or save it with JupyterLab")
    return Source(path.name, text, node)


def json_text(node: dict[str, Any]) -> str:
    """A notebook's JSON the way nbformat writes it, so that JupyterLab's next save changes nothing else."""
    cells = []
    for raw in node["cells"]:
        source = raw["source"] if isinstance(raw["source"], str) else "".join(raw["source"])
        cells.append({**raw, "source": source.splitlines(keepends=True)})
    return json.dumps({**node, "cells": cells}, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def cleaned(node: dict[str, Any]) -> dict[str, Any]:
    """A notebook without the traces of a run or an editor."""
    metadata = {k: v for k, v in node["metadata"].items() if k in NOTEBOOK_METADATA - {"language_info"}}
    cells = []
    for raw in node["cells"]:
        bare = {**raw, "metadata": {k: v for k, v in raw["metadata"].items() if k in CELL_METADATA}}
        cells.append(bare | ({"outputs": [], "execution_count": None} if raw["cell_type"] == "code" else {}))
    return {**node, "metadata": metadata | {"kernelspec": KERNEL, "language_info": {"name": "python"}}, "cells": cells}
