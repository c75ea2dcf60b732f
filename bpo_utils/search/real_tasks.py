"""Real tasks: BIG-Bench Hard (`bbh/navigate`), LIAR (`liar`) and GSM8K (`gsm8k`), with prompts and settings of ours.

Rows come from $BPO_TASKS_DIR or are downloaded once (`real_files`). GSM8K and LIAR have an official test part, and test
rows come from there; a BIG-Bench Hard task is one list, which is divided. No input is in two sets.
"""

import difflib
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bpo_utils import download
from bpo_utils.profile import SearchRows
from bpo_utils.search import metrics, real_files
from bpo_utils.search.task import Row, Task, split

REASONED = 512  # tokens of an answer with its reasoning; ours, OPRO allows 1,024 and PromptAgent asks for no limit
BBH_ABOUT = "The model gets a question that takes several steps of reasoning, and has to answer it."


@dataclass(frozen=True)
class Real:
    """What is ours about a real task; every field can be changed in a profile."""

    about: str
    seed: str
    answer_tokens: int = REASONED
    position: str = "before"  # as PromptAgent's and ProTeGi's code have it
    form: str = metrics.FORM


LIAR = Real(
    "The model gets a politician's statement with its speaker and occasion, and says whether it is a lie: Yes or No.",
    "Is the statement a lie? Answer with Yes or No.",
    64,
)
GSM8K = Real("The model gets a word problem of school mathematics, whose answer is a number.", "Solve the problem.")
BBH = Real(BBH_ABOUT, "Let's solve the problem.")  # OPRO's first instruction, section 5.1


def names() -> list[str]:
    """The names that `load` knows."""
    return [*(f"bbh/{name}" for name in real_files.BBH), "liar", "gsm8k"]


def known(name: str) -> None:
    """Raises ValueError with the nearest name if there is no such task."""
    if name not in names():
        near = difflib.get_close_matches(name, [*names(), "instruction", "landscape"], n=1)
        guess = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"no task {name!r}{guess}; there are instruction, landscape, {', '.join(names())}")


def load(name: str, rows: SearchRows, contained: bool = False) -> Task:
    """A real task with so many rows in each set, drawn by `rows.draw`.

    `contained`: an answer that contains the reference is right too (`metrics.of`). Raises ValueError for an unknown
    name, too few rows or a broken file, FileNotFoundError or ConnectionError if a file cannot be had.
    """
    known(name)
    if name.startswith("bbh/"):
        about, every = BBH, bbh(real_files.bbh(name.removeprefix("bbh/")), name.removeprefix("bbh/"))
        metric = metrics.of([row.gold for row in every], contained)
        # a few published rows have a reference that is none of their options: nobody could be right there
        fair = [row for row in every if metric(row, row.gold).value == 1.0]
        parts = split(fair, rows.train, rows.dev, rows.test, rows.draw)
    else:
        read, place, about = (liar, real_files.liar, LIAR) if name == "liar" else (gsm8k, real_files.gsm8k, GSM8K)
        train, test = read(place("train"), "train"), read(place("test"), "test")
        metric = metrics.of([row.gold for row in (*train, *test)], contained)
        parts = _official(train, test, rows)
    asked = {"position": about.position, "form": about.form, "answer_tokens": about.answer_tokens}
    return Task(name, about.about, about.seed, *parts, metric, **asked)


def bbh(path: Path, name: str) -> list[Row]:
    """Rows of one BIG-Bench Hard file. Its `canary`, which must not get into prompts, is left in the file."""
    (whole,) = download.table(path, {"examples": list})
    download.check(whole["examples"], {"input": str, "target": str}, str(path))
    found = enumerate(whole["examples"])
    return different(Row(f"{name}-{place}", one["input"].strip(), one["target"].strip()) for place, one in found)


def liar(path: Path, part: str) -> list[Row]:
    """Rows of one part of LIAR; label 1 is a lie (Yes), as in ProTeGi's code."""
    found = enumerate(download.table(path, {"text": str, "label": int}))
    return different(Row(f"liar-{part}-{n}", one["text"].strip(), ("No", "Yes")[one["label"]]) for n, one in found)


def gsm8k(path: Path, part: str) -> list[Row]:
    """Rows of one part of GSM8K: OPRO's table (question, answer, solution), or the JSON Lines of its home, where the
    answer stands after #### at the end of the solution. Raises ValueError with the line that has no number."""
    if path.suffix == ".tsv":
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        found = [(line.split("\t") + [""])[:2] for line in lines]
    else:
        told = download.table(path, ["question", "answer"])
        found = [(one["question"], one["answer"].rpartition("####")[2]) for one in told]
    rows = []
    for place, (question, gold) in enumerate(found):
        plain = gold.strip().replace(",", "")
        if not question.strip() or not re.fullmatch(r"-?\d+(?:\.\d+)?", plain):
            raise ValueError(f"{path}, line {place + 1}: no question with a number as its answer; take the file again")
        rows.append(Row(f"gsm8k-{part}-{place}", question.strip(), plain))
    return different(rows)


def different(rows: Iterable[Row]) -> list[Row]:
    """The rows without those whose input came before: a row must not be in two sets under two ids."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row.input, row)
    return list(first.values())


def _official(train: Sequence[Row], test: Sequence[Row], rows: SearchRows) -> tuple[tuple[Row, ...], ...]:
    """(train, dev, test) rows where the test part is given; a training row that occurs in it is left out."""
    known = {row.input for row in test}
    if rows.test > len(test):
        raise ValueError(f"{rows.test} test rows are asked for, and there are {len(test)}; ask for fewer")
    left = [row for row in train if row.input not in known]
    drawn = split(left, rows.train, rows.dev, 0, rows.draw)
    return drawn[0], drawn[1], tuple(random.Random(rows.draw).sample(list(test), rows.test))
