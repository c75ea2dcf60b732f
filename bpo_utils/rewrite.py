"""Prompts through a rewriter: the trained model, and the controls that tell whether the instrument can be trusted.

What is done follows the paper (appendix C: top-p 0.9, temperature 0.6; section 4.5: up to five rounds) and, for
`aggressive`, upstream's infer_example.py: several samples, at least five tokens longer than the prompt, leaked tags cut
off. It forces that length, at temperature 0.9, and ends at a line break; here the samples decide, at the profile's
temperature: a model that may not stop rambles, and a prompt may have lines.
"""

import dataclasses
import functools
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from bpo_utils import chat, records, rewriters, rewrites_file, segment
from bpo_utils.profile import Rewriting
from bpo_utils.records import Reply
from bpo_utils.rewriters import Rewriter

# Placeholders of the teacher's prompt. Upstream cuts at "[KE", "[INS" and "[PRO", which "[INSERT NAME]" has too.
LEAKED = re.compile(r"\[(PROTECT|KEEP|INSTRUCTION)")
MISSING = ("too_long", "refused")  # no text came of these prompts, so nothing stands for them in later stages
MARKS = ("empty_prompt", "empty", "unchanged", "cut", "leaked", "not_grown")


@dataclass(frozen=True)
class Rewritten:
    """What became of one text. `outcome`: words of MARKS, or one of MISSING; nothing if all went as it should.

    `steps`: iterative, the text after each round that was made, the last one too if it changed nothing; aggressive, the
    samples that were drawn. unchanged: the prompt was good already; cut: at max_new_tokens or at the context's end;
    leaked: with a tag of the teacher's prompt (cut off in mode aggressive); not_grown: no sample was long enough.
    """

    prompt: str
    optimized_prompt: str
    outcome: str = ""
    steps: tuple[str, ...] = ()


def rewrite(
    prompts: list[records.TestPrompt],
    model_folder: Path,
    settings: Rewriting,
    on_gpu: bool = False,
    cache: Path | None = None,
    calls: chat.Calls | None = None,
    tell: Callable[[str], None] = print,
) -> list[records.Rewrite]:
    """Every prompt through the profile's rewriter, instruction and context as one text, as upstream feeds it.

    `model_folder` is what notebook 03 trained, used if the profile names no model. A prompt that does not fit into the
    model's context is left out, never cut; `tell` names it, and so does `refused`. An empty prompt or output stays, and
    is counted. `cache`: a file to which every finished block is appended and from which a later call goes on (see
    `rewrites_file`). `on_gpu`: in bfloat16 on a GPU where there is one; the miniature stays on the CPU, so that its
    numbers are the same on every machine. `calls`: for a served model. Raises what `rewriters.load` raises, and
    ValueError if another process works on the cache.
    """
    rewriters.refuse_published(settings)
    texts = list(dict.fromkeys(text_of(prompt) for prompt in prompts))
    load = functools.cache(lambda: rewriters.load(settings, model_folder, on_gpu, calls))
    if cache is None:
        found = {row.prompt: row for row in through(load(), texts, settings)}
    else:
        found = _kept(load, texts, settings, model_folder, cache, tell)
    rows = rows_of(prompts, found)
    if missing := refused(prompts, rows):
        tell(
            f"{len(missing)} of {len(prompts)} prompts have no rewrite, since they do not fit into the model's context "
            f"or a server refused them; nothing was cut: {', '.join(missing)}"
        )
    return rows


def through(rewriter: Rewriter, texts: list[str], settings: Rewriting) -> list[Rewritten]:
    """What a rewriter makes of every text, in order; equal texts become one. Empty ones are not sent to it.

    Raises what the rewriter raises.
    """
    asked = [text for text in dict.fromkeys(texts) if text.strip()]
    how = {"aggressive": _drawn, "iterative": _iterated}.get(settings.mode, _plain)
    found = {row.prompt: row for row in how(rewriter, asked, settings)} if asked else {}
    return [found.get(text) or Rewritten(text, "", "empty_prompt") for text in texts]


def text_of(prompt: records.TestPrompt) -> str:
    """The text that a rewriter gets."""
    return records.joined(prompt.prompt, prompt.context)


def rows_of(prompts: Iterable[records.TestPrompt], found: dict[str, Rewritten]) -> list[records.Rewrite]:
    """One row per prompt that has a rewrite, from what became of its text."""
    made = ((prompt, found[text_of(prompt)]) for prompt in prompts)
    return [_row(p, "bpo", row.optimized_prompt, row.outcome) for p, row in made if row.outcome not in MISSING]


def refused(prompts: list[records.TestPrompt], rewrites: list[records.Rewrite]) -> list[str]:
    """Ids of the prompts without a rewrite by the model."""
    there = {(row.test_set, row.id) for row in rewrites if row.rewriter == "bpo"}
    return [prompt.id for prompt in prompts if (prompt.test_set, prompt.id) not in there]


def counts(prompts: list[records.TestPrompt], rewrites: list[records.Rewrite]) -> dict[str, int]:
    """How many prompts came out in which way (see Rewritten), how many were refused, and how many are not English.

    A prompt counts as not English if py3langid is sure of it; such prompts are rewritten like any other.
    """
    from bpo_utils import language

    outcomes = [row.outcome.split() for row in rewrites if row.rewriter == "bpo"]
    found = {"prompts": len(prompts), "rewrites": len(outcomes), "refused": len(refused(prompts, rewrites))}
    found |= {mark: sum(mark in words for words in outcomes) for mark in MARKS}
    return found | {"not_english": sum(bool(language.surely_other(text_of(prompt), ["en"])) for prompt in prompts)}


def _kept(
    load: Callable[[], Rewriter],
    texts: list[str],
    settings: Rewriting,
    folder: Path,
    cache: Path,
    tell: Callable[[str], None],
) -> dict[str, Rewritten]:
    """What the cache has and what it lacked, block by block; no model is loaded if it lacks nothing."""
    facts, size = rewriters.facts(settings, folder), rewriters.block(settings)
    with rewrites_file.opened(cache, facts, tell) as file:
        found = {text: Rewritten(**file.known[text]) for text in texts if text in file.known}
        missing = by_length(text for text in texts if text not in found)
        for start in range(0, len(missing), size):
            rows = through(load(), missing[start : start + size], settings)
            file.append(rows)
            found |= {row.prompt: row for row in rows}
    return found


def by_length(texts: Iterable[str]) -> list[str]:
    """Different texts, shortest first, so that those of one block are about as long."""
    return sorted(set(texts), key=lambda text: (len(text), text))


def _plain(rewriter: Rewriter, texts: list[str], settings: Rewriting) -> list[Rewritten]:
    replies = rewriter.ask(texts, 0)
    return [_made(text, reply) for text, reply in zip(texts, replies, strict=True)]


def _made(text: str, reply: Reply, raw: str = "", steps: tuple[str, ...] = (), not_grown: bool = False) -> Rewritten:
    """`raw`: the reply's text before tags were cut off, where they were."""
    if reply.outcome in MISSING:
        return Rewritten(text, "", reply.outcome, steps)
    marks = {"empty": not reply.text, "unchanged": reply.text == text.strip(), "cut": reply.finish == "length"}
    marks |= {"leaked": _leak(raw or reply.text, text) is not None, "not_grown": not_grown}
    return Rewritten(text, reply.text, " ".join(mark for mark in MARKS if marks.get(mark)), steps)


def _leak(made: str, prompt: str) -> int | None:
    """Where the first leaked tag of a text begins; tags that the prompt has itself are its own."""
    return next((tag.start() for tag in LEAKED.finditer(made) if tag[0] not in prompt), None)


def _drawn(rewriter: Rewriter, texts: list[str], settings: Rewriting) -> list[Rewritten]:
    """The first sample that is whole and grew enough, else the longest. Only texts without one are drawn again."""
    drawn: dict[str, list[Reply]] = {text: [] for text in texts}
    chosen: dict[str, Rewritten] = {}
    for sample in range(settings.samples):
        going = [text for text in texts if text not in chosen]
        for text, reply in zip(going, rewriter.ask(going, sample) if going else [], strict=True):
            drawn[text].append(reply)
            made = _chosen(rewriter, text, drawn[text], settings, last=sample + 1 == settings.samples)
            chosen |= {text: made} if made else {}
    return [chosen[text] for text in texts]


def _chosen(rewriter: Rewriter, text: str, replies: list[Reply], settings: Rewriting, last: bool) -> Rewritten | None:
    """What becomes of a text after these samples; None if another one shall be drawn."""
    newest = replies[-1]
    if replies[0].outcome in MISSING:
        return _made(text, replies[0])
    stripped = [dataclasses.replace(reply, text=reply.text[: _leak(reply.text, text)].strip()) for reply in replies]
    steps, least = tuple(reply.text for reply in replies), rewriter.length(text) + settings.min_growth_tokens
    if newest.finish != "length" and rewriter.length(stripped[-1].text) >= least:
        return _made(text, stripped[-1], newest.text, steps)
    if not last:
        return None
    longest = max(range(len(replies)), key=lambda n: rewriter.length(stripped[n].text))
    short = rewriter.length(stripped[longest].text) < least
    return _made(text, stripped[longest], replies[longest].text, steps, not_grown=short)


def _iterated(rewriter: Rewriter, texts: list[str], settings: Rewriting) -> list[Rewritten]:
    """Each text rewritten again and again: until nothing changes, it is cut off, or nothing comes of it."""
    steps: dict[str, list[str]] = {text: [] for text in texts}
    last: dict[str, Reply] = {}
    going = texts
    for _ in range(settings.rounds):
        before = [steps[text][-1] if steps[text] else text for text in going]
        replies = rewriter.ask(before, 0) if going else []
        changed = []
        for text, old, reply in zip(going, before, replies, strict=True):
            if reply.text or text not in last:
                last[text] = reply
            if reply.text:
                steps[text].append(reply.text)
            if reply.text and reply.text != old.strip() and reply.finish != "length":
                changed.append(text)
        going = changed
    return [_made(text, last[text], steps=tuple(steps[text])) for text in texts]


def identity(prompts: list[records.TestPrompt]) -> list[records.Rewrite]:
    """Control: nothing changes, so every verdict must be a tie."""
    return [_row(prompt, "identity", text_of(prompt)) for prompt in prompts]


def drop_words(prompts: list[records.TestPrompt]) -> list[records.Rewrite]:
    """Control: half of the words are lost (which ones depends on the id only), so the original must win."""
    rows = []
    for prompt in prompts:
        text = text_of(prompt)
        words = segment.words(text)
        kept = sorted(random.Random(prompt.id).sample(range(len(words)), len(words) // 2))
        between = "" if segment.has_han(text) else " "
        rows.append(_row(prompt, "drop_words", between.join(words[index] for index in kept)))
    return rows


def controls(names: list[str], prompts: list[records.TestPrompt]) -> list[records.Rewrite]:
    """The rewrites of the named controls: identity, drop_words, and the miniature's reference rewrite (upper bound).

    Raises ValueError for a control that does not exist.
    """
    rows: list[records.Rewrite] = []
    for name in names:
        if name == "identity":
            rows += identity(prompts)
        elif name == "drop_words":
            rows += drop_words(prompts)
        elif name == "reference":
            from bpo_utils.mini import reference

            rows += [_row(prompt, name, reference.rewrite(prompt)) for prompt in prompts]
        else:
            raise ValueError(f"no control {name!r}; there are identity, drop_words and reference")
    return rows


def _row(prompt: records.TestPrompt, rewriter: str, text: str, outcome: str = "") -> records.Rewrite:
    return records.Rewrite(prompt.id, prompt.test_set, rewriter, text_of(prompt), text, outcome)
