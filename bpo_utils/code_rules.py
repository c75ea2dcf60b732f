"""What code in a notebook cell may not do. Nothing is executed: the cell is read with `ast`.

Paths: a notebook must find the same files from JupyterLab, papermill and Slurm, each of which starts it in another
folder. So a path is built from a folder that `paths` gives (`paths.figures_dir() / "result.png"`), or it is one of the
entries that the notebook declares to read or write. Any other text that looks like a path is a fault. Text looks like
one if it begins like an absolute or dotted path, or, without white space, begins with a folder of this repository or
of a run, or ends like a file name. `Path("...")` is a fault whatever it holds.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator

CLIENTS = {"openai", "zhipuai", "deepspeed", "httpx", "httpx2", "requests", "aiohttp", "urllib3"}
LONGEST_DEFINITION = 8  # lines
ROOTED = re.compile(r"(/|~/|\.{1,2}/|[A-Za-z]:[\\/])\w")
FOLDER = re.compile(r"(runs|notebooks|bpo_utils|slurm|figures|report|tests|benchmarks|\d\d_[a-z]+)/\S*")
FILE = re.compile(
    r"\S*[\w-]\.(jsonl?|csv|tsv|ya?ml|txt|md|html|log|png|svg|pdf|ipynb|py|sh|sbatch|sqlite|pt|ttf|safetensors)"
)
ENDINGS = {"exit", "quit", "sys.exit", "os._exit"}
WORKING_FOLDER = {"Path.cwd", "Path.home", "os.getcwd", "os.chdir", "os.path.join", "os.path.abspath"}
Fault = tuple[str, str]


def faults(source: str, declared: set[str]) -> Iterator[Fault]:
    """What is wrong with the code of a cell, as (what, what to do). `declared`: what its notebook reads and writes."""
    try:
        # the same as ast.parse, but with the top-level await that a notebook allows
        tree = compile(source, "cell", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except SyntaxError as error:
        line = source.splitlines()[error.lineno - 1].strip() if error.lineno else ""
        yield f"not plain Python: {line!r}", "no `!`, `%` or `?` lines; what must be installed is in requirements.lock"
        return
    for node in ast.walk(tree):
        match node:
            case ast.Import() | ast.ImportFrom():
                yield from _import_faults(node)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                if (lines := node.end_lineno - node.lineno + 1) > LONGEST_DEFINITION:
                    yield f"{node.name} has {lines} lines, the limit is {LONGEST_DEFINITION}", "move it into bpo_utils"
            case ast.Call():
                yield from _call_faults(node)
    yield from _path_faults(tree, declared)


def ends_in_comment(line: str) -> bool:
    """Whether a line of code has a comment at its end; a `#` inside a string is none."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(line).readline))
    except (tokenize.TokenError, SyntaxError):  # half a statement
        return False
    return any(token.type == tokenize.COMMENT for token in tokens)


def _import_faults(node: ast.Import | ast.ImportFrom) -> Iterator[Fault]:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    for name in names:
        if name.split(".")[0] in CLIENTS:
            yield f"imports {name}", "call it through bpo_utils, the one place that follows its changes"


def _call_faults(node: ast.Call) -> Iterator[Fault]:
    name = ast.unparse(node.func)
    if name in {"open", "io.open", "codecs.open"}:
        yield "calls open()", "use bpo_utils.records, which reads and writes UTF-8 and names the file in its errors"
    if name in ENDINGS:
        yield f"calls {name}()", "raise an error that says what to do: papermill takes this for a success"
    if name == "get_ipython":
        yield "calls get_ipython()", "plain Python only"
    if name in {"__import__", "import_module", "importlib.import_module"}:
        yield f"calls {name}()", "import by name"
    if name in WORKING_FOLDER or (name in {"Path", "pathlib.Path"} and not (node.args and _no_text(node.args[0]))):
        yield (
            f"{ast.unparse(node)} depends on where the notebook is started",
            "begin with a folder from bpo_utils.paths",
        )
    if name.endswith((".read_text", ".write_text")) and "encoding" not in {keyword.arg for keyword in node.keywords}:
        yield f"{name}() without encoding", 'add encoding="utf-8": Windows would take another one'


def _no_text(node: ast.expr) -> bool:
    return _text(node) is None


def _text(node: ast.AST) -> str | None:
    """The text of a string literal; `X` stands for what an f-string fills in."""
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(part.value if isinstance(part, ast.Constant) else "X" for part in parts)
    return None


def _path_faults(tree: ast.AST, declared: set[str]) -> Iterator[Fault]:
    skipped = set()  # parts of f-strings, text that is only shown, and what is joined to a folder with `/`
    joined = set()
    for node in ast.walk(tree):
        match node:
            case ast.JoinedStr(values=parts):
                skipped |= {id(part) for part in parts}
            case ast.Expr(value=ast.Constant() as shown):
                skipped.add(id(shown))
            case ast.BinOp(left=left, op=ast.Div(), right=right) if _no_text(_leftmost(left)):
                joined.add(id(right))
    for node in ast.walk(tree):
        text = _text(node)
        if text is None or id(node) in skipped or text in declared:
            continue
        climbs = ROOTED.match(text) or ".." in text.split("/")
        if climbs or (id(node) not in joined and (FOLDER.fullmatch(text) or FILE.fullmatch(text))):
            yield f"{text!r} is a path of its own", "build it with `/` on a folder from paths, or declare it"


def _leftmost(node: ast.expr) -> ast.expr:
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        node = node.left
    return node
