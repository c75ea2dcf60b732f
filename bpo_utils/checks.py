"""The rules that notebooks/*.ipynb keep: `python -m bpo_utils.checks [--fix] [FOLDER]`.

Each rule is a function from a source notebook to problems, each with its place, what is wrong and what to do about it.
Nothing is executed. `--fix` mends what needs no thought: outputs, editor metadata, the form of the JSON.
"""

import argparse
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from bpo_utils import code_rules, paths, records
from bpo_utils.notebook import WrongUse, parse_parameters, writer_of
from bpo_utils.source import CELL_METADATA, KERNEL, NOTEBOOK_METADATA, Problem, Source, cleaned, json_text, read

LONGEST_CELL, MEDIAN_CELL = 25, 8  # lines of code
RANDOM_ID = re.compile(r"(?=.*\d)[0-9a-f]{8}(-[0-9a-f]{4}.*)?")
FIRST_PARAMETER = 'profile: str = "mini"'
TIME_TABLE = r"^\|(?=.*machine)(?=.*(time|minutes|seconds)).*\|\s*$"
SHARED_WORDS = 0.5  # "how a pair is made" and "how pairs are made" are the same point


def check(folder: Path) -> list[Problem]:
    """All problems of the notebooks in a folder.

    Raises ValueError for a file that is no notebook, or if there is none.
    """
    sources = [read(path) for path in sorted(folder.glob("*.ipynb"))]
    if not sources:
        raise ValueError(f"no notebooks in {paths.shown(folder)}; run this in a clone of the course, or name a folder")
    own = [problem for source in sources for rule in RULES for problem in rule(source)]
    return own + list(check_order(sources))


def check_clean(source: Source) -> Iterator[Problem]:
    """No traces of a run or of an editor, and the one form of JSON that makes small diffs."""
    to_do = "run `python -m bpo_utils.checks --fix`"
    metadata = source.node["metadata"]
    if metadata.get("kernelspec") != KERNEL:
        yield source.problem(f"kernelspec is {metadata.get('kernelspec')}, not {KERNEL}", to_do)
    if metadata.get("language_info", {"name": "python"}) != {"name": "python"}:
        yield source.problem("language_info holds more than the name python", to_do)
    if noise := sorted(set(metadata) - NOTEBOOK_METADATA):
        yield source.problem(f"needless metadata: {', '.join(noise)}", to_do)
    for cell in source.cells:
        if cell.raw.get("outputs"):
            yield source.problem("the cell keeps its output", to_do, cell)
        if cell.raw.get("execution_count") is not None:
            yield source.problem("the cell keeps its execution count", to_do, cell)
        if noise := sorted(set(cell.raw["metadata"]) - CELL_METADATA):
            yield source.problem(f"needless cell metadata: {', '.join(noise)}", to_do, cell)
    if source.text != json_text(source.node):
        yield source.problem("its JSON is not in the usual form (sorted keys, indent 1, text in lines)", to_do)


def check_ids(source: Source) -> Iterator[Problem]:
    """Cell ids are there, different, and names that stay: `load-the-pairs`, not an editor's random number."""
    to_do = "give the cell an id in words, such as load-the-pairs"
    seen: set[str] = set()
    for cell in source.cells:
        name = cell.raw.get("id", "")
        if not name:
            yield source.problem("the cell has no id", to_do, cell)
        elif not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or RANDOM_ID.fullmatch(name):
            yield source.problem("the id is not made of lower-case words joined by '-'", to_do, cell)
        elif name in seen:
            yield source.problem("two cells have this id", to_do, cell)
        seen.add(name)


def check_parameters(source: Source) -> Iterator[Problem]:
    """One parameters cell, the first code cell; a literal with type and comment on each line; profile first."""
    tagged = [cell for cell in source.cells if "parameters" in cell.tags]
    if len(tagged) != 1 or tagged[0] not in source.code[:1]:
        yield source.problem(f"{len(tagged)} cells tagged parameters", "tag the first code cell, and only that one")
        return
    cell, lines = tagged[0], tagged[0].source.splitlines()
    try:
        parse_parameters(cell.source, source.name)
    except WrongUse as error:
        yield source.problem(str(error), "one plain literal per line", cell)
        return
    for line in lines:
        if not re.match(r"[a-z]\w*: .+ = ", line) or not code_rules.ends_in_comment(line):
            remedy = "write `name: type = literal  # what it does`"
            yield source.problem(f"{line!r} lacks type or comment", remedy, cell)
    if not lines or lines[0].partition("  #")[0] != FIRST_PARAMETER:
        yield source.problem("its first line is not the profile", f"begin with `{FIRST_PARAMETER}  # ...`", cell)


def check_sizes(source: Source) -> Iterator[Problem]:
    """Small cells, one idea each."""
    counts = []
    for cell in source.code:
        lines = [line for line in cell.source.splitlines() if line.strip()]
        counts.append(len(lines))
        if len(lines) > LONGEST_CELL:
            what = f"{len(lines)} lines, the limit is {LONGEST_CELL}"
            yield source.problem(what, "split it, or move code into bpo_utils", cell)
    if counts and statistics.median(counts) > MEDIAN_CELL:
        what = f"half of the code cells have more than {MEDIAN_CELL} lines"
        yield source.problem(what, "split them: one idea, one result")


def check_code(source: Source) -> Iterator[Problem]:
    """The rules of code_rules, cell by cell."""
    declared = {*source.reads, *source.writes}
    for cell in source.code:
        for what, to_do in code_rules.faults(cell.source, declared):
            yield source.problem(what, to_do, cell)
        if "raises-exception" in cell.tags:
            yield source.problem("tagged raises-exception, where papermill stops all the same", "use try/except", cell)


def check_frame(source: Source) -> Iterator[Problem]:
    """A title; goals at the start and the same points at the end; what is read and written, as in the metadata."""
    first = source.cells[0] if source.cells else None
    if not first or first.kind != "markdown" or not re.match(r"# \S", first.source):
        yield source.problem("it does not begin with a title", "begin the first cell with `# Title`", first)
    goals = _points_after(r"\bgoals?\b|\byou will\b", source.opening)
    if not goals:
        yield source.problem(
            "no goals before the first code cell", "write a line with the word Goals and a list below it"
        )
    elif not any(_same_points(goals, points) for points in _closing_lists(source)):
        what = f"the last text does not come back to the {len(goals)} goals"
        yield source.problem(what, "close with a list of the same points in the same order")
    both = _declared_in(source.opening)
    if both is None:
        yield source.problem(
            "no Reads / Writes line before the first code cell", "add `**Reads:** ... **Writes:** ...`"
        )
        return
    for word, written, declared in (("Reads", both[0], source.reads), ("Writes", both[1], source.writes)):
        if not _agree(written, set(declared)):
            what = f"{word} names {sorted(written) or 'nothing'}, the metadata say {declared or 'nothing'}"
            yield source.problem(what, "make the two agree, each entry in `backticks`")


def check_slow(source: Source) -> Iterator[Problem]:
    """A table of times by machine stands just above each cell tagged slow."""
    text = ""
    for cell in source.cells:
        if cell.kind == "markdown":
            text += cell.source + "\n"
            continue
        if "slow" in cell.tags and not re.search(TIME_TABLE, text, re.IGNORECASE | re.MULTILINE):
            yield source.problem("tagged slow, without a time table above", "add one: `| machine | time |`", cell)
        text = ""


def check_order(sources: list[Source]) -> Iterator[Problem]:
    """What a notebook reads has been written by an earlier one; what it writes, by no other."""
    for number, source in enumerate(sources):
        earlier = sources[:number]
        for entry in source.reads:
            if not writer_of(entry, earlier):
                what = f"it reads {entry}, which no earlier notebook writes"
                yield source.problem(what, "correct the name here, or declare it in the notebook that writes it")
        for entry in source.writes:
            if other := writer_of(entry, earlier):
                what = f"it writes {entry}, and so does {other.name}"
                yield source.problem(what, "let one notebook write each file")


RULES = (
    check_clean,
    check_ids,
    check_parameters,
    check_sizes,
    check_code,
    check_frame,
    check_slow,
)


def _points_after(cue: str, text: str) -> list[str]:
    """The first list below (or at) a line that matches `cue`."""
    found = re.search(rf"^.*({cue}).*$", text, re.IGNORECASE | re.MULTILINE)
    return next(iter(_lists(text[found.start() :])), []) if found else []


def _lists(text: str) -> list[list[str]]:
    """Each bullet or numbered list of a markdown text, as its points; indented lines continue a point."""
    lists: list[list[str]] = []
    inside = False
    for line in text.splitlines():
        if point := re.match(r"(?:[-*]|\d+\.)\s+(.*)", line):
            if not inside:
                lists.append([])
            lists[-1].append(point[1])
            inside = True
        elif inside and line.startswith("  ") and line.strip():
            lists[-1][-1] += " " + line.strip()
        elif line.strip():
            inside = False
    return lists


def _closing_lists(source: Source) -> list[list[str]]:
    end = source.code[-1].position if source.code else 0
    return [points for cell in source.cells[end + 1 :] for points in _lists(cell.source)]


def _same_points(first: list[str], second: list[str]) -> bool:
    if len(first) != len(second):
        return False
    for one, other in zip(first, second, strict=True):
        words = [set(re.findall(r"\w{3,}", point.lower())) for point in (one, other)]
        if len(words[0] & words[1]) < SHARED_WORDS * min(map(len, words)):
            return False
    return True


def _declared_in(text: str) -> tuple[set[str], set[str]] | None:
    """The entries in backticks after Reads, which begins a line, and after Writes, up to the paragraph's end."""
    found = re.search(r"^\W*Reads\b(.*?)\bWrites\b(.*?)(?=\n\s*\n|\Z)", text, re.DOTALL | re.MULTILINE)
    return (set(re.findall(r"`([^`]+)`", found[1])), set(re.findall(r"`([^`]+)`", found[2]))) if found else None


def _agree(written: set[str], declared: set[str]) -> bool:
    """Whether a line names what is declared; a folder may stand for the several files declared in it."""
    folders = tuple(entry for entry in written if entry.endswith("/"))
    meant = written - set(folders) | {entry for entry in declared if entry.startswith(folders)}
    return meant == declared and all(any(entry.startswith(folder) for entry in declared) for folder in folders)


def fix(folder: Path) -> list[str]:
    """Clean every notebook of a folder in place; returns the names of those that changed."""
    changed = []
    for path in sorted(folder.glob("*.ipynb")):
        source = read(path)
        text = json_text(cleaned(source.node))
        if text != source.text:
            records.write_text(path, text)
            changed.append(path.name)
    return changed


def main(arguments: list[str] | None = None) -> int:
    """Check (and first mend) the notebooks of a folder; print the problems. Returns 1 if there are any."""
    parser = argparse.ArgumentParser(prog="python -m bpo_utils.checks", description=__doc__.splitlines()[0])
    parser.add_argument("--fix", action="store_true", help="first remove outputs and editor metadata")
    parser.add_argument("folder", nargs="?", type=Path, default=paths.NOTEBOOKS, help="default: notebooks/")
    given = parser.parse_args(arguments)
    try:
        for name in fix(given.folder) if given.fix else []:
            print(f"cleaned {name}")
        problems = check(given.folder)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    for problem in problems:
        print(problem)
    print(f"notebook checks: {len(problems)} problem{'' if len(problems) == 1 else 's'}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
