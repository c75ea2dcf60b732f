"""Cards "Did I reproduce it?": a claim of the report or the paper beside what a run measured, and a verdict in words.

The rule is one for all claims. A claim says where the true net win lies: above zero, or, where the published value is
within two of its own standard errors of zero ("about equal"), in the band published +- 2 standard errors. It agrees if
our 95 % interval lies wholly there, differs if it lies wholly elsewhere; else this n cannot tell. Claims and likely
reasons are in facts/claims.yaml, published values in facts/paper_win_rates.csv; the band follows from the printed
shares (`published_tables.standard_error`). In the miniature only this is tested, never the value. With the paper's own
models (`comparable`) the band counts as well: the value must lie in it, and an interval wholly outside it differs.
"""

import dataclasses
import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from bpo_utils import paths, published_tables, records, reproduced_html
from bpo_utils.records import TEST_SETS
from bpo_utils.reproduced_html import AGREES, DIFFERS, UNCLEAR, points

LANGUAGES = ("en", "zh")
POWER = 1.96 + 0.8416  # standard errors between zero and a net win that shows at the 5 % level with 80 % power


@dataclass(frozen=True)
class Card:
    """One claim and one measurement; all rates are fractions. `note`: a sentence per language, or nothing."""

    claim: str
    ours: float
    low: float
    high: float
    n: int
    seeds: int
    label: str
    verdict: str
    comparable: bool
    note: dict[str, str]


def card(
    claim: str,
    ours: float,
    low: float,
    high: float,
    n: int,
    seeds: int = 1,
    label: str = "",
    comparable: bool = False,
) -> Card:
    """The card of one measurement: net win of the method that the claim names first, with its 95 % interval.

    `ours`, `low` and `high` are fractions, `n` questions, `label` says what was measured (answer model, judge).
    `comparable`: the run has models of the paper's kind, so its value is compared too. Raises ValueError for an unknown
    claim (naming the nearest), for points instead of fractions, or an interval without its value.
    """
    entry = _entry(claim)
    if not -1 <= low <= ours <= high <= 1 or n < 1 or seeds < 1:
        numbers = f"ours {ours}, interval {low} to {high}, n {n}, seeds {seeds}"
        raise ValueError(f"{claim}: {numbers}; needs fractions -1 <= low <= ours <= high <= 1, n >= 1, seeds >= 1")
    verdict = _decide(entry, ours, low, high, comparable)
    return Card(claim, float(ours), float(low), float(high), int(n), seeds, label, verdict, comparable, {})


def as_rows(cards: Iterable[Card]) -> list[dict[str, Any]]:
    """The cards with all their texts in both languages, ready for cards.json; `html` takes these as well.

    Added to a card's own fields: `text`, `measure`, `source`, `kind` (above_zero, about_equal, at_most), `margin`,
    `published` ({table, row, value, se}, fractions), `published_text` (values and table in few words), `also` (as
    published, does not decide), `band`, `inside`, `verdict_text`, `sign`, `reasons`, `notes`.
    """
    return [_as_row(one) for one in cards]


def html(cards: Iterable[Card | dict[str, Any]], language: str = "en") -> str:
    """The cards as HTML: a block per claim, a line per measurement. Raises ValueError for an unknown language."""
    if language not in LANGUAGES:
        raise ValueError(f"no language {language!r}; there are {', '.join(LANGUAGES)}")
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in cards:
        row = _as_row(one) if isinstance(one, Card) else one
        groups.setdefault(row["claim"], []).append(row)
    words = {name: texts[language] for name, texts in _facts()["words"].items()}
    return "".join(reproduced_html.block(rows, language, words) for rows in groups.values())


def every_cell(panel: Sequence[dict[str, Any]], label: str = "", comparable: bool = False) -> Card:
    """The card of report_b_beats_a over the rows of `stats.panel`: every test set, answer model and judge is a cell.

    Shown is the smallest net win. Agrees if every cell's interval lies above zero and is significant after Holm's
    correction over the whole panel; differs if any interval lies wholly below zero. Raises ValueError for no cells.
    """
    cells = [row for row in panel if row["test_set"] != "pooled"]
    if not cells:
        raise ValueError("no cells; run notebook 05 first")
    clear = [row for row in cells if row["ci_low"] > 0]
    holm = [row for row in clear if row["p_holm"] < 0.05]
    below = [row for row in cells if row["ci_high"] < 0]
    worst = min(cells, key=lambda row: row["net_win"])
    named = [TEST_SETS.get(worst["test_set"], worst["test_set"]), worst["answer_model"], worst["judge"], label]
    found = card(
        *("report_b_beats_a", worst["net_win"], worst["ci_low"], worst["ci_high"], worst["n"]),
        label=", ".join(filter(None, named)),
        comparable=comparable,
    )
    counts = {"above": sum(row["net_win"] > 0 for row in cells), "all": len(cells), "clear": len(clear)}
    counts |= {"holm": len(holm), "below": len(below)}
    verdict = DIFFERS if below else AGREES if len(holm) == len(cells) else UNCLEAR
    return dataclasses.replace(found, verdict=verdict, note=_told("cells", **counts))


def mean_of_sets(rows: Sequence[dict[str, Any]]) -> tuple[float, float, float, int]:
    """The paper's delta win rate of one answer model and judge: (mean, low, high, questions), fractions.

    `rows`: one of `stats.summarise` per test set. Normal interval; the variance is that of independent sets, each
    (w + l - D^2) / (n - 1) with shares w and l, so the mean's is their sum over the squared number of sets. Where all
    questions of a set came out alike, its variance is that of its row's exact interval.
    """
    variance = 0.0
    for row in rows:
        decided = (row["counts"]["A"] + row["counts"]["B"]) / row["n"]
        spread = decided - row["net_win"] ** 2
        if spread > 0:
            variance += spread / (row["n"] - 1)
        else:  # all alike: no spread is no certainty, and the row has the exact interval for that
            variance += ((row["ci_high"] - row["ci_low"]) / (2 * 1.96)) ** 2
    mean = sum(row["net_win"] for row in rows) / len(rows)
    half = 1.96 * variance**0.5 / len(rows)
    return mean, max(-1.0, mean - half), min(1.0, mean + half), sum(row["n"] for row in rows)


def results_cards(results: dict[str, Any], run: Any) -> list[Card]:
    """The cards of notebook 06, from results.json (`panel`, `ties`) and the run's profile.

    Which answer models stand for API models and which for Llama-2-7b is said by the profile's `stands_for`; models are
    matched by their order, since a successor answers under its own name.
    """
    comparable = run.data.source != "miniature"
    found = [every_cell(results["panel"], comparable=comparable)]
    models = list(dict.fromkeys(row["answer_model"] for row in results["panel"]))
    for row in results["ties"]:
        if row["weaker"] != models[-2]:  # the claim is about the next strongest
            continue
        numbers = (row["difference"], row["ci_low"], row["ci_high"], row["n"])
        label = f"{row['stronger']} − {row['weaker']}, {row['judge']}"
        found.append(card("report_strongest_ties_most", *numbers, label=label, comparable=comparable))
    cells: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in results["panel"]:
        if row["test_set"] != "pooled":
            cells.setdefault((row["answer_model"], row["judge"]), []).append(row)
    stands_for = dict(zip(models, (model.stands_for.lower() for model in run.answer_models), strict=True))
    for claim, beginning in (("t3_api_models", ("gpt", "claude", "glm")), ("t4_same_size", ("llama", "vicuna"))):
        for (model, judge), rows in cells.items():
            if stands_for[model].startswith(beginning):
                label = f"{model}, {judge}"
                found.append(card(claim, *mean_of_sets(rows), label=label, comparable=comparable))
    return found


@cache
def _facts() -> dict[str, Any]:
    return yaml.safe_load(records.read_text(paths.FACTS / "claims.yaml"))


def _entry(claim: str) -> dict[str, Any]:
    claims = _facts()["claims"]
    if claim not in claims:
        close = difflib.get_close_matches(claim, claims, n=1, cutoff=0.3)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"no claim {claim!r}{hint}; there are {', '.join(claims)}")
    return claims[claim]


def _published(rows: Iterable[Sequence[str]]) -> list[dict[str, Any]]:
    """Published rows with value and standard error as fractions, and their place in words."""
    found = []
    for table, base, method_a, method_b, *test_set in rows:
        row = published_tables.find(table, base, method_a, method_b)
        where = test_set[0] if test_set else ""
        value = published_tables.net(row, where) if where else row["dwr_published"]
        named = {
            name: _told("ori") if method == "ori" else method for name, method in (("a", method_a), ("b", method_b))
        }
        pair = _in_both("against", base=base, **named)
        ending = f", {TEST_SETS[where]}" if where else ""
        numbers = {"value": round(value / 100, 4), "se": round(published_tables.standard_error(row, where) / 100, 5)}
        place = {"table": _told("table", number=table[1:], judge=row["judge"])}
        found.append(place | {"row": {language: text + ending for language, text in pair.items()}} | numbers)
    return found


def _short(entry: dict[str, Any]) -> dict[str, str]:
    """Published values and their table in few words, for a column of a table; or the source that has no values."""
    if "source" in entry:
        return _told(entry["source"])
    values = ", ".join(points(row["value"]) for row in _published(entry["rows"]))
    (table,) = {row[0].removeprefix("T") for row in entry["rows"]}
    return {language: f"{values} ({text})" for language, text in _told("short table", number=table).items()}


def _frame(entry: dict[str, Any]) -> tuple[str, tuple[float, float], tuple[float, float] | None]:
    """(kind, where the claim says the net win lies, the band of published values or None)."""
    rows = _published(entry.get("rows", []))
    if not rows:
        limit = entry.get("at_most")
        return ("above_zero", (0.0, math.inf), None) if limit is None else ("at_most", (-math.inf, limit), None)
    band = (min(row["value"] - 2 * row["se"] for row in rows), max(row["value"] + 2 * row["se"] for row in rows))
    if all(abs(row["value"]) < 2 * row["se"] for row in rows):
        return "about_equal", band, band
    return "above_zero", (0.0, math.inf), band


def _decide(entry: dict[str, Any], ours: float, low: float, high: float, comparable: bool) -> str:
    _, (start, end), band = _frame(entry)
    if high < start or low > end or (comparable and band and (high < band[0] or low > band[1])):
        return DIFFERS
    fits = start < low and high < end
    return AGREES if fits and (not comparable or band is None or band[0] <= ours <= band[1]) else UNCLEAR


def _needed(one: Card, entry: dict[str, Any]) -> dict[str, str]:
    """What n would have told, as a sentence: planned with the published value, not with the one that was measured."""
    kind, region, band = _frame(entry)
    if one.comparable and region[0] < one.low and one.high < region[1]:
        return _told("sign only")
    half, n = (one.high - one.low) / 2, f"{one.n:,}"
    if kind == "above_zero" and band is None:
        return _told("detectable", detectable=points(POWER * half / 1.96, sign=False))
    if kind == "above_zero":
        target = min(abs(row["value"]) for row in _published(entry["rows"]))
        ratio, names = (POWER * half / 1.96 / target) ** 2, ("more needed", "enough")
    else:
        target = region[1] if kind == "at_most" else (band[1] - band[0]) / 2
        ratio, names = (half / target) ** 2, ("fit needed", "fits")
    if ratio <= 1:
        return _told(names[1], n=n, target=points(target, sign=False))
    told = _told(names[0], n=n, target=points(target, sign=False), needed=f"{_rounded_up(ratio * one.n):,}")
    if one.seeds == 1:
        return told
    return {language: f"{told[language]} {_told('seeds too')[language]}" for language in LANGUAGES}


def _as_row(one: Card) -> dict[str, Any]:
    entry, facts = _entry(one.claim), _facts()
    kind, region, band = _frame(entry)
    notes = [one.note] if one.note else []
    if one.verdict == UNCLEAR and not one.note:
        notes.append(_needed(one, entry))
    only = "real" if one.comparable else "miniature"
    reasons = [facts["reasons"][name] for name in entry["reasons"][one.verdict]]
    fitting = [reason for reason in reasons if reason.get("only", only) == only][: reproduced_html.MOST_REASONS]
    return {
        **{name: value for name, value in dataclasses.asdict(one).items() if name != "note"},
        "text": entry["text"],
        "measure": entry.get("measure"),
        "source": _told(entry["source"]) if "source" in entry else None,
        "kind": kind,
        "margin": region[1] if kind == "at_most" else None,
        "published": _published(entry.get("rows", [])),
        "published_text": _short(entry),
        "also": _published(entry.get("also", [])),
        "band": None if band is None else [round(end, 4) for end in band],
        "inside": None if band is None else band[0] <= one.ours <= band[1],
        "verdict_text": _told(one.verdict),
        "sign": reproduced_html.SIGNS[one.verdict],
        "reasons": [{language: reason[language] for language in LANGUAGES} for reason in fitting],
        "notes": notes,
    }


def _told(name: str, **numbers: Any) -> dict[str, str]:
    """A phrase of claims.yaml in both languages, its numbers filled in."""
    return {language: text.format(**numbers) for language, text in _facts()["words"][name].items()}


def _in_both(name: str, **parts: Any) -> dict[str, str]:
    """As `_told`, for parts of which some are themselves in both languages."""
    chosen = {}
    for language in LANGUAGES:
        own = {key: part[language] if isinstance(part, dict) else part for key, part in parts.items()}
        chosen[language] = _told(name, **own)[language]
    return chosen


def _rounded_up(n: float) -> int:
    """To two figures, upwards: more would promise what nobody knows."""
    step = 10 ** max(0, math.floor(math.log10(n)) - 1)
    return math.ceil(n / step) * step
