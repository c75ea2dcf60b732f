"""From en.md or zh.md to Markdown that pandoc takes: conditions decided, placeholders filled, everything linked.

All problems of a text are collected and told at once, each with file and line. The syntax is in report/README.md.
"""

import difflib
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bpo_utils import paths, report_tables
from bpo_utils.notebook import WrongUse
from bpo_utils.report_format import Number, interval, text
from bpo_utils.report_makers import Maker
from bpo_utils.report_numbers import Numbers, Rows

Line = tuple[int, str]
MARK = re.compile(r"^<!--\s*(if\b.*|else|end)\s*-->\s*$")
PLACEHOLDER = re.compile(r"\{\{(.*?)\}\}")
FIGURE = re.compile(r"^!\[(?P<caption>.*)\]\((?P<file>[^()\s]+)\)(?:\{#(?P<id>fig-[\w-]+)\})?\s*$")
CAPTION = re.compile(r"^(?::|Table:)\s+(?P<caption>.*?)\s*\{#(?P<id>tbl-[\w-]+)\}\s*$")
DIRECTIVE = re.compile(r"^\{\{\s*(table|example)\b(.*?)\}\}\s*$")
NOT_PROSE = re.compile(r"(`+)(?:.*?)\1|\$\$.*?\$\$|\$[^$\n]+\$")  # inline code and formulas
COMPARE = {"<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge}


@dataclass
class Text:
    """What one language's text needs to be filled, and what was used of it."""

    path: Path
    language: str
    numbers: Numbers
    words: dict[str, Any]
    maker: Callable[[str, str], Maker]  # of a file and its top-level key
    figure: Callable[[str], str | None]  # the picture's place for pandoc, None if it is missing
    example: Callable[[str], list[str]]
    done: Callable[[str], bool]  # whether a notebook's results are there
    run: dict[str, str]
    used: dict[str, Number] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)

    def say(self, name: str, **given: object) -> str:
        """A phrase of words.yaml, section report."""
        return self.words["report"][name][self.language].format(**given)

    def wrong(self, at: int, told: str) -> None:
        """Note a problem of a line."""
        self.problems.append(f"{paths.shown(self.path)}, line {at}: {told}")


def filled(it: Text) -> str:
    """The whole text as Markdown for pandoc, without the appendix. Raises WrongUse with all problems."""
    head, body = parts(it.path)
    lines = [line for line in active(body, it)]
    _number(lines, it)
    done: list[str] = []
    shown: Rows | None = None
    for at, line, prose in with_prose(lines):
        if not prose:
            done.append(line)
        elif found := DIRECTIVE.match(line):
            made, shown = _directive(at, found[1], found[2].strip(), it)
            done += made
        elif found := FIGURE.match(line):
            done.append(_figure(at, found, it))
        elif found := CAPTION.match(line):
            done.append(_caption(at, found, shown, it))
            shown = None
        else:
            done.append(inline(at, line, it))
    if it.problems:
        raise WrongUse("\n".join(it.problems))
    return "\n".join([*head, *done])


def parts(path: Path) -> tuple[list[str], list[Line]]:
    """The lines of the YAML header, with its fences, and the numbered lines behind it."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines or lines[0] != "---" or "---" not in lines[1:]:
        raise WrongUse(f"{paths.shown(path)} has no header between two lines ---")
    end = lines.index("---", 1) + 1
    return lines[:end], list(enumerate(lines[end:], end + 1))


def with_prose(lines: list[Line]) -> Iterator[tuple[int, str, bool]]:
    """Each line with whether it is prose: not inside a fenced block of code or a displayed formula."""
    fence = ""
    for at, line in lines:
        start = re.match(r"\s*(`{3,}|~{3,}|\$\$)", line)
        if fence:
            yield at, line, False
            closed = line.strip().startswith(fence) if fence != "$$" else "$$" in line
            fence = "" if closed else fence
        elif start and not (start[1] == "$$" and line.count("$$") > 1):
            fence = start[1]
            yield at, line, False
        else:
            yield at, line, True


def active(lines: list[Line], it: Text) -> Iterator[Line]:
    """The lines that the conditions leave. Inside a branch that is not taken nothing is looked up."""
    open_: list[tuple[int, bool, bool]] = []  # line, whether the branches around it are taken, whether this one is
    for at, line in lines:
        mark, taken = MARK.match(line), all(each[2] for each in open_)
        if not mark:
            if taken:
                yield at, line
        elif mark[1].startswith("if"):
            open_.append((at, taken, taken and _true(at, mark[1][2:].strip(), it)))
        elif not open_:
            it.wrong(at, f"{mark[1]} without if")
        elif mark[1] == "else":
            opened, around, this = open_.pop()
            open_.append((opened, around, around and not this))
        else:
            open_.pop()
    for opened, _, _ in open_:
        it.wrong(opened, "this condition has no end")


def _true(at: int, condition: str, it: Text) -> bool:
    """A notebook's number, or comparisons and `known NAME` joined by `and`."""
    if re.fullmatch(r"\d\d", condition):
        return it.done(condition)
    result = True
    for each in re.split(r"\s+and\s+", condition):
        if known := re.fullmatch(r"known\s+(\S+)", each):
            result = result and known[1] in it.numbers.by_name
            continue
        found = re.fullmatch(r"(\S+)\s*(<=|>=|<|>)\s*(\S+)", each)
        if not found:
            it.wrong(at, f"{each!r} is no condition; write a notebook's number, or comparisons joined by and")
            return False
        sides = [_side(at, found[place], it) for place in (1, 3)]
        result = result and None not in sides and COMPARE[found[2]](*sides)
    return result


def _side(at: int, word: str, it: Text) -> float | None:
    if re.fullmatch(r"-?\d+(\.\d+)?", word):
        return float(word)
    number = _find(at, word, it)
    return number.value if number and isinstance(number.value, int | float) else None


def _find(at: int, name: str, it: Text) -> Number | None:
    if number := it.numbers.by_name.get(name):
        return number
    near = difflib.get_close_matches(name, it.numbers.by_name, n=3, cutoff=0.5)
    hint = f"; the nearest are {', '.join(near)}" if near else ""
    it.wrong(at, f"no number {name!r}{hint} (bpo report --numbers lists all)")
    return None


def _number(lines: list[Line], it: Text) -> None:
    """Number figures and tables in order, so that HTML and PDF say the same."""
    counts = {"figure": 0, "table": 0}
    for at, line, prose in with_prose(lines):
        for kind, pattern in (("figure", FIGURE), ("table", CAPTION)):
            if prose and (found := pattern.match(line)):
                counts[kind] += 1
                name = found["id"] or f"fig-{counts[kind]}"
                if name in it.labels:
                    it.wrong(at, f"two figures or tables are called {name}")
                it.labels[name] = it.say("ref", kind=it.say(kind), number=counts[kind])


def inline(at: int, line: str, it: Text) -> str:
    """A line with its placeholders filled; inline code and formulas stay."""
    done, place = [], 0
    for found in [*NOT_PROSE.finditer(line), None]:
        end = found.start() if found else len(line)
        done.append(PLACEHOLDER.sub(lambda hit: _placeholder(at, hit[1].strip(), line, it), line[place:end]))
        if found:
            done.append(found[0])
            place = found.end()
    return "".join(done)


def _placeholder(at: int, call: str, line: str, it: Text) -> str:
    name, *filters = (part.strip() for part in call.split("|"))
    if found := re.fullmatch(r"ref\s+(\S+)", name):
        if found[1] not in it.labels:
            it.wrong(at, f"no figure or table {found[1]!r}; there are {', '.join(it.labels) or 'none'}")
        return f"[{it.labels.get(found[1], '')}](#{found[1]})"
    if name.startswith("run."):
        if name[4:] not in it.run:
            it.wrong(at, f"no {name!r}; there are {', '.join(f'run.{each}' for each in it.run)}")
        return report_tables.escaped(it.run.get(name[4:], ""))
    number = _find(at, name, it)
    if number is None:
        return ""
    try:
        shown = report_tables.escaped(_shown(number, filters, it))
    except ValueError as error:
        it.wrong(at, f"{name}: {error}")
        return ""
    it.used[name] = number
    return shown if line.startswith("#") else f"[{shown}](#{anchor(name)}){{.number}}"


def _shown(number: Number, filters: list[str], it: Text) -> str:
    if "ci" not in filters:
        return text(number, tuple(filters), it.language)
    before, _, last = number.name.rpartition(".")
    for pair in report_tables.ends_of(last):
        found = [it.numbers.by_name.get(f"{before}.{end}") for end in pair]
        if all(found):
            it.used |= {each.name: each for each in found}
            return interval(number, *found, tuple(each for each in filters if each != "ci"))
    raise ValueError("no interval beside it (ci_low and ci_high, low and high, or its own name with _low and _high)")


def _directive(at: int, kind: str, call: str, it: Text) -> tuple[list[str], Rows | None]:
    try:
        if kind == "example":
            return it.example(call), None
        lines, shown = report_tables.table(call, it.numbers, it.words, it.language)
        return lines, shown
    except ValueError as error:
        it.wrong(at, str(error))
        return [], None


def _figure(at: int, found: re.Match, it: Text) -> str:
    place = it.figure(found["file"])
    name = found["id"]
    if place is None or name is None:
        to_do = "run the notebook that draws it" if place is None else "give it an id, {#fig-name}"
        it.wrong(at, f"figure {found['file']} {'is missing' if place is None else 'has no id'}; {to_do}")
        return ""
    made = _made(at, [(found["file"], "")], it)
    caption = inline(at, found["caption"], it)
    return f"![{_numbered(name, it)}{caption} {made}]({place}){{#{name} width=100%}}"


def _caption(at: int, found: re.Match, shown: Rows | None, it: Text) -> str:
    places = dict.fromkeys((file, key) for _, file, key in shown.rows if file) if shown else {}
    made = _made(at, list(places), it)
    if shown and not places and (sources := {row[2]["en"].split(":")[0]: row[2] for row in shown.rows}):
        source = "; ".join(
            each[self].split("：")[0].split(":")[0] for each in sources.values() for self in [it.language]
        )
        made = it.say("published", place=source)
    caption = inline(at, found["caption"], it)
    return f": {_numbered(found['id'], it)}{caption} {made} {{#{found['id']}}}"


def _numbered(name: str, it: Text) -> str:
    kind, _, number = it.labels[name].partition(" ")
    return f"**{it.say('number_dot', kind=kind, number=number)}** "


def _made(at: int, files: list[tuple[str, str]], it: Text) -> str:
    """Links to the makers of some files, each once."""
    try:
        makers = dict.fromkeys(it.maker(file, key) for file, key in files)
    except WrongUse as error:
        it.wrong(at, str(error))
        return ""
    return " ".join(it.say("made", link=linked(each, it), run=each.run, code=each.code) for each in makers)


def linked(maker: Maker, it: Text) -> str:
    """A maker's name as a link to its cell."""
    shown = it.say("cell", notebook=maker.notebook, cell=maker.cell)
    return f"[{report_tables.escaped(shown)}]({maker.address})"


def anchor(name: str) -> str:
    """The id of a number's row in the appendix."""
    return f"n-{name.replace('.', '-')}"
