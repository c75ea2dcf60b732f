"""One instruction for all prompts against BPO's rewrite of each prompt: the paper's Appendix H in miniature.

Both change the user's prompt and leave the answer model alone; the same model answers both, greedily, as in the search,
on the search's test rows. They are held against each other by the metric that the search was led by, and by the judges,
who see the user's question and both answers in both orders, as in notebook 05.

The paper searched with OPRO only, per category of Dolly, started from the same first instruction, and found BPO above
the original prompt in nearly all categories and OPRO below it in more than half.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from bpo_utils import chat, judge, paths, records, reproduced, rewrite, seeds
from bpo_utils.chat import Calls, session, wire
from bpo_utils.profile import Profile
from bpo_utils.records import Reply, TestPrompt, Verdict
from bpo_utils.search import mini_task, statistics
from bpo_utils.search.evaluate import NO_ANSWER
from bpo_utils.search.task import Task, prompt

Result = dict[str, Any]
Row = dict[str, Any]
Asked = tuple[str, str]  # a prompt, and the start of its answer where the task gives one
Answers = dict[str, list[Reply]]  # "original", "bpo" or a method's name -> an answer to every test row


def questions(profile: Profile) -> list[TestPrompt]:
    """The search's test rows, prompts of the miniature, as the test sets have them."""
    searching = profile.searching
    return mini_task.test_prompts(searching.rows.test, searching.rows.draw)


def rewrites(profile: Profile, asked: Sequence[TestPrompt]) -> list[str]:
    """BPO's rewrite of every prompt: notebook 04's, or made by its rewriter where notebook 04 had fewer prompts."""
    known = records.read_rows(paths.stage_dir(profile.name, "04_inference") / "rewrites.jsonl", records.Rewrite)
    found = {(row.test_set, row.id): row.optimized_prompt for row in known if row.rewriter == "bpo"}
    missing = [row for row in asked if (row.test_set, row.id) not in found]
    if missing:
        made = rewrite.rewrite(missing, paths.stage_dir(profile.name, "03_training") / "model", profile.rewriting)
        found |= {(row.test_set, row.id): row.optimized_prompt for row in made}
    return [found[row.test_set, row.id] for row in asked]


def chosen(results: Sequence[Result]) -> dict[str, Result]:
    """Of every method the search with the best dev score at its largest budget; of equals the first seed."""
    groups = statistics.cells(results)
    largest = max(budget for _, budget in groups)
    return {
        method: max(group, key=lambda one: (one["dev"], -one["seed"]))
        for (method, budget), group in groups.items()
        if budget == largest
    }


def prompts(task: Task, one: Result) -> list[Asked]:
    """What the answer model gets on every test row with a search's instruction."""
    return [prompt(task, one["best"]["text"], row.input, one["best"]["demo"]) for row in task.test]


def answered(profile: Profile, task: Task, made: dict[str, Sequence[Asked]], calls: Calls) -> Answers:
    """Greedy answers of the search's target to prompts by name; what the searches have asked is taken from their
    stores, beside the one of `calls`, in which the others are kept."""
    unique = list(dict.fromkeys(one for each in made.values() for one in each))
    target, most = profile.searching.target, task.answer_tokens
    requests = [wire.Request(target, text, max_tokens=most, answer_start=start) for text, start in unique]
    found: dict[Asked, Reply] = {}
    for store in sorted(calls.store.parent.glob("calls-*.sqlite")):
        kept = session.stored(requests, Calls(store))
        found = {one: reply for one, reply in zip(unique, kept, strict=True) if reply} | found
    missing = [asked for one, asked in zip(unique, requests, strict=True) if one not in found]
    replies = chat.complete(missing, calls) if missing else []
    found |= {(asked.prompt, asked.answer_start): reply for asked, reply in zip(missing, replies, strict=True)}
    return {name: [found[one] for one in each] for name, each in made.items()}


def marks(task: Task, replies: Sequence[Reply]) -> list[float]:
    """The search's metric on every test row."""
    both = zip(task.test, replies, strict=True)
    return [0.0 if reply.outcome in NO_ANSWER else task.metric(row, reply.text).value for row, reply in both]


def by_metric(task: Task, results: Sequence[Result], answers: Answers) -> list[Row]:
    """Rows by the search's metric: {method, which, test, ci_low, ci_high, n, seeds, minus_original, minus_original_low,
    ..._high, minus_bpo, ..._low, ..._high, p, p_holm, instruction}.

    The first two rows are `original` and `bpo`. `which`: `chosen` (the best seed by dev) or `seeds` (mean over all
    seeds at the largest budget). p is that of method - BPO; corrected over the rows of one `which`.
    """
    fixed = {name: [marks(task, answers[name])] for name in ("original", "bpo")}
    found = [_by_metric({"method": name, "which": ""}, fixed[name], fixed) | {"instruction": ""} for name in fixed]
    best, groups = chosen(results), statistics.cells(results)
    compared = []
    for which in ("chosen", "seeds"):
        for method, one in best.items():
            group = [one] if which == "chosen" else groups[method, one["budget"]]
            rows = [[each["scores"][row.id] for row in task.test] for each in group]
            text = one["best"]["text"] if which == "chosen" else ""
            compared.append(_by_metric({"method": method, "which": which}, rows, fixed) | {"instruction": text})
    return found + statistics.corrected(compared, lambda row: row["which"])


def duels(profile: Profile, asked: Sequence[TestPrompt], answers: Answers, calls: Calls) -> list[Row]:
    """Rows by the judges: {first, second, judge, net_win, ci_low, ci_high, n, share_B, share_C, share_A,
    share_invalid}; B: the first named is better. BPO against every single instruction, then all against the original.
    """
    singles = [name for name in answers if name not in ("original", "bpo")]
    pairs = [("bpo", name) for name in singles] + [(name, "original") for name in ("bpo", *singles)]
    items = [match for pair in pairs for match in _matches(asked, answers, *pair)]
    found = []
    for model in profile.judges:
        ask = partial(chat.ask, model, decoding=profile.judging.decoding, calls=calls)
        verdicts = judge.judge_pairs(items, model.name, ask, profile.judging)
        for place, (first, second) in enumerate(pairs):
            part = verdicts[place * len(asked) : (place + 1) * len(asked)]
            found.append({"first": first, "second": second, "judge": model.name} | _net(part))
    return found


def cards(duels: Sequence[Row], comparable: bool = False) -> list[reproduced.Card]:
    """The cards of Appendix H, a row per judge: BPO against OPRO's instruction, and the original against it; none if
    OPRO was not among the methods."""
    found = []
    for row in duels:
        if (row["first"], row["second"]) == ("bpo", "opro"):
            claim, numbers = "h_bpo_vs_opro", (row["net_win"], row["ci_low"], row["ci_high"])
        elif (row["first"], row["second"]) == ("opro", "original"):
            claim, numbers = "h_original_vs_opro", (-row["net_win"], -row["ci_high"], -row["ci_low"])
        else:
            continue
        found.append(reproduced.card(claim, *numbers, row["n"], label=row["judge"], comparable=comparable))
    return sorted(found, key=lambda card: card.claim)


def compared(profile: Profile, task: Task, results: Sequence[Result], calls: Calls) -> tuple[list[Row], list[Row]]:
    """(rows by the metric, rows by the judges); none for another task. Raises what the calls raise."""
    if profile.searching.task != "instruction":
        return [], []
    asked = questions(profile)
    made: dict[str, Sequence[Asked]] = {"original": [(row.input, "") for row in task.test]}
    made["bpo"] = [(text, "") for text in rewrites(profile, asked)]
    made |= {name: prompts(task, one) for name, one in chosen(results).items()}
    answers = answered(profile, task, made, calls)
    return by_metric(task, results, answers), duels(profile, asked, answers, calls)


def _by_metric(names: Row, rows: statistics.Table, fixed: dict[str, statistics.Table]) -> Row:
    mean = seeds.over(rows)
    told = names | {"test": mean.mean, "ci_low": max(0.0, mean.low), "ci_high": min(1.0, mean.high)}
    told |= {"n": mean.n, "seeds": mean.seeds}
    for other, table in fixed.items():
        apart = statistics.difference(rows, table)
        told |= {f"minus_{other}": apart.mean, f"minus_{other}_low": apart.low, f"minus_{other}_high": apart.high}
    return told | {"p": apart.p}


def _matches(asked: Sequence[TestPrompt], answers: Answers, first: str, second: str) -> list[judge.Match]:
    found = []
    for row, one, other in zip(asked, answers[first], answers[second], strict=True):
        ready = not {one.outcome, other.outcome} & set(judge.NO_ANSWER)
        question = records.joined(row.prompt, row.context)
        found.append(judge.Match(row.id, row.test_set, first, second, question, other.text, one.text, answered=ready))
    return found


def _net(verdicts: Sequence[Verdict]) -> Row:
    letters = [verdict.verdict for verdict in verdicts]
    found, counts = seeds.net_win([letters]), Counter(letters)
    shares = {f"share_{letter}": counts[letter] / len(letters) for letter in "BCA"}
    shares["share_invalid"] = (counts["invalid"] + counts["refused"]) / len(letters)
    return {"net_win": found.mean, "ci_low": found.low, "ci_high": found.high, "n": found.n} | shares
