"""What the runner reads from a source notebook: its number, what it reads and writes, its parameters, its hash.

Nothing is executed here. The parameters cell is read with `ast`, because papermill only warns about a parameter that
the notebook does not have and then runs with the default.
"""

import ast
import difflib
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from bpo_utils import paths

SIMPLE_TYPES = ("str", "int", "float", "bool", "list", "dict")
MADE_BY_PAPERMILL = {"injected-parameters", "papermill-error-cell-tag"}
HOW_TO_DECLARE = 'metadata "bpo": {"reads": [...], "writes": [...]}, paths relative to the run folder'


class WrongUse(ValueError):
    """The call cannot be carried out as asked; nothing was started. The message says what to do instead."""


@dataclass(frozen=True)
class Place:
    """Where one run keeps its files: its run folder, and the folder that stands behind `figures/`."""

    run: Path
    figures: Path

    def find(self, entry: str) -> Path:
        """The file or folder behind one entry of a notebook's reads or writes."""
        return self.figures / entry.removeprefix("figures/") if entry.startswith("figures/") else self.run / entry


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell; `annotation` is the type as written there, such as `float | None`."""

    name: str
    annotation: str
    default: object


@dataclass(frozen=True)
class Notebook:
    """One source notebook. `cells` have no outputs and none of papermill's own cells; positions count from 0."""

    path: Path
    number: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    parameters: dict[str, Parameter]
    parameters_cell: int
    source_hash: str
    node: dict[str, Any]  # the notebook as nbformat 4 has it in JSON

    @property
    def name(self) -> str:
        """File name without the ending, such as `03_training_launch`."""
        return self.path.stem

    def values(self, given: dict[str, object]) -> dict[str, object]:
        """Every parameter with the value it takes when `given` is injected."""
        return {name: given.get(name, parameter.default) for name, parameter in self.parameters.items()}

    def heading(self, position: int) -> str:
        """The nearest markdown heading at or above a cell, without its number signs."""
        for cell in reversed(self.node["cells"][: position + 1]):
            found = re.findall(r"^#{1,6}\s+(.+?)\s*$", cell["source"], re.MULTILINE)
            if found and cell["cell_type"] == "markdown":
                return found[-1]
        return "(no heading above the cell)"


def find(folder: Path) -> list[Notebook]:
    """All numbered notebooks (`NN_name.ipynb`) of a folder, in order. Raises WrongUse for two with one number."""
    found = [read(path) for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))]
    for first, second in zip(found, found[1:], strict=False):
        if first.number == second.number:
            raise WrongUse(f"{first.path.name} and {second.path.name} have the same number; give one of them another")
    if not found:
        raise WrongUse(
            f"no notebooks named like 01_name.ipynb in {paths.shown(folder)}; run bpo from a clone of the course"
        )
    return found


def read(path: Path) -> Notebook:
    """Read one source notebook. Raises WrongUse that says what is missing in it and where."""
    try:
        node = json.loads(path.read_text(encoding="utf-8"))  # not with nbformat, which takes a second to import
        for cell in node["cells"]:
            cell["source"] = "".join(cell["source"])
            cell["metadata"].setdefault("tags", [])
        if node["nbformat"] != 4:
            raise ValueError(f"nbformat {node['nbformat']} instead of 4")
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:  # broken JSON, not UTF-8, or another kind of file
        told = f"{paths.shown(path)} is not a notebook ({type(error).__name__}: {str(error)[:200]})"
        raise WrongUse(f"{told}; restore it from git") from error
    node["cells"] = [cell for cell in node["cells"] if not MADE_BY_PAPERMILL & set(tags(cell))]
    reads, writes = _declared(node, path)
    tagged = [position for position, cell in enumerate(node["cells"]) if "parameters" in tags(cell)]
    if len(tagged) != 1 or node["cells"][tagged[0]]["cell_type"] != "code":
        raise WrongUse(f"{path.name} has {len(tagged)} cells tagged 'parameters'; it needs exactly one, a code cell")
    parameters = parse_parameters(node["cells"][tagged[0]]["source"], path.name)
    return Notebook(path, path.name[:2], reads, writes, parameters, tagged[0], _source_hash(node), node)


def tags(cell: dict) -> list[str]:
    """Tags of a cell."""
    return cell["metadata"]["tags"]


def parse_parameters(source: str, where: str) -> dict[str, Parameter]:
    """Parameters of a parameters cell, by name. Raises WrongUse for anything but `name: type = literal` lines."""
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise WrongUse(f"{where}, parameters cell, line {error.lineno}: {error.msg}") from error
    parameters = {}
    for statement in statements:
        line = f"{where}, parameters cell, line {statement.lineno}"
        target, wanted, value = _assignment(statement, line)
        try:
            default = ast.literal_eval(value)
        except ValueError:
            # A value computed here would silently keep its default, because papermill injects after this cell.
            raise WrongUse(f"{line}: {target} is not a plain literal; compute it in the next cell") from None
        annotation = ast.unparse(wanted) if wanted else type(default).__name__
        parameter = Parameter(target, annotation, default)
        if not fits(default, annotation, line):
            raise WrongUse(f"{line}: {target} is declared {annotation} but its default is {_with_type(default)}")
        parameters[target] = parameter
    return parameters


def _assignment(statement: ast.stmt, line: str) -> tuple[str, ast.expr | None, ast.expr]:
    match statement:
        case ast.AnnAssign(target=ast.Name(id=name), annotation=wanted, value=ast.expr() as value):
            return name, wanted, value
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return name, None, value
    raise WrongUse(f"{line}: one parameter per line, as in `seed: int = 1  # what it does`; other code goes below")


def fits(value: object, annotation: str, where: str) -> bool:
    """Whether a value has the type that an annotation asks for; an int is good enough for a float."""
    return _fits(value, ast.parse(annotation, mode="eval").body, where)


def _fits(value: object, wanted: ast.expr, where: str) -> bool:
    match wanted:
        case ast.Constant(value=None):
            return value is None
        case ast.Name(id="float"):
            return type(value) in (int, float) and abs(value) < float("inf")  # NaN and infinity are not JSON
        case ast.Name(id=name) if name in SIMPLE_TYPES:
            return type(value).__name__ == name
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _fits(value, left, where) or _fits(value, right, where)
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return type(value) is list and all(_fits(each, item, where) for each in value)
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[ast.Name(id="str"), item])):
            return type(value) is dict and all(type(key) is str and _fits(value[key], item, where) for key in value)
    raise WrongUse(
        f"{where}: type {ast.unparse(wanted)!r} is not one of {', '.join(SIMPLE_TYPES)}, list[...], ... | None"
    )


def assign(notebooks: list[Notebook], profile: str, given: dict[str, object]) -> dict[str, dict[str, object]]:
    """Which parameters go to which notebook, by notebook name. Raises WrongUse for a wrong name or type."""
    known = sorted({name for notebook in notebooks for name in notebook.parameters})
    for name in given:
        if name == "profile":
            raise WrongUse("profile is chosen with --profile, not as a parameter")
        if name not in known:
            where = ", ".join(notebook.number for notebook in notebooks)
            raise WrongUse(
                f"no parameter {name!r}{nearest(name, known)} in notebook {where}; there are {', '.join(known)}"
            )
    injected = {}
    for notebook in notebooks:
        if "profile" not in notebook.parameters:
            raise WrongUse(f'{notebook.path.name}: the parameters cell needs the line `profile: str = "mini"`')
        injected[notebook.name] = {"profile": profile} | {k: v for k, v in given.items() if k in notebook.parameters}
        for name, value in injected[notebook.name].items():
            wanted = notebook.parameters[name].annotation
            if not fits(value, wanted, notebook.path.name):
                hint = f" (for text, quote it: -p {name}='\"{value}\"')" if "str" in wanted else ""
                raise WrongUse(f"{name} must be {wanted} in {notebook.path.name}, got {_with_type(value)}{hint}")
    return injected


def parse_value(text: str) -> object:
    """A value from the command line: a Python literal, or true, false, null as YAML writes them, else text."""
    try:
        return ast.literal_eval(text)  # yaml would make text of 1e-4
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "null": None}.get(text, text)


def nearest(word: str, known: list[str]) -> str:
    """` (did you mean 'x'?)` if a known name is close, else nothing."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def writer_of(entry: str, notebooks: list[Notebook]) -> Notebook | None:
    """The notebook that declares that it writes an entry, or a folder around it, or (for a folder) something in it."""
    for notebook in notebooks:
        for written in notebook.writes:
            within = written.endswith("/") and entry.startswith(written)
            if entry == written or within or (entry.endswith("/") and written.startswith(entry)):
                return notebook
    return None


def _declared(node: dict, path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    declared = node.get("metadata", {}).get("bpo")
    if not isinstance(declared, dict) or set(declared) != {"reads", "writes"}:
        raise WrongUse(f"{path.name} does not say what it reads and writes; it needs {HOW_TO_DECLARE}")
    for entry in [*declared["reads"], *declared["writes"]]:
        parts = PurePosixPath(entry).parts if isinstance(entry, str) else ()
        if not parts or entry.startswith("/") or ".." in parts:
            raise WrongUse(f"{path.name}: {entry!r} is no path inside the run folder; it needs {HOW_TO_DECLARE}")
    return tuple(declared["reads"]), tuple(declared["writes"])


def _source_hash(node: dict) -> str:
    # Outputs, counts, ids and editor metadata are noise; tags are not, papermill and nbclient act on them.
    cells = [[cell["cell_type"], cell["source"], tags(cell)] for cell in node["cells"]]
    text = json.dumps([cells, node["metadata"]["bpo"]], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _with_type(value: object) -> str:
    return f"{value!r} ({type(value).__name__})"
