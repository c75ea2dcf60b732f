"""Tables of rows and the worked example: what `{{ table ... }}` and `{{ example ... }}` become, as Markdown."""

import hashlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpo_utils import paths, records
from bpo_utils.notebook import Place
from bpo_utils.records import TEST_SETS, Answer, Rewrite, Verdict
from bpo_utils.report_format import Number, interval, kind_of, text
from bpo_utils.report_numbers import Numbers, Rows

SPECIAL = "\\`*_{}[]<>#+-.!|~^$@\"'"
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
MIDDLES = ("net_win", "difference", "mean", "ours", "gain", "test")  # whose interval is called just low and high
ENDS = [("ci_low", "ci_high"), ("low", "high")]


def escaped(words: str) -> str:
    """A text that Markdown takes as it is, in one line."""
    one_line = re.sub(r"[ \t\r\n]+", " ", words).strip(" ")  # spaces that do not break stay
    return "".join(f"\\{c}" if c in SPECIAL else c for c in one_line)


def ends_of(field: str) -> list[tuple[str, str]]:
    """Where the interval of a field may stand, the nearest first."""
    own = [(f"{field}_low", f"{field}_high")]
    if field == "lc_win_score":
        return [*own, ("lc_low", "lc_high")]
    return own + (ENDS if field in MIDDLES else [])


def table(call: str, numbers: Numbers, words: dict[str, Any], language: str) -> tuple[list[str], Rows]:
    """The lines of a pipe table, and the rows shown. Raises ValueError that says what is wrong with the call."""
    name, where, columns = parsed(call)
    if name not in numbers.lists:
        raise ValueError(f"no list {name!r}; there are {', '.join(sorted(numbers.lists))}")
    found = [row for row in numbers.lists[name].rows if all(str(row[0].get(k)) in v for k, v in where.items())]
    if not found:
        told = " ".join(f"{field}={','.join(values)}" for field, values in where.items())
        raise ValueError(f"table {name}: no row with {told}")
    columns = columns or [field for field in found[0][0] if not isinstance(found[0][0][field], dict | list)]
    heads, lines, right, full = [], [], [], []
    for column in columns:
        field = column.split("|")[0]
        head = words["columns"].get(field) or words["columns"].get(field.rsplit(".", 1)[-1])
        if not head:
            raise ValueError(f"table {name}: the column {field!r} has no header in words.yaml, columns")
        heads.append(head[language])
        right.append(all(isinstance(_value(row, field), int | float | None) for row, _, _ in found))
        full.append(column + _same_digits(name, column, [_value(row, field) for row, _, _ in found]))
    for row, _, _ in found:
        lines.append("| " + " | ".join(_cell(name, row, column, words, language) for column in full) + " |")
    rule = "|" + "|".join("--:" if each else ":--" for each in right) + "|"
    return ["| " + " | ".join(heads) + " |", rule, *lines], Rows(name, found)


def parsed(call: str) -> tuple[str, dict[str, list[str]], list[str]]:
    """(list, wanted values by field, columns) of a table's call. Raises ValueError for another word."""
    name, *rest = shlex.split(call) or [""]
    where: dict[str, list[str]] = {}
    columns: list[str] = []
    for each in rest:
        field, equals, value = each.partition("=")
        if field == "columns" and equals:
            columns = value.split(",")
        elif equals:
            where[field] = value.split(",")
        elif each != "where":
            raise ValueError(f"table {name}: {each!r} is not understood; write field=value or columns=a,b")
    return name, where, columns


def _same_digits(name: str, column: str, values: list[Any]) -> str:
    """A filter that gives the plain numbers of a column as many digits behind the point as one of them has."""
    numbers = [_number(name, column, value) for value in values if isinstance(value, float)]
    if "|" in column or not numbers or any(number.kind != "plain" for number in numbers):
        return ""
    shown = [text(number) for number in numbers]
    return "" if any("×" in each for each in shown) else f"|digits={max(len(e.partition('.')[2]) for e in shown)}"


def _value(row: dict[str, Any], field: str) -> Any:
    found: Any = row
    for part in field.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _cell(name: str, row: dict[str, Any], column: str, words: dict[str, Any], language: str) -> str:
    field, *filters = column.split("|")
    value = _value(row, field)
    if "." not in field and field not in row:
        raise ValueError(f"table {name}: no column {field!r}; there are {', '.join(row)}")
    if value is None or value == "":
        return ""
    if isinstance(value, dict) and language in value:
        return escaped(value[language])
    if isinstance(value, list):
        return escaped(", ".join(map(str, value)))
    number = _number(name, field, value)
    if "ci" in filters:
        before, _, last = field.rpartition(".")
        for pair in ends_of(last):
            low, high = (_value(row, f"{before}.{end}" if before else end) for end in pair)
            if low is not None and high is not None:
                rest = tuple(each for each in filters if each != "ci")
                return escaped(interval(number, *(_number(name, field, each) for each in (low, high)), rest))
        raise ValueError(f"table {name}: {field} has no interval beside it")
    if isinstance(value, str | bool):
        return escaped(said(str(value).lower() if isinstance(value, bool) else value, words["values"], language))
    return escaped(text(number, tuple(filters), language))


def said(value: str, known: dict[str, Any], language: str) -> str:
    """A value in the language, as it is if words.yaml does not know it; there {} stands for each number in it."""
    if value in known:
        return known[value][language]
    pattern = NUMBER.sub("{}", value)
    return known[pattern][language].format(*NUMBER.findall(value)) if pattern in known else value


def _number(name: str, field: str, value: Any) -> Number:
    full = f"{name}.row.{field}"
    return Number(full, value, kind_of(full, value))


def example(call: str, found: "Example", words: dict[str, Any], language: str) -> list[str]:
    """The lines of the worked example; its rule is printed with it."""
    said = {name: texts[language] for name, texts in words["report"].items()}
    letters = {name: texts[language] for name, texts in words["verdicts"].items()}
    row, model, test_set = found.rewrite, found.model, TEST_SETS[found.rewrite.test_set]
    named = said["rule_sets"].format(sets=test_set) if "test_set=" in call else ""
    rule = said["rule"].format(sets=named, model=model, count=f"{found.of:,}", id=row.id, test_set=test_set)
    blocks = [(said["prompt"], row.prompt), (said["optimized"], row.optimized_prompt)]
    blocks += [(said["answer_before"].format(model=model), found.before)]
    blocks += [(said["answer_after"].format(model=model), found.after)]
    for each in found.verdicts:
        head = said["judged"].format(judge=each.judge, verdict=letters[each.verdict])
        replies = (("original_first", each.reply_original_first), ("optimized_first", each.reply_optimized_first))
        blocks.append((head, "\n".join(f"({said[order]}) {reply}" for order, reply in replies)))
    lines = ["::: example", escaped(rule), ""]
    for head, body in blocks:
        lines += [f"**{escaped(head)}**", "", *_quoted(body or said["empty"]), ""]
    return [*lines, ":::"]


@dataclass(frozen=True)
class Example:
    """One test prompt with what the run made of it; `of` says of how many it was taken."""

    rewrite: Rewrite
    model: str
    of: int
    before: str
    after: str
    verdicts: list[Verdict]


def find_example(call: str, place: Place, models: list[str]) -> Example:
    """The worked example of a run. Raises ValueError for a wrong call, or if no prompt qualifies."""
    _, where, _ = parsed(f"example {call}")
    if wrong := set(where) - {"answer_model", "test_set"}:
        raise ValueError(f"example: no option {', '.join(sorted(wrong))}; there are answer_model and test_set")
    model = where.get("answer_model", models[-1:])[0]
    chosen, count, verdicts = _chosen(place, model, where.get("test_set", list(TEST_SETS)))
    same = (chosen.id, chosen.test_set, model)
    answers = _read(place, "05_judging/answers.jsonl", Answer)
    sides = {row.side: row.text for row in answers if (row.id, row.test_set, row.model) == same}
    return Example(chosen, model, count, sides["original"], sides["bpo"], verdicts)


def _chosen(place: Place, model: str, sets: list[str]) -> tuple[Rewrite, int, list[Verdict]]:
    """The rewrite shown, of how many, and its verdicts, one per judge."""
    by_id: dict[tuple[str, str], list[Verdict]] = {}
    for row in _read(place, "05_judging/verdicts.jsonl", Verdict):
        if row.rewriter == "bpo" and row.answer_model == model and row.how == "judged":
            by_id.setdefault((row.id, row.test_set), []).append(row)
    judges = max(map(len, by_id.values()), default=0)
    rows = [
        row
        for row in _read(place, "04_inference/rewrites.jsonl", Rewrite)
        if row.rewriter == "bpo" and row.test_set in sets and row.prompt != row.optimized_prompt
        if len(by_id.get((row.id, row.test_set), ())) == judges > 0
    ]
    if not rows:
        raise ValueError(f"example: no judged prompt of {', '.join(sets)} for answer model {model!r}")
    chosen = min(rows, key=lambda row: hashlib.sha256(row.id.encode()).hexdigest())
    return chosen, len(rows), by_id[chosen.id, chosen.test_set]


def _read(place: Place, name: str, kind: type) -> list[Any]:
    return records.read_rows(place.run / name, kind)


def _quoted(body: str) -> list[str]:
    """A text as a block quote that keeps its lines."""
    lines = [escaped(line) for line in body.strip().splitlines()]
    return [
        f"> {line}\\" if line and after else f"> {line}" for line, after in zip(lines, [*lines[1:], ""], strict=True)
    ]


def read_words(report: Path = paths.REPORT) -> dict[str, Any]:
    """The words that are added, by section and name. Raises ValueError for one that lacks a language."""
    import yaml

    words = yaml.safe_load(records.read_text(report / "words.yaml"))
    for section, entries in words.items():
        if wrong := [str(name) for name, texts in entries.items() if set(texts) != {"en", "zh"}]:
            raise ValueError(f"words.yaml, {section}: {', '.join(wrong)} needs en and zh")
    return words
