"""The names of published numbers: `paper.t3...` from bpo_utils/facts, and the rest from report/paper/*.yaml.

Each has its place in the source. Published rates are percent there; here they are fractions like a run's own.
"""

import csv
from pathlib import Path
from typing import Any

import yaml

from bpo_utils import paths, records
from bpo_utils.report_format import KINDS, Number, kind_of
from bpo_utils.report_numbers import Numbers, Rows, joined

NAMES = ("base", "method_a", "method_b")
SETS = {"vicuna": "vic", "self_instruct": "si", "dolly": "dol", "bpo_test": "bpo"}
PLACE = {"en": "paper, Table {table}: {row}", "zh": "论文表 {table}：{row}"}


def add(numbers: Numbers, report: Path = paths.REPORT) -> None:
    """Add every published number to the names. Raises ValueError that names the file and entry which is wrong."""
    for table, file in ((1, "paper_table1_data"), (2, "paper_table2_methods")):
        shown = []
        for row in _read(file):
            named, *fields = row.values()
            place = {language: text.format(table=table, row=named) for language, text in PLACE.items()}
            values = {field: _typed(value) for field, value in zip(list(row)[1:], fields, strict=True)}
            for field, value in values.items():
                digits = 3 if isinstance(value, float) else None
                _add(numbers, joined(f"paper.t{table}", named.lower(), field), value, place, digits)
            shown.append(({next(iter(row)): named} | values, "", place))
        numbers.lists[f"paper.t{table}"] = Rows(f"paper.t{table}", shown)
    _add_win_rates(numbers)
    _add_figures(numbers)
    for path in sorted((report / "paper").glob("*.yaml")):
        _add_yaml(numbers, path)


def _add_win_rates(numbers: Numbers) -> None:
    """Tables 3 to 12: what is the same in all rows of a table is no part of the names."""
    tables: dict[str, list[dict[str, str]]] = {}
    for row in _read("paper_win_rates"):
        tables.setdefault(row["table"], []).append(row)
    for table, rows in tables.items():
        telling = [name for name in NAMES if len({row[name] for row in rows}) > 1]
        shown = []
        for row in rows:
            words = f"{row['base']}: {row['method_a']} / {row['method_b']} ({row['judge']})"
            place = {language: text.format(table=table[1:], row=words) for language, text in PLACE.items()}
            fields = _win_rates(row)
            prefix = joined(f"paper.{table.lower()}", *(row[name] for name in telling))
            for field, value in fields.items():
                _add(numbers, f"{prefix}.{field}", value, place)
            shown.append(({name: row[name] for name in (*NAMES, "judge")} | fields, "", place))
        numbers.lists[f"paper.{table.lower()}"] = Rows(f"paper.{table.lower()}", shown)


def _win_rates(row: dict[str, str]) -> dict[str, float]:
    shares = {name: _fraction(row[name]) for name in row if name.split("_")[0] in SETS.values() and row[name]}
    nets = {name: round(shares[f"{short}_a"] - shares[f"{short}_b"], 6) for name, short in SETS.items()}
    return {"dwr": _fraction(row["dwr_published"]), "se": _fraction(row["se_derived"])} | nets | shares


def _add_figures(numbers: Numbers) -> None:
    """Figure 1 (its bars) and Figure 7 (recomputed from Tables 4 and 9)."""
    derived = {"en": "derived from Tables 4 and 9 (Figure 7)", "zh": "由表 4 与表 9 推得（图 7）"}
    for row in _read("paper_figure7_scaling"):
        prefix = joined("paper.figure7", row["judge"], row["model_a_vs_70B"])
        for field in (*SETS, "mean"):
            _add(numbers, f"{prefix}.{field}", _fraction(row[field]), derived)
    drawn = {"en": "paper, Figure 1", "zh": "论文图 1"}
    for row in _read("paper_figure1"):
        prefix = joined("paper.figure1", row["a"], row["b"])
        for field in ("a_win", "tie", "b_win"):
            _add(numbers, f"{prefix}.{field}", _fraction(row[field]), drawn)
        _add(numbers, f"{prefix}.net_win", _fraction(row["printed_delta"]), drawn)


def _add_yaml(numbers: Numbers, path: Path) -> None:
    entries = yaml.safe_load(records.read_text(path))
    for name, entry in entries["numbers"].items():
        where = f"{paths.shown(path)}, {name}"
        if entry.get("kind") not in KINDS or entry.get("place") not in entries["places"]:
            told = f"kind is one of {', '.join(KINDS)}, place one of {', '.join(entries['places'])}"
            raise ValueError(f"{where}: {told}; this says {entry.get('kind')!r} and {entry.get('place')!r}")
        full = joined("paper", path.stem, name)
        place = entries["places"][entry["place"]]
        numbers.by_name[full] = Number(full, entry["value"], entry["kind"], source=place, digits=entry.get("digits"))


def _add(numbers: Numbers, name: str, value: object, place: dict[str, str], digits: int | None = None) -> None:
    numbers.by_name[name] = Number(name, value, kind_of(name, value), source=place, digits=digits)


def _typed(text: str) -> object:
    """A cell as a number where it is one."""
    return text if not text[0].isdigit() else float(text) if "." in text else int(text)


def _fraction(text: str) -> float:
    return round(float(text) / 100, 6)


def _read(name: str) -> list[dict[str, Any]]:
    with (paths.FACTS / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
