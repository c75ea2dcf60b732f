"""Asking the optimizer: meta-prompts go out in one batch, what can be read becomes candidates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bpo_utils.chat import wire
from bpo_utils.records import Reply
from bpo_utils.search import prompts
from bpo_utils.search.candidates import LONGEST, Candidate
from bpo_utils.search.state import Search, add, completed

DRAWS = 1_000_000  # samples of one search seed: another seed must draw others, not find these in the store


@dataclass(frozen=True)
class Meta:
    """One question to the optimizer. `name`: its file; `earlier`: turns before it, as (role, text)."""

    name: str
    text: str
    earlier: tuple[tuple[str, str], ...] = ()

    @property
    def version(self) -> str:
        """Name and hash of the file."""
        return prompts.version(self.name)


@dataclass(frozen=True)
class Proposal:
    """What to ask, and whose children the answers are. `more`: further fields of the candidates, such as demo."""

    meta: Meta
    parents: tuple[Candidate, ...] = ()
    operator: str = ""
    more: dict[str, str] = field(default_factory=dict)


def ask(
    search: Search,
    metas: Sequence[Meta],
    read: Callable[[str], Any],
    samples: int = 1,
    temperature: float = 0.7,
    max_tokens: int = 1024,
    top_p: float = 1.0,
) -> list[list[tuple[Any, str]]]:
    """Ask each meta-prompt for `samples` replies: per meta-prompt a list of (what was read, the reply).

    `read` returns something empty for a reply that it cannot read; that one is asked for again, `search.tries` times in
    all, and then left out and counted. So a list may be shorter than `samples`; never an error, never an endless loop.
    """
    decoding = {"temperature": temperature, "max_tokens": max_tokens, "top_p": top_p}
    return _asked(search, metas, lambda reply: read(reply.text), samples, decoding)


def propose(
    search: Search,
    proposals: Sequence[Proposal],
    read: Callable[[str], str],
    samples: int = 1,
    temperature: float = 0.7,
    max_tokens: int = 1024,
    top_p: float = 1.0,
) -> list[Candidate]:
    """Ask for instructions; returns the candidates that are new, in order.

    What `read` gives counts as unreadable (see `ask`) if it is too long, or if the reply was cut off in it.
    """

    def told(reply: Reply) -> str:
        text = read(reply.text).strip()
        cut = reply.finish == "length" and reply.text.rstrip().endswith(text)
        return "" if cut or len(text) > LONGEST else text

    decoding = {"temperature": temperature, "max_tokens": max_tokens, "top_p": top_p}
    replies = _asked(search, [one.meta for one in proposals], told, samples, decoding)
    born = []
    for one, answers in zip(proposals, replies, strict=True):
        for text, reply in answers:
            more = {"meta": one.meta.version, **one.more}
            born.append(add(search, text, one.operator, one.parents, reply, **more))
    return [one for one in born if one]


def instruction(reply: str) -> str:
    """The first tagged instruction of a reply, "" if there is none."""
    return next(iter(prompts.tagged(reply, "instruction")), "")


def said(reply: str) -> str:
    """A reply in free words; "" for an apology or refusal, which must not be taken for an examination or feedback."""
    return "" if prompts.APOLOGY.match(reply) else reply.strip()


def _asked(
    search: Search,
    metas: Sequence[Meta],
    read: Callable[[Reply], Any],
    samples: int,
    decoding: dict[str, Any],
) -> list[list[tuple[Any, str]]]:
    found: list[list[tuple[Any, str]]] = [[] for _ in metas]
    wanted = [place for place in range(len(metas)) for _ in range(samples)]
    for _ in range(search.tries):
        requests = [_request(search, metas[place], decoding) for place in wanted]
        replies = completed(search, "optimizer", requests)
        again = []
        for place, reply in zip(wanted, replies, strict=True):
            if value := read(reply):
                found[place].append((value, reply.text))
            else:
                search.counts.bad_replies += 1
                again.append(place)
        wanted = again
    return found


def _request(search: Search, meta: Meta, decoding: dict[str, Any]) -> wire.Request:
    # the same text asked again is another draw; which one depends on the search alone, so a replay asks the same
    name = f"{meta.earlier}{meta.text}"
    draw = search.asked[name]
    search.asked[name] += 1
    number = search.seed * DRAWS + draw
    return wire.Request(search.roles.optimizer, meta.text, earlier=meta.earlier, seed=0, sample=number, **decoding)
