"""Blind pairs for human labels: a page that asks which of two answers is better, and what it saved read back.

The page knows neither model nor rewriter nor judge. An item's name is a hash, and which answer stands on the left
follows from another part of the same hash; both are computed again from the run when the labels come back. The salt,
the seed, is no secret: whoever wants to cheat can, but nobody reads a side off by eye.
"""

import hashlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from bpo_utils import records
from bpo_utils.judgments import PairKey, both_answers, fill
from bpo_utils.records import Answer, Verdict

KIND = "bpo labels"
CHOICES = ("A", "B", "C")  # the labeller's: left better, right better, equally good
Sides = tuple[Answer, Answer]  # to the original prompt, to the optimized one


def page(
    label: str,
    answers: list[Answer],
    verdicts: list[Verdict],
    path: Path,
    n: int = 50,
    seed: int = 0,
    rewriter: str = "bpo",
) -> Path:
    """Write the labelling page of n pairs that were judged (all, if there are fewer) and return its path.

    Drawn evenly over test sets and answer models, hence not in proportion to their sizes; the same rows and seed give
    the same page. Raises ValueError for n < 1 or if there is no pair with two answers.
    """
    chosen = _sample(_pairs(answers, verdicts, rewriter), n, seed)
    items = []
    for key, sides in chosen:
        name, swapped = _blind(seed, key, sides)
        left, right = sides[::-1] if swapped else sides
        items.append({"item": name, "question": sides[0].prompt, "left": left.text, "right": right.text})
    data = {"kind": KIND, "label": label, "seed": seed, "items": items}
    return records.write_text(path, fill("labelling.html", f"Labelling: {label}", data))


def read(path: Path, answers: list[Answer], verdicts: list[Verdict]) -> list[dict[str, str]]:
    """Labels that the page saved, as {test_set, id, rewriter, answer_model, label}, in the file's order.

    `label` is in the course's letters: A original better, B optimized better, C tie. Raises FileNotFoundError, or
    ValueError that says what is wrong with the file, where, and what to do.
    """
    saved = _load(path)
    known = {}
    for key, sides in both_answers(answers, verdicts).items():
        name, swapped = _blind(saved["seed"], key, sides)
        known[name] = key, swapped
    rows: dict[str, dict[str, str]] = {}
    for number, row in enumerate(saved["labels"]):
        where = f"{path}, labels[{number}]"
        if not isinstance(row, dict) or row.keys() != {"item", "choice"} or not isinstance(row["item"], str):
            raise ValueError(f"{where}: {row!r} is not item and choice; save the labels again from the page")
        name, choice = row["item"], row["choice"]
        if choice not in CHOICES:
            raise ValueError(f"{where}: choice {choice!r}; it must be {', '.join(CHOICES[:-1])} or {CHOICES[-1]}")
        if name not in known:
            raise ValueError(
                f"{where}: no pair of this run has the name {name!r}: the labels are from another run, or its answers "
                "were made again since; use the run the page was made from, or make a new page and label that"
            )
        if name in rows:
            raise ValueError(f"{where}: {name} is labelled twice; remove one of the two")
        (test_set, id, rewriter, model), swapped = known[name]
        letter = {"A": "B", "B": "A"}.get(choice, choice) if swapped else choice
        rows[name] = dict(test_set=test_set, id=id, rewriter=rewriter, answer_model=model, label=letter)
    return list(rows.values())


def _load(path: Path) -> dict[str, Any]:
    """The file as the page saved it, not yet compared with a run."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8-sig"))  # some editors put a mark before the text
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing; save the labels from the labelling page first") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not JSON ({error}); save the labels again from the page") from error
    if not isinstance(saved, dict) or saved.get("kind") != KIND:
        raise ValueError(f"{path}: not a file of labels (kind {KIND!r}); save it from the labelling page")
    if type(saved.get("seed")) is not int or not isinstance(saved.get("labels"), list):
        raise ValueError(f"{path}: seed must be a whole number and labels a list; save the labels again from the page")
    if not saved["labels"]:
        raise ValueError(f"{path}: no labels in it yet; label some pairs and save again")
    return saved


def _pairs(answers: list[Answer], verdicts: list[Verdict], rewriter: str) -> dict[PairKey, Sides]:
    """Pairs that a person can compare: one rewriter's, both answers there. Equal answers stay in, as in every rate."""
    judged = [row for row in verdicts if row.rewriter == rewriter and row.how != "no_answer"]
    if not judged:
        raise ValueError(f"no judged pairs of the rewriter {rewriter}; run notebook 05 first")
    return both_answers(answers, judged)


def _sample(pairs: dict[PairKey, Sides], n: int, seed: int) -> list[tuple[PairKey, Sides]]:
    """n pairs, one of each test set and answer model in turn, each question once while there are others."""
    if n < 1:
        raise ValueError(f"{n} pairs to label: at least 1")
    groups = defaultdict(list)
    for key in sorted(pairs, key=lambda key: _digest(seed, *key)):
        groups[key[0], key[3]].append(key)
    order = sorted(groups, key=lambda group: _digest(seed, *group))
    chosen: list[PairKey] = []
    asked = set()
    while len(chosen) < min(n, len(pairs)):
        for group in order:
            if not groups[group] or len(chosen) == n:
                continue
            new = next((key for key in groups[group] if key[:2] not in asked), groups[group][0])
            groups[group].remove(new)
            chosen.append(new)
            asked.add(new[:2])
    # taken in turn, the place of an item would tell its group
    return [(key, pairs[key]) for key in sorted(chosen, key=lambda key: _blind(seed, key, pairs[key]))]


def _blind(seed: int, key: PairKey, sides: Sides) -> tuple[str, bool]:
    """An item's name, and whether the answer to the optimized prompt stands on the left.

    The texts are part of it: labels of answers that were since made again must not be taken for labels of the new ones.
    """
    digest = _digest(seed, *key, sides[0].prompt, sides[0].text, sides[1].text)
    return digest[:12], int(digest[-1], 16) % 2 == 1


def _digest(seed: int, *parts: str) -> str:
    return hashlib.sha256(json.dumps([seed, *parts]).encode()).hexdigest()
