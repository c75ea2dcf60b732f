"""The comparisons of Tables 5 and 6, judged and counted, and the cards that come of them.

A comparison names two systems, (model, prompt). The course's letters are kept: B the first named is better, A the
second, C tie; net win is (B - A) / n. Both sides answer with the same seed; intervals are over questions and seeds.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bpo_utils import describe, judge, records, reproduced, seeds
from bpo_utils.align import systems
from bpo_utils.profile import Judging

ORIGINAL, OPTIMIZED = "original", "optimized"


@dataclass(frozen=True)
class Comparison:
    """Two systems; `first` and `second` are (model, prompt), the names are those of the tables."""

    experiment: str
    claim: str  # of facts/claims.yaml
    first_name: str
    second_name: str
    first: tuple[str, str]
    second: tuple[str, str]

    @property
    def name(self) -> str:
        """As in the tables, such as "BPO+DPO : DPO"."""
        return f"{self.first_name} : {self.second_name}"


def rlhf() -> list[Comparison]:
    """The eight comparisons of the paper's Table 5, with the policy gradient (PG) in the place of PPO."""
    found = []
    for model, name, claim in (("policy_gradient", "PG", "ppo"), ("dpo", "DPO", "dpo")):
        trained, both = (model, ORIGINAL), (model, OPTIMIZED)
        untouched, bpo = ("original", ORIGINAL), ("original", OPTIMIZED)
        for kind, first, second, sides in (
            (f"{claim}_vs_original", name, "ori", (trained, untouched)),
            (f"bpo_vs_{claim}", "BPO", name, (bpo, trained)),
            (f"bpo_{claim}_vs_original", f"BPO+{name}", "ori", (both, untouched)),
            (f"bpo_{claim}_vs_{claim}", f"BPO+{name}", name, (both, trained)),
        ):
            found.append(Comparison("rlhf", f"t5_{kind}", first, second, *sides))
    return found


def augmentation(sizes: dict[str, int]) -> list[Comparison]:
    """The two comparisons of Table 6; `sizes` are the rows of each instruction set."""
    rest = (("ori_full", ORIGINAL), f"ori-{sizes['ori_full']}")
    return [
        Comparison("augment", f"t6_{size}", f"BPO-{sizes[f'bpo_{size}']}", rest[1], (f"bpo_{size}", ORIGINAL), rest[0])
        for size in ("small", "full")
    ]


def matches(
    comparisons: Iterable[Comparison],
    asked: list[records.Rewrite],
    questions: dict[tuple[str, str], str],
    answers: dict[str, dict[str, str]],
    seed_list: list[int],
) -> list[judge.Match]:
    """Every pair of answers to be judged. `answers`: task -> text -> answer; `questions`: (test set, id) -> question.

    Raises KeyError for an answer that is missing.
    """
    found = []
    for each in comparisons:
        for seed in seed_list:
            for row in asked:
                prompts = {ORIGINAL: row.prompt, OPTIMIZED: row.optimized_prompt}
                first, second = (answers[f"{model}-{seed}"][prompts[side]] for model, side in (each.first, each.second))
                question = questions[row.test_set, row.id]
                found.append(judge.Match(row.id, row.test_set, each.name, str(seed), question, second, first))
    return found


def judged(found: list[judge.Match], name: str, ask: judge.Ask, judging: Judging) -> list[records.Verdict]:
    """Verdicts of one judge, in both orders, as in notebook 05."""
    return judge.judge_pairs(found, name, ask, judging)


def rows(comparisons: Iterable[Comparison], verdicts: list[records.Verdict]) -> list[dict[str, Any]]:
    """A row for every comparison and judge: net win with its interval, counts over all seeds, net win of each seed."""
    found = []
    for each in comparisons:
        mine = [row for row in verdicts if row.rewriter == each.name]
        for name in dict.fromkeys(row.judge for row in mine):
            by_seed: dict[str, list[str]] = {}
            for row in (row for row in mine if row.judge == name):
                by_seed.setdefault(row.answer_model, []).append(row.verdict)
            mean = seeds.net_win(list(by_seed.values()))
            letters = [letter for letters in by_seed.values() for letter in letters]
            found.append(
                {"experiment": each.experiment, "comparison": each.name, "judge": name, "claim": each.claim}
                | {"net_win": mean.mean, "ci_low": mean.low, "ci_high": mean.high, "n": mean.n, "seeds": mean.seeds}
                | {"spread": [round(each_seed, 4) for each_seed in mean.spread]}
                | {letter: letters.count(letter) for letter in records.LETTERS}
            )
    return found


def by_topic(
    comparisons: list[Comparison],
    verdicts: list[records.Verdict],
    questions: dict[tuple[str, str], str],
    instructions: Iterable[records.TestPrompt],
) -> list[dict[str, Any]]:
    """The rows again, apart for questions on topics that the instruction set speaks of and on others (`topics`).

    A topic is what the miniature's world finds in a text; nothing comes of a group with fewer than two questions.
    """
    from bpo_utils.mini import world

    known = {world.read(records.joined(row.prompt, row.context)).topic for row in instructions}
    found = []
    for name, inside in (("in the set", True), ("not in the set", False)):
        ids = {key for key, text in questions.items() if (world.read(text).topic in known) == inside}
        mine = [row for row in verdicts if (row.test_set, row.id) in ids]
        if len({(row.test_set, row.id) for row in mine}) > 1:
            for row in rows(comparisons, mine):
                found.append({"experiment": row["experiment"], "comparison": row["comparison"], "topics": name} | row)
    return found


def named(rows_found: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of rows as {claim: {judge: numbers}}, or {claim: {topics: {judge: numbers}}}.

    For the report: these names do not depend on the sizes of a profile's instruction sets.
    """
    found: dict[str, Any] = {}
    for row in rows_found:
        place = found.setdefault(row["claim"], {})
        if "topics" in row:
            place = place.setdefault(row["topics"], {})
        place[row["judge"]] = {name: value for name, value in row.items() if isinstance(value, int | float)}
    return found


def cards(rows_found: list[dict[str, Any]], models: dict[str, str], comparable: bool = False) -> list[reproduced.Card]:
    """A card for every row; `models` names the trained model of each experiment.

    Intervals are cut at -1 and 1, which is as far as a net win goes.
    """
    return [
        reproduced.card(
            row["claim"],
            row["net_win"],
            max(-1.0, row["ci_low"]),
            min(1.0, row["ci_high"]),
            row["n"],
            row["seeds"],
            f"{row['comparison']}, {models[row['experiment']]}, {row['judge']}",
            comparable,
        )
        for row in rows_found
    ]


def lengths(answers: dict[str, dict[str, str]], asked: list[records.Rewrite]) -> list[dict[str, Any]]:
    """Words of the answers of every model to original and optimized prompts, over all seeds."""
    found = []
    for model in (*systems.RLHF, *systems.INSTRUCTED):
        mine = [texts for key, texts in answers.items() if key.rpartition("-")[0] == model]
        for side, prompts in ((ORIGINAL, [row.prompt for row in asked]), (OPTIMIZED, _optimized(asked))):
            counts = [describe.words(texts[prompt]) for texts in mine for prompt in prompts if prompt in texts]
            if counts and (side == ORIGINAL or model in systems.RLHF):
                mean, n = sum(counts) / len(counts), len(counts)
                found.append({"model": systems.RLHF.get(model, model), "prompts": side, "words": mean, "answers": n})
    return found


def _optimized(asked: list[records.Rewrite]) -> list[str]:
    return [row.optimized_prompt for row in asked]
