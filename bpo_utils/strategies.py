"""What rewrites do: the paper's four strategies and three error types (section 5, appendix I), counted and checked.

The paper looked at 500 samples and published no shares. Here a transparent classifier (`rewrite_rules`) gives shares,
and 60 labelled pairs tell how far it can be believed: `agreement()`. The labels, the guide they follow and their limits
are in facts/rewrite_labels.jsonl and facts/README.md. `python -m bpo_utils.strategies` computes the agreement again.
"""

import hashlib
import html
import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from bpo_utils import drift, paths, records
from bpo_utils.rewrite_rules import ERRORS, STRATEGIES, Found, Texts, classify

PER_SOURCE, SEED = 15, 5  # of the labelled sample
LABELS = paths.FACTS / "rewrite_labels.jsonl"
AGREEMENT = paths.FACTS / "rewrite_agreement.json"
VALIDATION_FILE = (
    "https://github.com/thu-coai/BPO/blob/eef4e1f70b7045c739459888c9e9afa69a71e900/data/train_data/val.json"
)


class Label(NamedTuple):
    """One labelled pair, without its texts; `first_line` and `last_line` are those of the record in val.json."""

    id: str
    source: str
    half: str
    sha256: str
    first_line: int
    last_line: int
    strategies: tuple[str, ...]
    errors: tuple[str, ...]
    reason: str


def draw(rows: Iterable[records.Preference]) -> list[str]:
    """Ids of the labelled sample: 15 rows of each source, by a fixed seed, in the order in which they were labelled.

    The first half was used to write the rules, the second half was held out. Raises ValueError for too few rows.
    """
    sources: dict[str, list[str]] = {}
    for row in rows:
        sources.setdefault(row.source, []).append(row.id)
    if few := {name: len(ids) for name, ids in sources.items() if len(ids) < PER_SOURCE}:
        raise ValueError(f"needs {PER_SOURCE} rows of each source, there are {few}; load all 300 validation rows")
    rng = random.Random(SEED)
    drawn = [name for source in sorted(sources) for name in rng.sample(sorted(sources[source]), PER_SOURCE)]
    rng.shuffle(drawn)
    return drawn


def load_labels() -> list[Label]:
    """The 60 labels, in the order of `draw`. Raises ValueError for an unknown strategy, error or field."""
    labels = []
    for number, line in enumerate(records.read_text(LABELS).splitlines(), 1):
        row = json.loads(line)
        if row.keys() != set(Label._fields):
            raise ValueError(f"{LABELS}, line {number}: needs the fields {', '.join(Label._fields)}")
        if unknown := set(row["strategies"]) - set(STRATEGIES) | set(row["errors"]) - set(ERRORS):
            raise ValueError(f"{LABELS}, line {number}: no class {unknown}; there are {', '.join(STRATEGIES + ERRORS)}")
        labels.append(Label(**row | {"strategies": tuple(row["strategies"]), "errors": tuple(row["errors"])}))
    return labels


def digest(before: str, after: str) -> str:
    """First 16 hex digits of the sha256 of instruction, newline, optimized prompt: what a label was given for."""
    return hashlib.sha256(f"{before}\n{after}".encode()).hexdigest()[:16]


def texts(rows: Iterable[records.Preference], optimized: Mapping[str, str]) -> dict[str, Texts]:
    """Texts by row id, from the rows and the published optimized prompt of each id (`data.load_published`)."""
    return {row.id: Texts(row.prompt, optimized[row.id], row.context) for row in rows}


def check_labels(labels: Iterable[Label], rows: Mapping[str, Texts]) -> None:
    """Raises ValueError that names the labelled rows that are missing or whose texts are not those that were read."""
    wrong = [
        label.id
        for label in labels
        if label.id not in rows or digest(rows[label.id].before, rows[label.id].after) != label.sha256
    ]
    if wrong:
        raise ValueError(
            f"{len(wrong)} labelled rows are not those that were labelled: {', '.join(wrong)}; take the file of the "
            "pinned commit (data.fetch), all 300 rows"
        )


def confusion(labels: Sequence[Label], found: Mapping[str, Found]) -> list[dict]:
    """One row per class: {class, both, label_only, rule_only, neither, n, precision, recall, f1, kappa, ...}.

    The counts are pairs; precision and recall have Wilson 95 % intervals (`precision_low` ...). A figure without cases
    is None: read the counts of a rare class, not its rates. Raises KeyError for a label whose row was not classified.
    """
    return [
        _two_by_two(
            name, [(name in label.strategies + label.errors, name in _all(found[label.id])) for label in labels]
        )
        for name in STRATEGIES + ERRORS
    ]


def _all(found: Found) -> tuple[str, ...]:
    return found.strategies + found.errors


def _two_by_two(name: str, pairs: list[tuple[bool, bool]]) -> dict:
    import numpy as np
    from statsmodels.stats.inter_rater import cohens_kappa

    count = Counter(pairs)
    both, label_only, rule_only, neither = (
        count[pair] for pair in ((True, True), (True, False), (False, True), (False, False))
    )
    row: dict = {"class": name, "both": both, "label_only": label_only, "rule_only": rule_only, "neither": neither}
    row |= {"n": len(pairs)} | _rate("precision", both, both + rule_only) | _rate("recall", both, both + label_only)
    named = 2 * both + label_only + rule_only
    row["f1"] = 2 * both / named if named else None
    # where both name one and the same for every pair there is no chance to correct for
    varied = 0 < named < 2 * len(pairs)
    table = np.array([[both, label_only], [rule_only, neither]])
    return row | {"kappa": float(cohens_kappa(table, return_results=False)) if varied else None}


def _rate(name: str, hits: int, of: int) -> dict[str, float | None]:
    from statsmodels.stats.proportion import proportion_confint

    if not of:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    low, high = proportion_confint(hits, of, method="wilson")
    return {name: hits / of, f"{name}_low": float(low), f"{name}_high": float(high)}


def measure(rows: Mapping[str, Texts]) -> dict:
    """Agreement of rules and labels, computed: {n, command, develop: [confusion rows], held_out: [...]}.

    Raises ValueError as check_labels.
    """
    labels = load_labels()
    check_labels(labels, rows)
    found = {label.id: classify(*rows[label.id]) for label in labels}
    halves = {half: [label for label in labels if label.half == half] for half in ("develop", "held_out")}
    # rounded, so that the table is the same to the letter with other versions of the libraries
    tables = {half: [_rounded(row) for row in confusion(part, found)] for half, part in halves.items()}
    counts = {half: len(part) for half, part in halves.items()}
    return {"n": counts, "command": "python -m bpo_utils.strategies"} | tables


def _rounded(row: dict) -> dict:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}


def agreement() -> dict:
    """The committed agreement of rules and labels, as `measure` gives it; it needs no texts."""
    return records.read_json(AGREEMENT)


def shares(pairs_by_source: Mapping[str, Sequence[tuple[str, str]]]) -> list[dict]:
    """Share of the pairs (original, rewrite) of each source that show each strategy, and a last row `all`.

    {source, n, explanation, elaboration, hints, safety, none, not_read}: fractions of n, the English pairs; not
    exclusive, so they do not sum to 1. `none`: unchanged or only reworded. `not_read` counts Chinese pairs. A source
    with no English pair has None.
    """
    groups = dict(pairs_by_source) | {"all": [pair for pairs in pairs_by_source.values() for pair in pairs]}
    return [_share(source, [classify(*pair) for pair in pairs]) for source, pairs in groups.items()]


def _share(source: str, found: list[Found]) -> dict:
    read = [one for one in found if one.applies]
    counts = Counter(name for one in read for name in one.strategies or ("none",))
    rates = {name: counts[name] / len(read) if read else None for name in (*STRATEGIES, "none")}
    return {"source": source, "n": len(read), **rates, "not_read": len(found) - len(read)}


def link(label: Label) -> str:
    """The address of the labelled record in upstream's file, at the pinned commit and with its lines marked."""
    return f"{VALIDATION_FILE}#L{label.first_line}-L{label.last_line}"


def examples(labels: Iterable[Label], each: int = 2) -> str:
    """HTML list: for each class the first labelled rows that have it, linked to upstream's file, with the reason.

    No text of upstream is shown, so it needs no data. At most `each` rows for a class.
    """
    labels, items = list(labels), []
    for name in STRATEGIES + ERRORS:
        rows = [label for label in labels if name in label.strategies + label.errors][:each]
        links = (f'<a href="{link(row)}">{row.id}</a> ({html.escape(row.reason)})' for row in rows)
        items.append(f"<li><b>{name}</b>: {'; '.join(links)}</li>")
    return f"<ul>{''.join(items)}</ul>"


def main() -> None:
    """Compute the agreement from BPO's validation rows, write it, and print it with the shares by source and flags."""
    from bpo_utils import data, profile

    rows = data.load_preferences(profile.load("recorded"))
    by_id = texts(rows, {name: row.optimized_prompt for name, row in data.load_published().items()})
    measured = measure(by_id)
    records.write_json(AGREEMENT, measured)
    by_source: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        by_source.setdefault(row.source, []).append(by_id[row.id][:2])
    for part in (measured["develop"], measured["held_out"], shares(by_source), drift.overview(by_source)):
        print(*part, sep="\n", end="\n\n")
    print(*drift.flag_shares(by_id[row.id][:2] for row in rows), sep="\n")


if __name__ == "__main__":
    main()
