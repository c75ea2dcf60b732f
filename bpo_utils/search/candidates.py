"""Candidates: an instruction with the story of where it came from."""

import re
from dataclasses import dataclass

LONGEST = 4000  # characters of an instruction; more is a reply that was not meant as one


@dataclass(frozen=True)
class Candidate:
    """One instruction. `id` counts in the order of birth; `reply` is the optimizer's text as it came.

    `demo`: a worked example that goes with it (ABO). `operator`: what made it, such as `edit` or `paraphrase`; `meta`:
    version of the meta-prompt. `parents`: ids.
    """

    id: str
    text: str
    demo: str = ""
    parents: tuple[str, ...] = ()
    step: int = 0
    operator: str = "seed"
    reply: str = ""
    meta: str = ""


def normal(text: str) -> str:
    """What makes two instructions the same: white space is one space, quotes around the whole are nothing."""
    text = re.sub(r"\s+", " ", text).strip()
    return text[1:-1].strip() if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'`" else text
