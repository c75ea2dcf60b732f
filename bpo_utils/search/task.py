"""A task: rows in three sets that share none, how a prompt is put together, and how an answer is scored."""

import collections
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# Where the instruction stands. The last four are OPRO's (arXiv 2309.03409, section 5.1), with its marks of question and
# answer; A_begin and `answer` are the start of the answer, which the model goes on from.
POSITIONS = {
    "before": ("{instruction}\n{input}", ""),
    "after": ("{input}\n{instruction}", ""),
    "answer": ("{input}", "{instruction}"),
    "before_Q": ("{instruction}\nQ: {input}\nA:", ""),
    "Q_begin": ("Q: {instruction}\n{input}\nA:", ""),
    "Q_end": ("Q: {input}\n{instruction}\nA:", ""),
    "A_begin": ("Q: {input}\nA:", "{instruction}"),
}


@dataclass(frozen=True)
class Row:
    """One row: what the target is asked, and what would be right. The id names it for good; texts never do."""

    id: str
    input: str
    gold: str


@dataclass(frozen=True)
class Mark:
    """What a metric says of one answer: its value in [0, 1], what was read out of it, and whether nothing could be.

    An unreadable answer is a class of its own: worth 0 and counted, never taken for a wrong label.
    """

    value: float
    read: str
    unreadable: bool = False


@dataclass(frozen=True)
class Task:
    """What is searched on. `about`: one sentence that tells the optimizer what the target does with an input.

    `train` gives errors, minibatches and exemplars, `dev` selects, `test` is looked at once. `form`: what every prompt
    ends with (before the mark of the answer), such as how the answer is to be written; it is not searched. `right`:
    from this value on a row is no error. Raises ValueError for a row in two sets, an id that occurs twice, an empty set
    or an unknown position.
    """

    name: str
    about: str
    seed: str  # the instruction that the search starts from
    train: tuple[Row, ...]
    dev: tuple[Row, ...]
    test: tuple[Row, ...]
    metric: Callable[[Row, str], Mark]
    position: str = "after"
    form: str = ""
    right: float = 1.0
    answer_tokens: int = 128  # the target's answer limit

    def __post_init__(self) -> None:
        if self.position not in POSITIONS:
            raise ValueError(f"{self.name}: no position {self.position!r}; there are {', '.join(POSITIONS)}")
        sets = {"train": self.train, "dev": self.dev, "test": self.test}
        if empty := [name for name, rows in sets.items() if not rows]:
            raise ValueError(f"{self.name}: no rows in {', '.join(empty)}; a search needs train, dev and test")
        times = collections.Counter(row.id for rows in sets.values() for row in rows)
        if twice := [id for id, count in times.items() if count > 1]:
            raise ValueError(
                f"{self.name}: {len(twice)} ids occur more than once, such as {twice[0]}; train, dev and test must not "
                "share a row"
            )


def prompt(task: Task, instruction: str, text: str, demo: str = "") -> tuple[str, str]:
    """(prompt, start of the answer) for one input; the demonstration, if there is one, stands in front.

    Nothing in an instruction or input is interpreted: one that holds `{input}` or `[INPUT]` stays as it is. An empty
    instruction leaves no empty line.
    """
    values = {"{instruction}": instruction, "{input}": text, "{form}": task.form}
    asked, start = (_filled(part, values) for part in _template(task))
    return f"{demo}\n\n{asked}" if demo else asked, start


def shown(task: Task) -> str:
    """The full template with the places of instruction and input, as PE2 shows it to its optimizer (section 5.3)."""
    return "\n".join(part.replace("{form}", task.form) for part in _template(task) if part)


def split(rows: Sequence[Row], train: int, dev: int, test: int, seed: int) -> tuple[tuple[Row, ...], ...]:
    """Rows drawn for train, dev and test, none of them twice. Raises ValueError if there are too few."""
    if train + dev + test > len(rows):
        raise ValueError(f"{train} + {dev} + {test} rows are asked for, and there are {len(rows)}; ask for fewer")
    drawn = random.Random(seed).sample(list(rows), train + dev + test)
    return tuple(drawn[:train]), tuple(drawn[train : train + dev]), tuple(drawn[train + dev :])


def _template(task: Task) -> tuple[str, str]:
    """(prompt, start of the answer) with places; the form comes last, but for the mark where the answer begins."""
    asked, start = POSITIONS[task.position]
    body, mark, _ = asked.partition("\nA:")
    return f"{body}\n{{form}}{mark}" if task.form else asked, start


def _filled(template: str, values: dict[str, str]) -> str:
    if not values["{instruction}"]:
        for slot in ("{instruction}\n", "\n{instruction}", "{instruction}"):
            template = template.replace(slot, "", 1)
    return "".join(values.get(part, part) for part in re.split(r"(\{instruction\}|\{input\}|\{form\})", template))
