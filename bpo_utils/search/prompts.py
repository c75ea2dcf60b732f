"""Meta-prompts: the texts that the optimizer gets, data files in `prompts/`, each with a version.

A file is text with slots such as `{{instruction}}`. What fills a slot is never looked into, so that an instruction
with braces or a tag in it stays what it is.
"""

import difflib
import hashlib
import json
import re
from functools import cache

from bpo_utils import paths

FOLDER = paths.PACKAGE / "search" / "prompts"
SLOT = re.compile(r"\{\{([a-z_]+)\}\}")
APOLOGY = re.compile(  # how a reply begins that says no; nobody begins an instruction to a model like that
    r"\W*(?:(?:I['’]?m|I am|we are|we['’]re)?\s*(?:very |so )?sorry\b|I apologi[sz]e|"
    r"I (?:can(?:no|['’])t|cannot|won't|will not)\b|(?:I['’]?m|I am) (?:un|not )able|"
    r"As an AI\b|(?:很|非常)?抱歉|对不起|我(?:无法|不能))",
    re.IGNORECASE,
)


@cache
def text(name: str) -> str:
    """A meta-prompt as it is written. Raises FileNotFoundError with the nearest name."""
    path = FOLDER / f"{name}.md"
    if not path.is_file():
        known = sorted(each.stem for each in FOLDER.glob("*.md"))
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
        raise FileNotFoundError(f"no meta-prompt {name!r} in {paths.shown(FOLDER)}; did you mean {near or known}?")
    return path.read_text(encoding="utf-8").strip()


def version(name: str) -> str:
    """Name and hash of a meta-prompt, as candidates remember it: `opro@1f3a9c02`."""
    return f"{name}@{hashlib.sha256(text(name).encode()).hexdigest()[:8]}"


def filled(name: str, **values: str) -> str:
    """A meta-prompt with its slots filled. Raises ValueError for a slot without a value or a value without a slot."""
    parts = SLOT.split(text(name))
    slots = set(parts[1::2])
    if slots != set(values):
        raise ValueError(f"meta-prompt {name}: its slots are {sorted(slots)}, given were {sorted(values)}")
    return "".join(values[part] if place % 2 else part for place, part in enumerate(parts))


def tagged(reply: str, tag: str) -> list[str]:
    """Every text that stands between <tag> and </tag>, white space around it gone; empty ones are left out."""
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", reply, re.DOTALL | re.IGNORECASE)
    return [each.strip() for each in found if each.strip()]


def first_or_rest(reply: str, tag: str) -> str:
    """The first tagged text; if a tag is missing, the rest of the text (OPRO, opt_utils.py); "" if there is no tag."""
    if whole := tagged(reply, tag):
        return whole[0]
    before, opened, after = reply.partition(f"<{tag}>")
    if opened:
        return after.partition(f"</{tag}>")[0].strip()
    before, closed, _ = reply.partition(f"</{tag}>")
    return before.strip() if closed else ""


def plain(reply: str) -> str:
    """A whole completion that should be one instruction; tags, a fence, quotes around it and a label are taken off.

    "" for what is no instruction: an apology or refusal, and JSON.
    """
    reply = next(iter(tagged(reply, "instruction")), reply)
    stripped = re.sub(r"^```\w*\n(.*?)\n?```$", r"\1", reply.strip(), flags=re.DOTALL)
    stripped = re.sub(r"^(instruction|prompt)\s*:\s*", "", stripped.strip(), flags=re.IGNORECASE).strip()
    if len(stripped) > 1 and stripped[0] == stripped[-1] and stripped[0] in "\"'`":
        stripped = stripped[1:-1].strip()
    return "" if APOLOGY.match(stripped) or _is_json(stripped) else stripped


def line(reply: str) -> str:
    """The instruction that a completion begins with: its first line, or the next one after an introduction."""
    lines = [each.strip() for each in plain(reply).split("\n") if each.strip()]
    introduced = len(lines) > 1 and lines[0].endswith((":", "："))
    return plain(lines[introduced]) if lines else ""


def blank(reply: str, text: str, mark: str) -> str:
    """What a reply puts into the blank of a text, without what it repeats of the text before and after it."""
    before, _, after = text.partition(mark)
    head, tail = before.rpartition("\n")[2].strip(), after.strip().partition("\n")[0].strip()
    if head and head in reply:
        reply = reply.partition(head)[2]
    return line(reply.partition(tail)[0] if tail else reply)


def _is_json(reply: str) -> bool:
    try:
        return isinstance(json.loads(reply), dict | list)
    except ValueError:
        return False
