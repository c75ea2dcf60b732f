"""The name of every number that a run has written: how JSON files become dotted names (report/README.md says it too).

Keys of objects are joined by dots. A row in a list of objects is named by its leading text fields; where two rows would
have one name, the number fields behind them are added until they differ; rows without either, and other lists, are
counted from 0.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bpo_utils import paths, records
from bpo_utils.notebook import Place
from bpo_utils.profile import Profile
from bpo_utils.records import LETTERS
from bpo_utils.report_format import Number, kind_of, text

RESULTS = "06_results/results.json"
# prefix of the names: file of the run
FILES = {
    "mini.data": "01_data/stats.json",
    "mini.pairs": "02_pairs/stats.json",
    "mini.training": "03_training/plan.json",
    "mini.iterate": "07_iterate/results.json",
    "mini.align": "08_align/results.json",
    "mini.search": "09_search/results.json",
    "mini.embodied": "10_embodied/results.json",
}
LOG = "03_training/log.jsonl"
CARDS = tuple(f"{stage}/cards.json" for stage in ("06_results", "07_iterate", "08_align", "09_search", "10_embodied"))
LANGUAGES = ("en", "zh")
ALONE = ("name", "filter", "dataset")  # a row that begins with one of these needs no other field in its name


@dataclass(frozen=True)
class Rows:
    """One list of rows that a table can show: its name, and (row, file, top-level key of the file) of each."""

    name: str
    rows: list[tuple[dict[str, Any], str, str]]


@dataclass
class Numbers:
    """Everything that can be named: numbers and texts by name, and lists of rows by name."""

    by_name: dict[str, Number] = field(default_factory=dict)
    lists: dict[str, Rows] = field(default_factory=dict)

    def add(self, prefix: str, value: object, file: str = "", key: str = "", **more: Any) -> None:
        """Name all leaves of a JSON value. A name that is there already stays."""
        for name, leaf in leaves(value, prefix):
            if isinstance(leaf, list):
                found = self.lists.setdefault(name, Rows(name, []))
                found.rows.extend((row, file, key) for row in leaf)
            elif leaf is not None and name not in self.by_name:
                self.by_name[name] = Number(name, leaf, kind_of(name, leaf), file, key, **more)

    def add_file(self, prefix: str, value: dict[str, Any], file: str) -> None:
        """Name a results file, each top-level key with its name, so that the cell that wrote it can be found."""
        for key, part in value.items():
            self.add(joined(prefix, key), part, file, key)


def of_run(profile: Profile, place: Place) -> Numbers:
    """Names of everything in a run's results files; a file that is not there gives none."""
    numbers = Numbers()
    if (place.run / RESULTS).exists():
        _add_results(numbers, records.read_json(place.run / RESULTS))
    for prefix, file in FILES.items():
        if (place.run / file).exists():
            numbers.add_file(prefix, records.read_json(place.run / file), file)
    _add_log(numbers, place)
    for file in CARDS:
        if (place.run / file).exists():
            rows = records.read_json(place.run / file)
            shown = numbers.lists.setdefault("mini.cards", Rows("mini.cards", []))
            shown.rows.extend((_card(row), file, "") for row in rows)
            for row in rows:
                numbers.add(joined("mini.cards", row["claim"], row.get("label", "")), row, file)
    shown = f"bpo_utils/profiles/{profile.name}.yaml"
    numbers.add("mini.profile", profile.model_dump(mode="json"), shown)
    return numbers


def _add_results(numbers: Numbers, results: dict[str, Any]) -> None:
    for key in ("rows", "panel"):  # panel repeats the fields of rows; what was there first keeps its cell
        numbers.add("mini", results.get(key, []), RESULTS, key)
        numbers.lists[f"mini.{key}"] = Rows(
            f"mini.{key}", [(with_shares(row), RESULTS, key) for row in results.get(key, [])]
        )
    numbers.lists.pop("mini", None)
    for key, part in results.items():
        if key in ("controls", "rewriter"):
            numbers.add(f"mini.{key}", part, RESULTS, key)
        elif key not in ("rows", "panel", "profile", "label"):
            numbers.add(joined("mini.results", key), part, RESULTS, key)


def _add_log(numbers: Numbers, place: Place) -> None:
    """Last step, last loss, loss on the validation pairs and seconds of the training log."""
    path = place.run / LOG
    if not path.exists():
        return
    import json

    rows = [json.loads(line) for line in records.read_text(path).splitlines()]
    steps = [row for row in rows if "event" not in row]
    measured = [row["loss"] for row in rows if row.get("event") == "evaluation"]
    told = {"last_step": steps[-1]["step"], "last_loss": steps[-1]["loss"], "seconds": rows[-1]["seconds"]}
    told |= {"first_loss": steps[0]["loss"]}
    told |= {"validation_loss": measured[-1]} if measured else {}
    numbers.add("mini.training", told, LOG)


def _card(row: dict[str, Any]) -> dict[str, Any]:
    """A card as tables show it: claim, published values (their range), table, and verdict in words."""
    values = sorted(each["value"] for each in row["published"])
    shown = [text(Number("value", value, "points")) for value in values[:1] + values[1:][-1:]]
    tables = {language: [each["table"][language] for each in row["published"]] for language in LANGUAGES}
    return row | {
        "claim": row["text"],
        "published": {"en": " to ".join(shown), "zh": " 至 ".join(shown)},
        "place": {k: ", ".join(dict.fromkeys(v)) for k, v in tables.items()} if values else row["source"],
        "verdict": row["verdict_text"],
    }


def part(word: object) -> str:
    """One part of a name: every run of characters other than letters and digits becomes one underscore."""
    return re.sub(r"[\W_]+", "_", str(word)).strip("_")


def joined(*parts: object) -> str:
    """A name of parts; the first one, which is a name already, keeps its dots, empty parts fall out."""
    first, *rest = parts
    return ".".join(filter(None, [str(first), *map(part, rest)]))


def leaves(value: object, prefix: str) -> Iterator[tuple[str, object]]:
    """(name, leaf) of all numbers and texts of a JSON value, and (name, rows) of every list of objects in it."""
    if isinstance(value, dict) and not in_both(value):
        for key, below in with_shares(value).items():
            yield from leaves(below, joined(prefix, key))
    elif isinstance(value, list) and value and all(isinstance(row, dict) and not in_both(row) for row in value):
        yield prefix, [with_shares(row) for row in value]
        for name, row in zip(row_names(value), value, strict=True):
            yield from leaves(row, joined(prefix, *name))
    elif isinstance(value, list):
        for place, below in enumerate(value):
            yield from leaves(below, joined(prefix, place))
    else:
        yield prefix, value


def in_both(value: object) -> bool:
    """Whether a value is one text in two languages."""
    return isinstance(value, dict) and set(value) == set(LANGUAGES)


def row_names(rows: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    """The parts that name each row of a list."""
    fields = list(rows[0])
    texts = 0
    if fields[0] in ALONE and len({part(row.get(fields[0])) for row in rows}) == len(rows):
        return [(row[fields[0]],) for row in rows]
    while texts < len(fields) and all(isinstance(row.get(fields[texts]), str) for row in rows):
        texts += 1
    for used in range(texts, len(fields) + 1):
        if used > texts and not all(isinstance(row.get(fields[used - 1]), str | int | float) for row in rows):
            break
        names = [tuple(row[name] for name in fields[:used]) for row in rows]
        if used and len({joined("", *name) for name in names}) == len(rows):
            return names
    return [(place,) for place in range(len(rows))]


def with_shares(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose verdicts are counted, with the letters as shares of n and the counts under `A_count` and so on."""
    counts, n = row.get("counts"), row.get("n")
    if not isinstance(counts, dict) or not n or not set(counts) <= set(LETTERS):
        return row
    letters = {letter: counts.get(letter, 0) for letter in LETTERS}
    rest = {name: value for name, value in row.items() if name != "counts"}
    return rest | {k: v / n for k, v in letters.items()} | {f"{k}_count": v for k, v in letters.items()}


def stage_done(number: str, place: Place, entries: dict[str, Any]) -> bool:
    """Whether the ledger says that a notebook is done and its results file is there."""
    stage = next((stage for stage in paths.STAGES if stage.startswith(f"{number}_")), None)
    entry = next((entry for name, entry in entries.items() if name.startswith(f"{number}_")), None)
    wanted = [name for name in (entry.outputs if entry else ()) if name.endswith((".json", ".jsonl"))]
    there = all(place.find(name).exists() for name in wanted)
    return bool(stage and entry and entry.status == "done" and wanted and there)
