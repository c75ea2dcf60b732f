"""The rows that stages exchange, and how they are read and written.

An `id` names one prompt from the first stage to the last. Files are JSON Lines in UTF-8, written atomically: a reader
sees the old file or the new one, never half of one.
"""

import dataclasses
import json
import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Row = TypeVar("Row")
REPLY_MARKER = "Optimized Instruction:"  # the teacher's optimized prompt stands between this, at the start of a line,
REPLY_END = "[END]"  # and this; upstream's recorded replies have the same form
LETTERS = ("A", "B", "C", "invalid", "refused")  # A original better, B optimized better, C tie
TEST_SETS = {"bpo_test": "BPO-test", "dolly": "Dolly", "vicuna": "Vicuna", "self_instruct": "Self-Instruct"}


@dataclass(frozen=True)
class Preference:
    """One row of preference data. `reply` is the teacher's recorded reply where there is one, else empty."""

    id: str
    prompt: str
    context: str
    good: str
    bad: str
    source: str
    reply: str = ""


@dataclass(frozen=True)
class TestPrompt:
    """One prompt of a test set; `context` is the passage it comes with, empty where it has none.

    `reference` is the answer that the test set gives as right, where it gives one (Dolly, Self-Instruct).
    """

    __test__ = False  # pytest must not take this for a test class
    id: str
    test_set: str
    prompt: str
    context: str
    category: str
    reference: str = ""


@dataclass(frozen=True)
class Pair:
    """One training pair: prompt and optimized prompt, both with the context put back."""

    id: str
    prompt: str
    optimized_prompt: str
    source: str


@dataclass(frozen=True)
class Rejected:
    """A preference row that gave no pair: which filter removed it, the text it looked at, and what it measured."""

    id: str
    reason: str
    text: str
    detail: str = ""


@dataclass(frozen=True)
class Rewrite:
    """One test prompt (with its context) and what a rewriter made of it. `rewriter`: bpo, or a control's name.

    `outcome`: what is to be counted of it, in words (rewrite.MARKS), such as `cut` or `unchanged`; mostly nothing.
    """

    id: str
    test_set: str
    rewriter: str
    prompt: str
    optimized_prompt: str
    outcome: str = ""


@dataclass(frozen=True)
class Answer:
    """One answer of an answer model. `side`: original, or the name of the rewriter whose prompt was answered.

    `outcome`: answered; empty (no text came back); refused (the provider's content filter) or too_long (the prompt does
    not fit), both without text.
    """

    id: str
    test_set: str
    side: str
    model: str
    prompt: str
    text: str
    outcome: str = "answered"


@dataclass(frozen=True)
class Reply:
    """What a language model said. `outcome`: answered, empty, refused, too_long; `finish`: stop, length (cut off)."""

    text: str
    outcome: str = "answered"
    finish: str = "stop"
    model: str = ""  # the version that answered, as the provider named it
    key: str = ""  # of the call in the store


@dataclass(frozen=True)
class Verdict:
    """One judgment of original against optimized, in both orders.

    `original_first` and `optimized_first` are what the judge said in each order, in the course's letters (A original
    better, B optimized better, C tie, invalid, or refused by a content filter); `verdict` needs both orders to agree,
    else it is a tie. `how`: judged; equal_answers (a tie without a call); no_answer (an answer was refused or its
    prompt too long, so there was nothing to judge and the verdict is refused).
    """

    id: str
    test_set: str
    rewriter: str
    answer_model: str
    judge: str
    original_first: str
    optimized_first: str
    verdict: str
    reply_original_first: str
    reply_optimized_first: str
    how: str = "judged"


def joined(instruction: str, context: str) -> str:
    """Instruction and context as one prompt, the way upstream feeds its rewriter.

    A newline between, none if no context.
    """
    return f"{instruction}\n{context}".strip() if context else instruction.strip()


def write_text(path: Path, text: str) -> Path:
    """Write a text file as `write_bytes` does, in UTF-8."""
    return write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file atomically: temporary file in the same folder, fsync, rename.

    Raises OSError that says what to do; the old file is then intact and nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        advice = "free some space or check the folder, then run again"
        raise OSError(error.errno, f"could not write {path}: {error.strerror}; {advice}") from error
    return path


def write_json(path: Path, value: object) -> Path:
    """Write one JSON value, indented, keys in their own order. NaN is refused: it is not JSON."""
    return write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> object:
    """Read one JSON file. Raises FileNotFoundError or ValueError that names the file and the stage to run again."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}, line {error.lineno}: not JSON ({error.msg}); run the notebook that writes it again"
        ) from error


def write_rows(path: Path, rows: Iterable[object]) -> Path:
    """Write dataclass rows as JSON Lines, in the order given."""
    return write_text(path, "".join(json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n" for row in rows))


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """Read JSON Lines as rows of one kind.

    A broken line, missing or unknown field is a ValueError with file and line.
    """
    required = {f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING}
    known = {f.name for f in dataclasses.fields(kind)}
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line:
            continue
        where = f"{path}, line {number}"
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: not JSON ({error.msg}); run the notebook that writes it again") from error
        if not isinstance(fields, dict) or not required <= fields.keys() <= known:
            raise ValueError(f"{where}: not a {kind.__name__} row; it needs the fields {', '.join(sorted(required))}")
        if wrong := [name for name, value in fields.items() if not isinstance(value, str)]:
            raise ValueError(f"{where}: {', '.join(wrong)} must be text; run the notebook that writes it again")
        rows.append(kind(**fields))
    return rows


def read_text(path: Path) -> str:
    """The text of a UTF-8 file. Raises FileNotFoundError or ValueError with the file and what to do."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} is missing; run the notebook that writes it (bpo status shows which)"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start}; run the notebook that writes it again") from error
