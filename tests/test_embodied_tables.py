"""What notebook 10 shows on the way."""

import dataclasses

import numpy as np
import pytest

from bpo_utils.embodied import study, tables, wordings, world
from bpo_utils.embodied.wordings import CONDITIONS, TASKS, canonical

TEST = [world.Episode(3_000_000 + n, None, None) for n in range(20)]
BANK = wordings.bank(1)
SEED = study.Seed(1, BANK, None, {}, None)


def test_sets_tell_how_often_each_action_is_taken():
    episodes = [world.Episode(n, None, np.array(actions)) for n, actions in enumerate(([0, 2, 2], [4]))]
    row = tables.sets({"train": episodes})[0]
    assert (row["set"], row["episodes"], row["steps"]) == ("train", 2, 4)
    assert (row["left"], row["forward"], row["drop"], row["done"]) == (0.25, 0.5, 0.25, 0)


def test_one_episode_is_shown_under_every_condition():
    rows = tables.conditions(1, TEST)
    first = next(each for each in TEST if each.task.b is not None)
    assert [row["condition"] for row in rows] == list(CONDITIONS)
    assert rows[0]["what is said"] == canonical(first.task) and len({row["what is said"] for row in rows}) == 8


def test_a_paraphrase_is_right_if_the_known_half_reads_it_as_its_task():
    known = next(text for text, task in BANK.meanings().items() if task == TASKS[0] and text != canonical(task))
    pool = {canonical(TASKS[0]): [known, "go somewhere"], canonical(TASKS[1]): [known]}
    assert tables.read_back(SEED, pool) == {"seed": 1, "said": 3, "right": 1}


def test_a_translator_is_counted_where_it_finds_the_canonical_sentence():
    right = [canonical(each.task) for each in TEST]
    told = {(condition, "linear"): right for condition in CONDITIONS}
    told |= {(condition, "as_said"): right for condition in CONDITIONS}
    half = told | {("both_known", "linear"): [*right[:10], *["no"] * 10]}
    rows = {row["condition"]: row for row in tables.canonicalised({1: told, 2: half}, TEST)}
    assert rows["canonical"] == {"condition": "canonical", "linear": 1.0}
    assert rows["both_known"]["linear"] == pytest.approx(0.75)


def row(condition, remedy, metric, mean):
    return {"condition": condition, "remedy": remedy, "metric": metric, "mean": mean}


def test_a_wide_row_holds_the_metrics_of_each_remedy():
    rows = [row("canonical", "none", "action_accuracy", 0.5), row("canonical", "none", "success", 0.25)]
    rows += [row("canonical", "blind", "success", 0.9)]
    assert tables.wide(rows, ["none"])[0] == {"condition": "canonical", "none": "50.0 / 25.0"}


def test_the_reports_numbers_stand_beside_ours_with_what_lies_between():
    rows = [row(condition, "none", "action_accuracy", 0.6) for condition in CONDITIONS]
    found = tables.against_report([*rows, row("canonical", "blind", "action_accuracy", 0.7)])
    assert [each["action_accuracy"] for each in found[:2]] == pytest.approx([97.35, 20.3])
    assert [each["apart"] for each in found[2:]] == pytest.approx([60 - 97.35, 60 - 20.3, 60 - 20.3, 70 - 20.3])


def test_a_seed_cannot_change_while_it_is_used():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SEED.seed = 2
