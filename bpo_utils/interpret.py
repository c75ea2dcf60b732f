"""What the rewriter adds, and where that helps or hurts: net wins by strategy, category, harm and growth.

A rewrite is sorted into groups by the rules of `rewrite_rules` and `drift`; a bar is one group, answer model and judge.
The rules read the two prompts and nothing else, and for safety and inconsistency they agree poorly with labels
(`strategies.agreement`, printed with every table here). In the miniature the world itself knows what a prompt asked for
and what its author needs, so there the rules can be checked: `rules_and_truth`. Groups overlap, and what is compared
is found, not assigned: another difference between the prompts may be the reason. Paper: section 5 and appendix I, which
publish no shares and no results by group.
"""

import bisect
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from bpo_utils import additions, stats, strategies
from bpo_utils.additions import NONE, NOT_READ
from bpo_utils.records import LETTERS, TEST_SETS, Pair, Rewrite, TestPrompt, Verdict
from bpo_utils.rewrite_reading import HARMS, NO_CATEGORY, NO_HARM, TRUTH_GROUPS, Question, Read, read
from bpo_utils.rewrite_rules import STRATEGIES

SMALL = 10  # questions; with fewer a group is shown grey and its shares are left out, only counts stay
OTHER = "(other)"  # categories too small to stand alone
PASSAGE = ("with_passage", "without_passage")
# what the miniature's world says of a rewrite, and the rule that is meant to find it
TRUTHS = {
    "safety": "made_safe",
    "over_specified": "not_needed",
    "inconsistent": "asks_other",
    "context_dropped": "passage_dropped",
    "topic_lost": "topic_lost",
}


def members(reads: Sequence[Read]) -> dict[str, dict[str, list[Question]]]:
    """The questions behind every group: panel -> group -> questions, groups in the order drawn, none of them empty.

    Panels: strategy, category (pooled over the sets), set_category (group "set/category"), harm, growth (quartiles
    "1" to "4" of words after / before), passage where some prompts have one, and truth where the miniature's is known.
    Categories with fewer than SMALL
    questions are one group, OTHER, unless there is only one of them.
    """
    cuts = statistics.quantiles([row.growth for row in reads], n=4) if len(reads) > 1 else []
    pooled, within = _pooled(row.category for row in reads), {}
    for name in dict.fromkeys(row.key[0] for row in reads):
        within[name] = _pooled(row.category for row in reads if row.key[0] == name)
    panels: dict[str, tuple[Iterable[str], Callable[[Read], Iterable[str]]]] = {
        "strategy": ((*STRATEGIES, NONE, NOT_READ), lambda row: row.strategies),
        "category": (_by_size(pooled.values()), lambda row: [pooled[row.category]]),
        "set_category": (
            [f"{name}/{group}" for name in _sets(within) for group in _by_size(within[name].values())],
            lambda row: [f"{row.key[0]}/{within[row.key[0]][row.category]}"],
        ),
        "harm": ((*HARMS, NO_HARM, NOT_READ), lambda row: row.harms),
        "growth": ("1234", lambda row: str(1 + bisect.bisect_left(cuts, row.growth))),
        "passage": (PASSAGE, lambda row: [row.passage]),
        "truth": (TRUTH_GROUPS, lambda row: row.truth),
    }
    found = {}
    for panel, (order, groups_of) in panels.items():
        groups: dict[str, list[Question]] = {group: [] for group in order}
        for row in reads:
            for group in groups_of(row):
                groups[group].append(row.key)
        found[panel] = {group: keys for group, keys in groups.items() if keys}
    return {panel: groups for panel, groups in found.items() if len(groups) > (panel == "passage")}


def panels(reads: Sequence[Read], verdicts: Iterable[Verdict]) -> list[dict]:
    """Net wins by group: [{panel, groups: [{group, n, small, holds, growth, bars: [...]}]}].

    `n` of a group are its questions, `small` says that they are fewer than SMALL, `holds` names what OTHER holds,
    `growth` is the range of the group's growth. A bar is {answer_model, judge, n, counts, net_win, ci_low, ci_high},
    fractions, with the question-level t interval of `stats.net_win` (exact where all questions came out alike). A
    question without a verdict of that judge is not in the bar's n. Raises ValueError if no verdict is on bpo.
    """
    letters = _letters(verdicts)
    by_key = {row.key: row for row in reads}
    found = []
    for panel, groups in members(reads).items():
        rows = []
        for group, keys in groups.items():
            inside = [by_key[key] for key in keys]
            growth = [row.growth for row in inside]
            row = {"group": group, "n": len(keys), "small": len(keys) < SMALL, "growth": [min(growth), max(growth)]}
            row["holds"] = dict(Counter(one.category for one in inside)) if group.endswith(OTHER) else {}
            bars = [_bar(names, [said[key] for key in keys if key in said]) for names, said in letters.items()]
            rows.append(row | {"bars": [bar for bar in bars if bar["n"]]})
        found.append({"panel": panel, "groups": rows})
    return found


def hurts(reads: Sequence[Read], verdicts: Iterable[Verdict]) -> list[dict]:
    """Where it hurts: the share of verdicts A among rewrites with a harm, and among those without.

    A row for each answer model, judge, harm and kind ("rule"; "prompt": it comes with a passage; "world", in the
    miniature): {answer_model, judge, kind, harm, n, a, share, n_without, a_without, share_without, difference, low,
    high}; the difference of the shares has Newcombe's 95 % interval for two independent groups. With fewer than SMALL
    questions on a side the shares and the interval are None and the counts speak. A dropped passage is compared with
    passages that were kept.
    """
    rows = []
    for (answer_model, judge), said in _letters(verdicts).items():
        for kind, harm, with_it, without in _sides(reads):
            sides = [[said[key] for key in keys if key in said] for keys in (with_it, without)]
            (n, a), (n_without, a_without) = ((len(side), side.count("A")) for side in sides)
            row = {"answer_model": answer_model, "judge": judge, "kind": kind, "harm": harm, "n": n, "a": a}
            row |= {"share": a / n if n >= SMALL else None, "n_without": n_without, "a_without": a_without}
            row |= {"share_without": a_without / n_without if n_without >= SMALL else None}
            rows.append(row | _difference(a, n, a_without, n_without))
    return rows


def harm_table(rows: Iterable[dict], judge: str) -> list[dict]:
    """The rows of `hurts` of one judge, short: {harm, found by, and for each answer model a text}.

    The text has the verdicts A of all with the harm, of all without it, and where both sides have at least SMALL
    questions the difference of the shares in points with its interval.
    """
    found: dict[tuple[str, str], dict] = {}
    for row in rows:
        if row["judge"] == judge and (row["n"] or row["n_without"]):
            line = found.setdefault((row["kind"], row["harm"]), {"harm": row["harm"], "found by": row["kind"]})
            text = f"{row['a']} of {row['n']}, else {row['a_without']} of {row['n_without']}"
            if row["difference"] is not None:
                text += ": {:+.0f} [{:+.0f}, {:+.0f}]".format(
                    *(100 * row[name] for name in ("difference", "low", "high"))
                )
            line[row["answer_model"]] = text
    return list(found.values())


def rules_and_truth(reads: Sequence[Read]) -> list[dict]:
    """The rules against the miniature's world: {rule, truth, both, rule_only, truth_only, neither, n}, counts.

    Empty where the truth is not known.
    """
    known = [row for row in reads if row.truth]
    rows = []
    for rule, truth in TRUTHS.items() if known else ():
        count = Counter((rule in row.strategies + row.harms, truth in row.truth) for row in known)
        cells = {"both": (True, True), "rule_only": (True, False), "truth_only": (False, True)}
        cells |= {"neither": (False, False)}
        rows.append(
            {"rule": rule, "truth": truth} | {name: count[cell] for name, cell in cells.items()} | {"n": len(known)}
        )
    return rows


def tables(
    prompts: Iterable[TestPrompt],
    rewrites: Iterable[Rewrite],
    verdicts: Iterable[Verdict],
    pairs: Iterable[Pair] = (),
    miniature: bool = False,
) -> dict:
    """Everything above as one JSON value: {small, panels, hurts, adds, rules_and_truth, agreement}.

    `agreement` are the counts of the rules against labels on the held-out half (real pairs): {class, both, label_only,
    rule_only, neither, n}. Raises ValueError as `read` and `panels` do.
    """
    reads, verdicts = read(prompts, rewrites, miniature), list(verdicts)
    ours = [(row.before, row.after) for row in reads]
    theirs = [(row.prompt, row.optimized_prompt) for row in pairs]
    counts = ("class", "both", "label_only", "rule_only", "neither", "n")
    return {
        "small": SMALL,
        "panels": panels(reads, verdicts),
        "hurts": hurts(reads, verdicts),
        "adds": additions.adds(ours, theirs, miniature),
        "rules_and_truth": rules_and_truth(reads),
        "agreement": [{name: row[name] for name in counts} for row in strategies.agreement()["held_out"]],
    }


def worst(reads: Sequence[Read], verdicts: Iterable[Verdict], harm: str, most: int = 3) -> list[tuple[Read, int, int]]:
    """Rewrites with a harm (a rule's or the world's name), those that lost most often first: (row, verdicts A, of)."""
    said = list(_letters(verdicts).values())
    rows = []
    for row in reads:
        if harm in row.harms + row.truth and (letters := [each[row.key] for each in said if row.key in each]):
            rows.append((row, letters.count("A"), len(letters)))
    return sorted(rows, key=lambda item: -item[1])[:most]


def _letters(verdicts: Iterable[Verdict]) -> dict[tuple[str, str], dict[Question, str]]:
    """Verdicts on bpo by answer model and judge, then by question."""
    found: dict[tuple[str, str], dict[Question, str]] = {}
    for row in verdicts:
        if row.rewriter == "bpo":
            found.setdefault((row.answer_model, row.judge), {})[row.test_set, row.id] = row.verdict
    if not found:
        raise ValueError("no verdicts on bpo to interpret; run notebook 05 first")
    return found


def _bar(names: tuple[str, str], letters: list[str]) -> dict:
    bar = {"answer_model": names[0], "judge": names[1], "n": len(letters)}
    if not letters:
        return bar
    count = Counter(letters)
    counts = {letter: count[letter] for letter in LETTERS}
    return bar | {"counts": counts} | dict(zip(("net_win", "ci_low", "ci_high"), stats.net_win(count), strict=True))


def _pooled(categories: Iterable[str]) -> dict[str, str]:
    """Category -> the group it is shown in: itself, or OTHER where several have too few questions to stand alone."""
    sizes = Counter(categories)
    few = [name for name, n in sizes.items() if n < SMALL]
    return {name: OTHER if len(few) > 1 and name in few else name for name in sizes}


def _by_size(groups: Iterable[str]) -> list[str]:
    names = dict.fromkeys(groups)
    return sorted(names, key=lambda name: (name in (OTHER, NO_CATEGORY), name.lower(), name))


def _sets(names: Iterable[str]) -> list[str]:
    order = list(TEST_SETS)
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def _sides(reads: Sequence[Read]) -> Iterable[tuple[str, str, list[Question], list[Question]]]:
    """(kind, harm, questions with it, questions without it) for every harm, by rules and by the world."""
    for harm in HARMS:
        readable = [row for row in reads if harm == "topic_lost" or NOT_READ not in row.harms + row.strategies]
        yield "rule", harm, *_split(readable, lambda row, harm=harm: harm in row.harms)
    if any(row.passage == PASSAGE[0] for row in reads):
        yield "prompt", PASSAGE[0], *_split(reads, lambda row: row.passage == PASSAGE[0])
    known = [row for row in reads if row.truth]
    for harm in ("not_needed", "passage_dropped", "asks_other", "topic_lost", "left_unsafe") if known else ():
        rival = {"passage_dropped": "passage_kept", "left_unsafe": "made_safe"}.get(harm)
        rows = [row for row in known if rival is None or harm in row.truth or rival in row.truth]
        yield "world", harm, *_split(rows, lambda row, harm=harm: harm in row.truth)


def _split(rows: Iterable[Read], has: Callable[[Read], bool]) -> tuple[list[Question], list[Question]]:
    sides: tuple[list[Question], list[Question]] = ([], [])
    for row in rows:
        sides[not has(row)].append(row.key)
    return sides


def _difference(a: int, n: int, a_without: int, n_without: int) -> dict[str, float | None]:
    from statsmodels.stats.proportion import confint_proportions_2indep

    if min(n, n_without) < SMALL:
        return {"difference": None, "low": None, "high": None}
    low, high = confint_proportions_2indep(a, n, a_without, n_without, method="newcomb", compare="diff")
    return {"difference": a / n - a_without / n_without, "low": float(low), "high": float(high)}
