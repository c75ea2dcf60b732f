"""The steps of ProTeGi: reasons, edits, paraphrases, the cap, and the choice of the beam. Each asks in one batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from bpo_utils.search import evidence, prompts, race, select
from bpo_utils.search.candidates import Candidate, normal
from bpo_utils.search.evaluate import best, evaluate, scored
from bpo_utils.search.propose import Meta, ask
from bpo_utils.search.state import Search, add
from bpo_utils.search.task import Row

if TYPE_CHECKING:
    from bpo_utils.search.methods.protegi import Settings


class Wrong(NamedTuple):
    """A group of rows that a parent gets wrong, and a reason why it does (a "gradient"), once there is one; `latest`
    is what is edited, if that is no longer the parent itself."""

    parent: Candidate
    rows: list[Row]
    reason: str = ""
    latest: Candidate | None = None


class Child(NamedTuple):
    """A candidate, and the parent among whose children it counts; an edit's paraphrase belongs to the edit's parent."""

    parent: Candidate
    candidate: Candidate


def gradients(search: Search, groups: Sequence[Wrong], settings: Settings) -> list[Wrong]:
    """Each group as often as reasons were given for it."""
    metas = [_meta(search, "protegi_gradient", one, settings.gradients_per_error) for one in groups]
    count = settings.gradients_per_error
    answers = ask(search, metas, lambda reply: prompts.tagged(reply, "reason")[:count], 1, settings.temperature)
    return [
        one._replace(reason=reason)
        for one, got in zip(groups, answers, strict=True)
        for reasons, _ in got
        for reason in reasons
    ]


def edits(search: Search, reasons: Sequence[Wrong], settings: Settings) -> list[Child]:
    """The parents' instructions, mended by each reason."""
    count = settings.steps_per_gradient
    metas = [_meta(search, "protegi_edit", one, count, reason=one.reason) for one in reasons]
    answers = ask(search, metas, lambda reply: prompts.tagged(reply, "instruction")[:count], 1, settings.temperature)
    return [
        Child(one.parent, born)
        for one, meta, got in zip(reasons, metas, answers, strict=True)
        for texts, reply in got
        for text in texts
        if (born := candidate(search, text, "edit", one.latest or one.parent, reply, meta))
    ]


def edits_in_turn(search: Search, reasons: Sequence[Wrong], settings: Settings) -> list[Child]:
    """As many edits, but each reason mends what the reason before it made: their order matters (curriculum)."""
    lines: dict[str, list[Wrong]] = defaultdict(list)
    for one in reasons:
        lines[one.parent.id].append(one)
    latest, born = {one.parent.id: one.parent for one in reasons}, []
    for turn in range(max(map(len, lines.values()), default=0)):
        now = [line[turn]._replace(latest=latest[id]) for id, line in lines.items() if turn < len(line)]
        new = edits(search, now, settings)
        latest |= {one.parent.id: one.candidate for one in new}
        born += new
    return born


def paraphrases(search: Search, origins: Sequence[Child], settings: Settings) -> list[Child]:
    """Variations of candidates in other words."""
    metas = [
        Meta("protegi_paraphrase", prompts.filled("protegi_paraphrase", instruction=one.candidate.text))
        for one in origins
    ]
    count = settings.mc_samples_per_step
    answers = ask(search, metas, lambda reply: prompts.tagged(reply, "instruction")[:1], count, settings.temperature)
    return [
        Child(one.parent, born)
        for one, meta, got in zip(origins, metas, answers, strict=True)
        for (text,), reply in got
        if (born := candidate(search, text, "paraphrase", one.candidate, reply, meta))
    ]


def candidate(search: Search, text: str, operator: str, parent: Candidate, reply: str, meta: Meta) -> Candidate | None:
    """A new candidate, or the one that says the same already: what the cap dropped unseen may come again."""
    return add(search, text, operator, [parent], reply, meta=meta.version) or search.known.get(f"{normal(text)}\n")


def capped(search: Search, born: Sequence[Child], wrong: dict[str, list[Row]], settings: Settings) -> list[Candidate]:
    """At most `max_expansion_factor` children of each parent: drawn at random, or (`reject_on_errors`) the best of
    twice as many on as many of the parent's errors. `wrong`: by the parent's id."""
    families: dict[str, list[Candidate]] = defaultdict(list)
    for one in born:
        families[one.parent.id].append(one.candidate)
    kept, most = [], settings.max_expansion_factor
    for parent, family in families.items():
        family = unique(family)
        rows = wrong[parent]
        if len(family) > most and settings.reject_on_errors and rows:
            family = search.rng.sample(family, min(len(family), 2 * most))
            family = best(search, family, search.rng.sample(rows, min(len(rows), settings.minibatch, 2 * most)), most)
        kept += family if len(family) <= most else search.rng.sample(family, most)
    return kept


def chosen(search: Search, pool: Sequence[Candidate], settings: Settings) -> list[Candidate]:
    """The beam, best estimate first, estimated on train rows; a single candidate is not scored."""
    if len(pool) == 1:
        return list(pool)
    named, seed = {one.id: one for one in pool}, f"{search.seed} {search.step}"

    def pull(ids: Sequence[str], rows: Sequence[Row]) -> list[list[float]]:
        evaluate(search, [named[id] for id in ids], rows)
        return [[one.value for one in scored(search, named[id], rows)] for id in ids]

    selector = select.SELECTORS[settings.selector]
    found = selector(list(named), search.task.train, pull, rules(settings), seed)
    return [named[id] for id in race.top(list(named), found, settings.beam, seed)]


def rules(settings: Settings) -> race.Rules:
    """What a selection may take."""
    size, some = settings.samples_per_eval, settings.eval_prompts_per_round
    return race.Rules(size * settings.eval_rounds * some, settings.beam, size, some, settings.c, settings.released)


def unique(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Each candidate once, in the order of its first place."""
    return list(dict.fromkeys(candidates))


def _meta(search: Search, name: str, wrong: Wrong, count: int, **more: str) -> Meta:
    shown = evidence.examples(search, wrong.rows, wrong.parent)
    told = {
        "about": search.task.about,
        "instruction": (wrong.latest or wrong.parent).text,
        "examples": shown,
        "count": str(count),
    }
    return Meta(name, prompts.filled(name, **told, **more))
