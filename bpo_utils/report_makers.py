"""Which notebook and cell made a file, in which run, with which code: what a number or figure of the report links to.

A cell made a file if a call in it that writes (its name begins with write, save or draw, or has "figure" in it) quotes
the file's name, a figure's without ending. Files that a library function writes under a name of its own stand in
report/makers.yaml. Nothing is executed.
"""

import ast
import re
import subprocess
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

import yaml

from bpo_utils import ledger, paths, records
from bpo_utils.ledger import Entry
from bpo_utils.notebook import Notebook, Place, WrongUse, writer_of

PAGES = "notebooks"  # a folder beside the report; report_notebooks makes them
WRITES = re.compile(r"^(write|save|draw|dump)|figure|_chart$|_plot$")


@dataclass(frozen=True)
class Maker:
    """The notebook and cell that made a file, with the ledger's id of the run and its code hash, 8 characters each."""

    notebook: str
    cell: str
    run: str
    code: str

    @property
    def address(self) -> str:
        """Where the cell's code and output are, seen from the report: the executed notebook, as a page."""
        return f"{PAGES}/{self.notebook}.html#{self.cell}"


@dataclass
class Makers:
    """Finds the maker of a file of one run, from the source notebooks and the run's ledger."""

    notebooks: list[Notebook]
    place: Place
    report: Path = paths.REPORT
    cells: dict[tuple[str, str], tuple[Notebook, str]] = field(default_factory=dict)  # those found so far

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """The last line of each notebook in the ledger."""
        return ledger.latest(self.place.run)

    @cached_property
    def listed(self) -> dict[str, str]:
        """Files whose name no notebook quotes, with the cell that makes them write."""
        path = self.report / "makers.yaml"
        return (yaml.safe_load(records.read_text(path)) if path.exists() else None) or {}

    def of(self, file: str, key: str = "") -> Maker:
        """The maker of a run's file (or `figures/name`), or of a top-level key in it.

        Raises WrongUse if no cell writes it, if several do and the key does not decide, or if the ledger has no done
        run of the notebook.
        """
        notebook, cell = self.cell(file, key)
        entry = self.entries.get(notebook.name)
        if entry is None or entry.status != "done":
            state = "never run" if entry is None else f"last run: {entry.status}"
            raise WrongUse(f"{file} is made by {notebook.name} ({state}); run it: bpo run --only {notebook.number}")
        return Maker(notebook.name, cell, entry.id[:8], entry.code_hash[:8])

    def cell(self, file: str, key: str = "") -> tuple[Notebook, str]:
        """The notebook and cell id that write a file; see `of`."""
        if (file, key) not in self.cells:
            self.cells[file, key] = self._cell(file, key)
        return self.cells[file, key]

    def _cell(self, file: str, key: str) -> tuple[Notebook, str]:
        declared = self.notebook_of(file)
        candidates = [declared] if declared else self.notebooks
        found = [(each, cell) for each in candidates if (cell := self._in(each, file, key))]
        if len(found) == 1:
            return found[0]
        places = ", ".join(each.name for each, _ in found) or "none"
        told = f"{file}: the cell that writes it must be found in one notebook, and is found in {places}"
        to_do = f"quote its name in the call that writes it, or name the cell in {paths.shown(self.report)}/makers.yaml"
        raise WrongUse(f"{told} (looked in {', '.join(each.name for each in candidates)}); {to_do}")

    def notebook_of(self, file: str) -> Notebook | None:
        """The notebook that declares a file, a figure of the same name, or that has the file's stage number."""
        for entry in (file, *(f"{stem_path(file)}.{ending}" for ending in ("png", "svg", "pdf", "json"))):
            if found := writer_of(entry, self.notebooks):
                return found
        stage = file.split("/")[0]
        return next((each for each in self.notebooks if stage in paths.STAGES and stage.startswith(each.number)), None)

    def declared(self, file: str) -> bool:
        """Whether some notebook's metadata declare that it writes this figure, in any format."""
        endings = ("png", "svg", "pdf", "json")
        return any(writer_of(f"{stem_path(file)}.{ending}", self.notebooks) for ending in endings)

    def _in(self, notebook: Notebook, file: str, key: str) -> str:
        """The id of the cell of one notebook that writes a file, or nothing."""
        code = [cell for cell in notebook.node["cells"] if cell["cell_type"] == "code"]
        if cell := self.listed.get(file) or self.listed.get(stem_path(file)):
            return cell if cell in [each["id"] for each in code] else ""
        trees = [ast.parse(cell["source"]) for cell in code]
        writers = [at for at, tree in enumerate(trees) if _writes(tree, file)]
        if not writers:
            return ""
        setters = [at for at, tree in enumerate(trees) if key and _sets(tree, key)] or [0]
        after = {min((at for at in writers if at >= start), default=None) for start in setters} - {None}
        if len(after) == 1 and (key or len(writers) == 1):
            return code[after.pop()]["id"]
        ids = ", ".join(code[at]["id"] for at in writers)
        what = f"{file}, {key}" if key else file
        raise WrongUse(f"{what}: several cells of {notebook.name} write it ({ids}); let one cell write it")


def commit_of(code: str) -> str:
    """What git calls the checkout (`git describe`), if its code is the one with this hash; else nothing."""
    if not ledger.code_hash().startswith(code) or not (paths.ROOT / ".git").exists():
        return ""
    call = ["git", "-C", str(paths.ROOT), "describe", "--always", "--dirty", "--abbrev=8"]
    try:
        return subprocess.run(call, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git on this machine, or a checkout that it refuses to read
        return ""


def _writes(tree: ast.AST, file: str) -> bool:
    """Whether a writing call in the cell quotes the file's name, or of a figure the name without ending.

    A path without ending (`figures / "result"`) is drawn whatever the function is called.
    """
    path = PurePosixPath(file)
    names = {path.name, path.stem.removesuffix("_zh")} if not path.suffix else {path.name}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        given = [*call.args, *(each.value for each in call.keywords)]
        if not path.suffix and not WRITES.search(_name(call.func)):
            given = [each for each in given if isinstance(each, ast.BinOp) and isinstance(each.op, ast.Div)]
        elif not WRITES.search(_name(call.func)):
            continue
        if names & _texts(*given):
            return True
    loops = [node for node in ast.walk(tree) if isinstance(node, ast.For) and not path.suffix]
    return any(names & _texts(loop.iter) and any(map(_draws, ast.walk(loop))) for loop in loops)


def _draws(node: ast.AST) -> bool:
    """Whether this is a call with a path, `folder / name`, as in a loop over the languages of a figure."""
    given = [*node.args, *(each.value for each in node.keywords)] if isinstance(node, ast.Call) else []
    return any(isinstance(each, ast.BinOp) and isinstance(each.op, ast.Div) for each in given)


def _texts(*nodes: ast.AST) -> set[str]:
    return {part.value for node in nodes for part in ast.walk(node) if _is_text(part)}


def _sets(tree: ast.AST, key: str) -> bool:
    """Whether the cell assigns `something["key"]`, or has a dict display with that key."""
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else ()
        if any(isinstance(each, ast.Subscript) and _is_text(each.slice, key) for each in targets):
            return True
        if isinstance(node, ast.Dict) and any(_is_text(each, key) for each in node.keys if each):
            return True
    return False


def _is_text(node: ast.AST, value: str | None = None) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and value in (None, node.value)


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def stem_path(file: str) -> str:
    """A figure's name without ending and language."""
    path = PurePosixPath(file)
    return path.with_name(path.stem.removesuffix("_zh")).as_posix()
