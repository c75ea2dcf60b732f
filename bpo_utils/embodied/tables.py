"""What notebook 10 shows on the way: its sets, wordings and rewrites as rows, one rollout, and the words that count."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from bpo_utils import paths, records
from bpo_utils.embodied import policy, study, world
from bpo_utils.embodied.study import Seed, Told
from bpo_utils.embodied.wordings import CONDITIONS, canonical
from bpo_utils.profile import Profile

Row = dict[str, Any]
PARAPHRASE = "synonyms_known"  # of the strip and the saliency


def sets(episodes: dict[str, list[world.Episode]]) -> list[Row]:
    """Episodes and steps of each set, and how often the expert takes each action."""
    rows = []
    for name, each in episodes.items():
        actions = [int(action) for one in each for action in one.actions]
        share = {action: actions.count(n) / len(actions) for n, action in enumerate(world.ACTIONS)}
        rows.append({"set": name, "episodes": len(each), "steps": len(actions)} | share)
    return rows


def conditions(seed: int, test: Sequence[world.Episode]) -> list[Row]:
    """One test episode under all conditions: the first that is about two things."""
    number = _two_things(test)
    return [{"condition": name, "what is said": study.said(seed, name, test)[number]} for name in CONDITIONS]


def read_back(made: Seed, pool: dict[str, list[str]]) -> Row:
    """How many different paraphrases an augmenter gave, and how many the known half reads as the right task."""
    known = {text: canonical(task) for text, task in made.bank.meanings().items()}
    pairs = [(sentence, text) for sentence, texts in pool.items() for text in texts]
    right = sum(known.get(text) == sentence for sentence, text in pairs)
    return {"seed": made.seed, "said": len(pairs), "right": right}


def canonicalised(told: dict[int, Told], test: Sequence[world.Episode]) -> list[Row]:
    """Share of instructions that each translator turned into exactly the canonical sentence, mean over seeds."""
    right = [canonical(each.task) for each in test]
    by = dict.fromkeys(name for one in told.values() for _, name in one if name not in ("as_said", "perfect"))
    rows = []
    for condition in CONDITIONS:
        shares = {
            name: sum(a == b for one in told.values() for a, b in zip(one[condition, name], right, strict=True))
            / (len(told) * len(right))
            for name in by
        }
        rows.append({"condition": condition} | shares)
    return rows


def wide(rows: Iterable[Row], remedies: Iterable[str]) -> list[Row]:
    """A row per condition, a column per remedy: the three metrics in percent, without their intervals."""
    found: dict[str, Row] = {name: {"condition": name} for name in CONDITIONS}
    for row in rows:
        if row["remedy"] in remedies:
            cell = found[row["condition"]].get(row["remedy"], "")
            found[row["condition"]][row["remedy"]] = f"{cell} / {100 * row['mean']:.1f}".removeprefix(" / ")
    return list(found.values())


def against_report(rows: Sequence[Row]) -> list[Row]:
    """The course report's two numbers beside what was measured here, in percent, with the blind policy's floor.

    `apart`: points of action accuracy from the report's number, with the fixed sentence or with paraphrases.
    """
    published = yaml.safe_load(records.read_text(paths.REPORT / "paper" / "course.yaml"))["numbers"]
    shown = [("canonical", "none"), ("synonyms_known", "none"), ("both_unseen", "none"), ("canonical", "blind")]
    found = [
        {"what": "course report, fixed sentence", "action_accuracy": 100 * published["accuracy_canonical"]["value"]}
    ]
    found += [
        {"what": "course report, paraphrases", "action_accuracy": 100 * published["accuracy_paraphrase"]["value"]}
    ]
    for condition, remedy in shown:
        mine = [row for row in rows if (row["condition"], row["remedy"]) == (condition, remedy)]
        what = "here, hears nothing" if remedy == "blind" else f"here, {condition}"
        found.append({"what": what} | {row["metric"]: 100 * row["mean"] for row in mine})
        theirs = found[0 if (condition, remedy) == ("canonical", "none") else 1]["action_accuracy"]
        found[-1]["apart"] = found[-1]["action_accuracy"] - theirs
    return found


def strip(run: Profile, jobs: Sequence[Path], told: dict[int, Told], test: Sequence[world.Episode]) -> Row:
    """One rollout of the first seed's fixed policy under the canonical sentence and under a paraphrase.

    Of the test episodes about two things it is the first that the policy solves when told the canonical sentence.
    """
    seed = run.embodying.seeds[0]
    fixed = policy.load(_job(jobs, "fixed", seed), run.embodying.policy)
    solved = study.outcomes(_job(jobs, "fixed", seed))
    said = {condition: told[seed][condition, "as_said"] for condition in ("canonical", PARAPHRASE)}
    two = [n for n, each in enumerate(test) if each.task.b is not None]
    number = next((n for n in two if solved[n, said["canonical"][n]].success), two[0])
    taken = world.rollouts(fixed.act, [(test[number].seed, texts[number]) for texts in said.values()])
    rows = [
        {"condition": condition, "text": texts[number], "actions": actions, "success": actions[-1] >= 0}
        for (condition, texts), actions in zip(said.items(), taken, strict=True)
    ]
    return {"seed": test[number].seed, "policy": "fixed", "rows": rows}


def salient(run: Profile, jobs: Sequence[Path], told: dict[int, Told], test: Sequence[world.Episode]) -> list[Row]:
    """The weight of each word for the fixed and the augmented policy of the first seed, canonical and paraphrased.

    The sentences are those of the first test episode about two things; mean over all test episodes of its task.
    """
    seed, number, rows = run.embodying.seeds[0], _two_things(test), []
    same = [each for each in test if each.task == test[number].task]
    for remedy in ("none", "augmentation"):
        chosen = policy.load(_job(jobs, study.REMEDIES[remedy][0], seed), run.embodying.policy)
        for condition in ("canonical", PARAPHRASE):
            text = told[seed][condition, "as_said"][number]
            found = [policy.saliency(chosen, each, text) for each in same]
            words = [[each[0][0], sum(weight for _, weight in each) / len(same)] for each in zip(*found, strict=True)]
            rows.append({"condition": condition, "text": text, "remedy": remedy, "words": words})
    return rows


def trainings(rewriters: Iterable[Row], policies: Iterable[Row]) -> list[Row]:
    """Seconds of every training, policies and rewriters alike."""
    rows = [{"kind": row["policy"], "seed": row["seed"], "seconds": row["seconds"]} for row in policies]
    return rows + [{"kind": row["trial"], "seed": row["seed"], "seconds": row["seconds"]} for row in rewriters]


def _two_things(test: Sequence[world.Episode]) -> int:
    return next(n for n, each in enumerate(test) if each.task.b is not None)


def _job(jobs: Sequence[Path], kind: str, seed: int) -> Path:
    return next(job for job in jobs if job.name == f"{kind}-s{seed}")
