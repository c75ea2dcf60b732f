"""Meta-prompts: the texts that the optimizer gets, data files in `prompts/`, each with a version.

A file is text with slots such as `{{instruction}}`. What fills a slot is never looked into, so that an instruction
with braces or a tag in it stays what it is.
"""

import difflib
import hashlib
import re
from functools import cache

from bpo_utils import paths

FOLDER = paths.PACKAGE / "search" / "prompts"
SLOT = re.compile(r"\{\{([a-z_]+)\}\}")


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
        return after.strip()
    before, closed, _ = reply.partition(f"</{tag}>")
    return before.strip() if closed else ""


def plain(reply: str) -> str:
    """A whole completion that should be one instruction: quotes around it and a leading label are taken off."""
    stripped = re.sub(r"^(instruction|prompt)\s*:\s*", "", reply.strip(), flags=re.IGNORECASE).strip()
    if len(stripped) > 1 and stripped[0] == stripped[-1] and stripped[0] in "\"'`":
        stripped = stripped[1:-1].strip()
    return stripped
