"""Notebook 09's comparison: which searches there are, when one is made again, what the numbers say, BPO beside it."""

import itertools
import json
import os
import random
import subprocess
import sys

import pytest

from bpo_utils import paths, profile, records, seeds, workers
from bpo_utils.chat import Calls
from bpo_utils.profile import Searching, SearchRows
from bpo_utils.records import Reply
from bpo_utils.search import (
    against_bpo,
    chapter,
    compare,
    landscape,
    lineage,
    mini_task,
    program,
    run,
    statistics,
    study,
    tasks,
    vocabulary,
)
from bpo_utils.search.state import Roles

SMOKE = profile.load("smoke")


def section(**changes):
    rows = SearchRows(train=12, dev=6, test=20)
    models = {"target": study.TARGET, "optimizer": study.OPTIMIZER}
    told = {
        "task": "landscape",
        "rows": rows,
        "budgets": [36, 18],
        "seeds": [1, 2],
        "settings": {"opro": {"candidates": 2}},
    }
    told |= {"methods": ["seed", "paraphrases", "opro"], "at_once": 2}
    return Searching(**(told | models | changes))


def run_of(**changes):
    return SMOKE.model_copy(update={"name": "try", "searching": section(**changes)})


def result(method, seed, values, budget=36, dev=0.5, blind=False, **more):
    told = {"method": method, "seed": seed, "budget": budget, "dev": dev, "blind": blind, "seed_dev": 0.1}
    told |= {"scores": {f"r{place}": value for place, value in enumerate(values)}, "test": sum(values) / len(values)}
    return told | {"trace": [], "best": {"id": "c0", "text": method, "demo": ""}} | more


@pytest.fixture
def here(run_folder, monkeypatch):
    """Searches are made in this process; the list says which."""
    made = []

    def in_this_process(name, searching, todo, tell):
        made.extend(todo)
        compare.make(name, searching, todo, Calls(run_folder / "calls.sqlite"))

    monkeypatch.setattr(compare, "_in_processes", in_this_process)
    return made


def told(run, printed=None):
    return compare.run_all(run, Calls(compare.paths.stage_dir(run.name, "09_search") / "calls.sqlite"), print)


# which searches there are


def test_every_method_budget_and_seed_is_there_and_the_ablation_at_the_middle_budget():
    searching = section(budgets=[96, 24, 48], seeds=[3, 1])
    found = compare.every(searching)
    sighted = [one for one in found if not one.blind]
    assert len(set(sighted)) == len(sighted) == 3 * 3 * 2 and [one.budget for one in sighted[:3]] == [24, 48, 96]
    assert [one for one in found if one.blind] == [compare.One("opro", 48, seed, True) for seed in (3, 1)]
    assert len({one.folder("try", "landscape") for one in found}) == len(found)
    with pytest.raises(ValueError, match="twice"):
        compare.every(section(methods=["seed", "seed"]))


def test_a_profile_without_the_section_is_told_what_to_do():
    with pytest.raises(ValueError, match="no section `searching`.*bpo search"):
        compare.section(SMOKE.model_copy(update={"searching": None}))


def test_planned_calls_are_at_most_the_budget_and_every_method_that_is_too_dear_is_named():
    searching = section()
    task = tasks.load(searching.task, searching.rows)
    rows = compare.planned(searching, task)
    assert [(row["method"], row["budget"]) for row in rows[-2:]] == [("opro", 18), ("opro", 36)]
    assert all(row["target_calls"] <= row["budget"] for row in rows) and rows[0]["target_calls"] == 6
    assert rows[-1]["all_target_calls"] == (rows[-1]["target_calls"] + 2 * (20 + 6)) * 2
    searches = compare.every(searching)
    target = 2 * sum(row["target_calls"] for row in rows) + 2 * rows[-1]["target_calls"]  # and the ablation's, at 36
    lines = compare.bill(searching, task, rows)
    assert f"{len(searches)} searches, 2 of them" in lines[0] and f"At most {target} target calls" in lines[1]
    with pytest.raises(ValueError, match=r"(?s)OPRO: a budget of 12 .*OPRO: a budget of 15 "):
        compare.planned(section(budgets=[12, 15]), task)


def test_processes_share_every_method_and_a_method_and_seed_stays_together():
    todo = [one for one in compare.every(section(seeds=[1, 2, 3, 4, 5])) if not one.blind]
    parts = compare.shares(todo, 2)
    assert sorted(map(str, itertools.chain(*parts))) == sorted(map(str, todo))
    assert all({one.method for one in part} == {"seed", "paraphrases", "opro"} for part in parts)
    pairs = [{(one.method, one.seed) for one in part} for part in parts]
    assert not pairs[0] & pairs[1] and abs(len(parts[0]) - len(parts[1])) <= 2
    assert compare.shares(todo[:1], 4) == [todo[:1]]


# when a search is made, loaded, made again


def test_finished_searches_are_loaded_and_other_settings_or_code_make_them_again(here, run_folder, monkeypatch):
    run = run_of()
    first = told(run)
    assert len(here) == len(first) == 14 and first[0]["method"] == "seed" and not first[0]["blind"]
    assert [one["budget"] for one in first[:2]] == [18, 36] and first[-1]["blind"]
    here.clear()
    assert told(run) == first and not here
    told(run_of(settings={"opro": {"candidates": 2, "kept": 3}}))
    assert {one.method for one in here} == {"opro"} and len(here) == 6
    here.clear()
    monkeypatch.setattr(compare, "code", lambda: "other")
    told(run)
    assert len(here) == 14


def test_a_stopped_search_keeps_what_it_has(here, run_folder):
    run = run_of(methods=["opro"], seeds=[1], budgets=[36])
    told(run)
    folder = compare.One("opro", 36, 1).folder("try", "landscape")
    (folder / "result.json").unlink()
    (folder / "mine.txt").write_text("kept", encoding="utf-8")
    told(run)
    assert (folder / "mine.txt").exists() and (folder / "result.json").exists()
    (folder / "facts.json").unlink()
    told(run)
    assert not (folder / "mine.txt").exists()


def test_processes_make_the_same_as_this_one_and_say_what_is_done(run_folder, capsys, monkeypatch):
    run = run_of(methods=["seed", "opro"], budgets=[36], seeds=[1, 2])
    found = told(run)
    said = capsys.readouterr().out
    assert "6 searches: 0 are there, 6 to make" in said and "opro without evidence, seed 2: done" in said
    assert said.count("done (") == 6 and "(0 searches left)" in said
    monkeypatch.setattr(workers, "run", None)
    assert told(run) == found
    monkeypatch.setenv("BPO_RUNS_DIR", str(run_folder / "other"))
    compare.make("try", run.searching, compare.every(run.searching), Calls(run_folder / "c.sqlite"))
    again = [compare._result("try", run.searching, one) for one in compare.every(run.searching)]
    assert again == found


def test_no_search_depends_on_the_order_of_pythons_sets(run_folder):
    smoke = SMOKE.searching
    changes = {"methods": smoke.methods, "settings": smoke.settings, "budgets": [96], "seeds": [1], "rows": smoke.rows}
    searching = section(**changes)
    searches = [{"method": name, "budget": 96, "seed": 1} for name in searching.methods]
    found = []
    for number in ("1", "2", "3"):  # Python's hash seed: the order of strings in a set
        job = {"profile": number, "searching": searching.model_dump(mode="json"), "searches": searches}
        path = records.write_json(run_folder / "job.json", job | {"store": "calls.sqlite"})
        command = [sys.executable, "-m", compare.MODULE, str(path)]
        subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": number}, check=True, timeout=120)
        found.append([compare._result(number, searching, compare.One(**one)) for one in searches])
    assert found[0] == found[1] == found[2]


def test_what_examples_need_comes_in_the_order_in_which_it_is_shown():
    rows = mini_task.task(12, 4, 8).train
    blocks = [f"<example><input>{row.input}</input><output>{row.gold}</output></example>" for row in rows]
    shown = program.Shown(vocabulary.of("facets"), random.Random(1), "".join(blocks), "", [], 4, "")
    given = [idea for row in rows for idea in shown.words.given(row.input, row.gold) if idea]
    assert list(program.needed(shown)) == list(dict.fromkeys(given)) and len(set(given)) > 6


def test_a_model_elsewhere_gets_one_process():
    assert compare.alone(section())
    away = study.TARGET.model_copy(update={"provider": "openai"})
    assert not compare.alone(section(target=away)) and not compare.alone(section(optimizer=away))


def test_a_model_that_is_gone_is_replaced_by_its_successor(monkeypatch):
    from bpo_utils.chat import served

    away = study.TARGET.model_copy(update={"provider": "openai", "name": "old"})
    run = run_of(target=away)

    def resolve(one, calls):
        (model,) = one.answer_models
        assert model == away
        return one.model_copy(update={"answer_models": [model.model_copy(update={"name": "new"})]}), "old is gone"

    monkeypatch.setattr(served, "resolve", resolve)
    found, said = compare.resolved(run, None)
    assert found.searching.target.name == "new" and found.searching.optimizer == study.OPTIMIZER
    assert said == "target: old is gone" and "in this process" in compare.resolved(run_of(), None)[1]


# what the numbers say


def test_difference_of_a_constant_shift_is_sure_and_of_nothing_is_none():
    rng = random.Random(1)
    other = [[rng.random() for _ in range(30)] for _ in range(5)]
    more = [[value + 0.1 for value in row] for row in other]
    found = statistics.difference(more, other)
    assert found.mean == pytest.approx(0.1) and found.low == pytest.approx(0.1) and found.high == pytest.approx(0.1)
    assert found.p == 2 / 10_001
    back = statistics.difference(other, more)
    assert back.p == found.p and back.mean == pytest.approx(-0.1)
    assert statistics.difference(other, other) == (0.0, 0.0, 0.0, 1.0)


def test_difference_has_the_interval_of_the_mean_over_rows_and_over_seeds():
    rng = random.Random(2)
    zeros = [[0.0] * 200]
    rows = [rng.gauss(0.05, 0.3) for _ in range(200)]
    mean = sum(rows) / 200
    error = (sum((value - mean) ** 2 for value in rows) / 200) ** 0.5 / 200**0.5
    found = statistics.difference([rows], zeros)
    assert found.low == pytest.approx(mean - 1.96 * error, abs=0.003)
    assert found.high == pytest.approx(mean + 1.96 * error, abs=0.003)
    # rows all alike: what is left to vary are the seeds
    shifts = (-0.2, -0.1, 0.0, 0.1, 0.25)
    by_seed = statistics.difference([[shift] * 200 for shift in shifts], zeros)
    spread = (sum((shift - 0.01) ** 2 for shift in shifts) / 5) ** 0.5 / 5**0.5
    assert by_seed.high - by_seed.low == pytest.approx(2 * 1.96 * spread, rel=0.12)
    # both vary: wider than either alone
    both = statistics.difference([[value + shift for value in rows] for shift in shifts], zeros)
    assert both.high - both.low > max(by_seed.high - by_seed.low, found.high - found.low)
    assert statistics.difference([rows], zeros) == found != statistics.difference([rows], zeros, seed=1)


def test_difference_that_is_none_is_seldom_found():
    rng, found = random.Random(3), 0
    for _ in range(200):
        first, other = ([[rng.random() for _ in range(40)] for _ in range(5)] for _ in range(2))
        found += statistics.difference(first, other, resamples=400).p < 0.05
    assert found <= 15  # 5 % are 10, and both resampled is rather too careful


def test_tables_that_do_not_fit_cannot_be_paired():
    with pytest.raises(ValueError, match="same rows"):
        statistics.difference([[1.0, 0.0]], [[1.0, 0.0, 1.0]])
    with pytest.raises(ValueError, match="same seeds"):
        statistics.difference([[1.0, 0.0]] * 2, [[1.0, 0.0]] * 3)
    with pytest.raises(ValueError, match="different rows"):
        statistics.table([result("opro", 1, [0.1, 0.2]), result("opro", 2, [0.1])])


def test_holm_corrects_each_family_by_itself():
    rows = [{"family": family, "p": p, "n": 1} for family, p in [("a", 0.01), ("a", 0.04), ("b", 0.04), ("a", 0.03)]]
    found = statistics.corrected(rows, lambda row: row["family"])
    assert [row["p_holm"] for row in found] == pytest.approx([0.03, 0.06, 0.04, 0.06])
    assert list(found[0]) == ["family", "p", "p_holm", "n"]


def many(names=("seed", "paraphrases", "ape", "opro", "pe2"), budgets=(18, 36), count=3):
    rng = random.Random(4)
    return [
        result(name, seed, [min(1.0, rng.random() * (1 + 0.3 * place)) for _ in range(25)], budget, dev=rng.random())
        for place, name in enumerate(names)
        for budget in budgets
        for seed in range(1, count + 1)
    ]


def test_families_of_comparisons_leave_the_controls_out_of_the_pairs():
    found = statistics.comparisons(many())
    assert [sum(row["family"] == family for row in found) for family in statistics.FAMILIES] == [8, 6, 6]
    pairs = {(row["method"], row["against"]) for row in found if row["family"] == "pairs"}
    assert pairs == {("ape", "opro"), ("ape", "pe2"), ("opro", "pe2")}
    one = next(row for row in found if (row["method"], row["against"], row["budget"]) == ("opro", "seed", 36))
    tables = [statistics.table([r for r in many() if r["method"] == m and r["budget"] == 36]) for m in ("opro", "seed")]
    assert one["difference"] == pytest.approx(statistics.difference(*tables).mean) and one["n"], one["seeds"] == (25, 3)
    sure = [row for row in found if row["p_holm"] < 0.05]
    assert sum(int(line.split(": ")[1].split()[0]) for line in statistics.said(found)) == len(sure) > 0


def test_scores_have_the_interval_over_rows_and_seeds_and_the_gap():
    results = many()
    row = statistics.scores(results)[-1]
    mean = seeds.over(statistics.table(results[-3:]))
    assert (row["method"], row["budget"], row["name"]) == ("pe2", 36, "PE2") and row["test"] == mean.mean
    assert row["ci_low"] == max(0.0, mean.low) and row["ci_high"] == min(1.0, mean.high)
    assert row["gap"] == pytest.approx(sum(one["dev"] for one in results[-3:]) / 3 - mean.mean)


def test_ablation_pairs_a_method_with_itself_at_one_budget():
    sighted = [result("opro", seed, [0.9, 0.8, 0.7], 36, dev=0.8) for seed in (1, 2)]
    blind = [result("opro", seed, [0.5, 0.4, 0.3], 36, dev=0.6, blind=True) for seed in (1, 2)]
    (row,) = statistics.ablation([*sighted, *blind, result("opro", 1, [0.0, 0.0, 0.0], 18)])
    assert row["test"] == pytest.approx(0.8) and row["blind_test"] == pytest.approx(0.4)
    assert row["difference"] == pytest.approx(0.4) and (row["dev"], row["blind_dev"]) == pytest.approx((0.8, 0.6))
    assert len(statistics.scores([*sighted, *blind])) == 1  # blind searches are no cells of the comparison


def test_curves_show_what_would_be_returned_after_so_many_calls():
    def trace(*points):
        return [{"step": 1, "target_calls": calls, "candidate": "c0", "dev": dev} for calls, dev in points]

    used = {"counts": {"target_calls": 30}}
    one = result("opro", 1, [0.1, 0.2], dev=0.5, trace=trace((10, 0.3), (20, 0.5)), **used)
    other = result("opro", 2, [0.1, 0.2], dev=0.7, trace=trace((20, 0.9), (30, 0.7)), **used)
    small = result("opro", 1, [0.1, 0.2], budget=18, trace=trace((5, 1.0)), **used)
    rows = {row["target_calls"]: row for row in statistics.curves([one, other, small])}
    assert sorted(rows) == [0, 10, 20, 30]
    assert [rows[at]["dev"] for at in (0, 10, 20, 30)] == pytest.approx([0.1, 0.2, 0.7, 0.6])
    assert (rows[20]["dev_low"], rows[20]["dev_high"], rows[20]["seeds"]) == (0.5, 0.9, 2)


def test_costs_are_means_and_name_the_dearest_seed(here):
    results = told(run_of())
    rows = statistics.costs(results)
    row = next(row for row in rows if (row["method"], row["budget"]) == ("opro", 36))
    used = [one["counts"]["target_calls"] for one in results if (one["method"], one["budget"]) == ("opro", 36)][:2]
    assert row["target_calls"] == sum(used) / 2 and row["most_target"] == max(used) <= row["planned_target"] <= 36
    assert row["optimizer_tokens"] > 0 and row["seeds"] == 2


# BPO beside it


def test_the_chosen_search_is_the_best_on_dev_at_the_largest_budget():
    results = [result("opro", 1, [0.1], 36, dev=0.4), result("opro", 2, [0.2], 36, dev=0.6)]
    results += [result("opro", 3, [0.9], 36, dev=0.6), result("opro", 1, [1.0], 18, dev=0.9)]
    assert against_bpo.chosen([*results, result("opro", 4, [1.0], dev=1.0, blind=True)])["opro"]["seed"] == 2


def test_rewrites_are_notebook_04s_and_only_missing_ones_are_made(run_folder, monkeypatch):
    asked = mini_task.test_prompts(3)
    run = SMOKE.model_copy(update={"name": "try"})

    def known(row, rewriter, text):
        return records.Rewrite(row.id, row.test_set, rewriter, row.prompt, text)

    rows = [known(asked[0], "bpo", "from 04"), known(asked[0], "identity", "no"), known(asked[1], "identity", "no")]
    records.write_rows(run_folder / "try/04_inference/rewrites.jsonl", rows)
    made = []

    def rewrite(prompts, model, settings):
        made.extend(prompts)
        return [known(row, "bpo", f"made {row.id}") for row in prompts]

    monkeypatch.setattr(against_bpo.rewrite, "rewrite", rewrite)
    found = against_bpo.rewrites(run, asked)
    assert found == ["from 04", f"made {asked[1].id}", f"made {asked[2].id}"] and made == asked[1:]


def test_bpo_is_held_against_every_method_by_metric_and_judges(run_folder, monkeypatch):
    searching = SMOKE.searching.model_copy(update={"methods": ["seed", "opro"]})
    run = SMOKE.model_copy(update={"searching": searching, "judges": SMOKE.judges[:1]})
    task = tasks.load("instruction", searching.rows)
    asked = against_bpo.questions(run)
    assert [row.id for row in task.test] == [row.id for row in asked]
    right = {row.id: Reply(row.gold) for row in task.test}
    wrong = Reply("I do not know.")
    answers = {"original": [wrong] * len(asked), "bpo": [right[row.id] for row in asked], "opro": [wrong] * len(asked)}
    results = []
    for seed, dev in ((1, 0.2), (2, 0.9)):
        one = result("opro", seed, [0.0], dev=dev)
        results.append(one | {"scores": {row.id: (seed - 1) / 2 for row in task.test}})
    rows = {(row["method"], row["which"]): row for row in against_bpo.by_metric(task, results, answers)}
    assert rows["bpo", ""]["test"] > 0.9 > 0.1 > rows["original", ""]["test"]
    assert rows["opro", "chosen"]["test"] == 0.5 and rows["opro", "seeds"]["test"] == 0.25
    assert rows["opro", "chosen"]["minus_bpo"] == pytest.approx(0.5 - rows["bpo", ""]["test"])
    assert rows["opro", "seeds"]["p_holm"] == rows["opro", "seeds"]["p"] < 0.01
    duels = against_bpo.duels(run, asked, answers, Calls(run_folder / "calls.sqlite"))
    assert [(row["first"], row["second"]) for row in duels] == [
        ("bpo", "opro"),
        ("bpo", "original"),
        ("opro", "original"),
    ]
    assert duels[0]["net_win"] > 0.8 and duels[2]["net_win"] == 0.0 and duels[2]["share_C"] == 1.0
    assert against_bpo.compared(run_of(), task, results, Calls(run_folder / "calls.sqlite")) == ([], [])


def test_answers_that_the_searches_have_are_not_asked_again(run_folder, monkeypatch):
    kept, asked = {"calls-0.sqlite": "What is tea?", "calls-1.sqlite": "What is milk?"}, []
    run_folder.mkdir()
    for name in kept:
        (run_folder / name).touch()

    def stored(requests, calls):
        mine = kept[calls.store.name]
        return [Reply(f"{calls.store.name}: {one.prompt}") if one.prompt == mine else None for one in requests]

    def complete(requests, calls):
        asked.extend((calls.store.name, one.prompt, one.temperature, one.max_tokens) for one in requests)
        return [Reply(f"asked: {one.prompt}") for one in requests]

    monkeypatch.setattr(against_bpo.session, "stored", stored)
    monkeypatch.setattr(against_bpo.chat, "complete", complete)
    task = tasks.load("instruction", SMOKE.searching.rows)
    tea, milk, salt = (("What is tea?", ""), ("What is milk?", ""), ("What is salt?", ""))
    made = {"one": [tea, salt], "two": [milk, tea]}
    found = against_bpo.answered(SMOKE, task, made, Calls(run_folder / "calls.sqlite"))
    assert asked == [("calls.sqlite", "What is salt?", 0.0, task.answer_tokens)]
    texts = {name: [reply.text for reply in replies] for name, replies in found.items()}
    tea, milk, salt = "calls-0.sqlite: What is tea?", "calls-1.sqlite: What is milk?", "asked: What is salt?"
    assert texts == {"one": [tea, salt], "two": [milk, tea]}


# what a budget buys, what the notebook shows


def test_regret_is_nothing_for_the_best_instruction_and_counts_the_demonstration():
    best, value = landscape.optimum()
    assert study.regret({"text": ", ".join(sorted(best)), "demo": ""}) == 0.0
    half = sorted(best)[:1]
    assert study.regret({"text": half[0], "demo": ", ".join(sorted(best))}) == 0.0
    assert study.regret({"text": "", "demo": ""}) == pytest.approx(value - landscape.MISS)


def test_the_study_has_more_budgets_and_seeds_and_is_loaded_again(run_folder, monkeypatch):
    run = run_of(methods=["seed", "opro"], budgets=[18, 36], seeds=[5, 7])
    assert study.section(run.searching).budgets == [18, 36, 72, 144]
    rows = study.run_all(run)
    assert len(rows) == 2 * 4 * 4 and {row["seed"] for row in rows} == {1, 2, 3, 4}
    found = {(row["method"], row["budget"]): row for row in study.summary(rows)}
    assert found["seed", 18]["regret"] == found["seed", 144]["ci_high"] > found["opro", 144]["regret"]
    mine = [row["regret"] for row in rows if (row["method"], row["budget"]) == ("opro", 144)]
    assert found["opro", 144]["regret"] == pytest.approx(sum(mine) / 4) and found["opro", 144]["seeds"] == 4
    monkeypatch.setattr(workers, "run", None)
    assert study.run_all(run) == rows


def test_lineage_leads_from_the_first_prompt_to_the_one_returned(here):
    run = run_of(methods=["opro"], seeds=[1], budgets=[60])
    (one, _) = told(run)
    task = tasks.load("landscape", run.searching.rows)
    tree = lineage.read(compare.One("opro", 60, 1).folder("try", "landscape"), task)
    nodes = {node["id"]: node for node in tree["nodes"]}
    assert tree["path"][0] == "c0" and tree["path"][-1] == one["best"]["id"] and len(tree["path"]) > 1
    assert nodes[one["best"]["id"]]["score"] == pytest.approx(one["dev"]) and nodes["c0"]["dev"]
    assert sorted(parent for parent, child in tree["edges"] if child == one["best"]["id"]) == sorted(
        one["best"]["parents"]
    )
    for parent, child in itertools.pairwise(tree["path"]):
        others = [nodes[id]["score"] for id, made in tree["edges"] if made == child]
        assert nodes[parent]["score"] == max(others)
    rows = lineage.evolution(tree)
    assert rows[0]["before"] == "" and rows[0]["target_calls"] == 0 and rows[-1]["after"] == one["best"]["text"]
    assert [row["after"] for row in rows[:-1]] == [row["before"] for row in rows[1:]]
    assert rows[-1]["target_calls"] <= one["counts"]["target_calls"] and "<ins" in lineage.as_html(rows)


def test_the_notebook_shows_the_question_the_method_and_its_story(here, run_folder):
    run = run_of(seeds=[1])
    task = tasks.load("landscape", run.searching.rows)
    shown = chapter.asked(run.searching, task, Calls(run_folder / "c.sqlite")).data
    assert "# Continue the list" in shown and "&lt;score&gt;" in shown and "program:" in shown
    words = chapter.explained(run.searching, task, "opro").data
    assert "arXiv 2309.03409" in words and "candidates 2 (default 8)" in words and "At 36 target calls: rounds" in words
    assert "Not among" in chapter.explained(run.searching, task, "pe2").data
    results = told(run)
    assert "planned at most 36" in chapter.evolved(run, task, results, "opro").data
    assert "Not among" in chapter.drawn(run, task, results, "pe2").data
    assert [row["rows"] for row in chapter.sets(task)] == [12, 6, 20]


def test_what_is_zero_is_said_to_be_zero():
    thirds = [[1 / 3, 0.1, 0.7, 0.25] * 5] * 3
    shuffled = [row[1:] + row[:1] for row in thirds]
    found = statistics.difference(thirds, shuffled)
    assert found.mean == 0.0 and found.low < 0 < found.high


def test_what_is_kept_from_run_to_run_is_not_declared_as_written(run_folder):
    """A repeated notebook loads its searches; the runner wants every declared file to be written anew."""
    (path,) = paths.NOTEBOOKS.glob("09_*.ipynb")
    declared = json.loads(path.read_text(encoding="utf-8"))["metadata"]["bpo"]["writes"]
    kept = compare.One("opro", 240, 1).folder("mini", "instruction").relative_to(run_folder / "mini")
    assert not [entry for entry in declared if kept.is_relative_to(entry.rstrip("/")) or "study" in entry]


def test_without_its_curve_a_search_measures_no_more_than_planned_and_the_curve_shows_what_is_known(tmp_path):
    """A favourite of ProTeGi was chosen on train rows: on dev it is worth nothing that anybody paid for."""
    searching = section(methods=["protegi"], settings={"protegi": SMOKE.searching.settings["protegi"]}, budgets=[60])
    task = tasks.load(searching.task, searching.rows)
    roles = Roles(searching.target, searching.optimizer, Calls(tmp_path / "calls.sqlite"))
    bare, full = (run.search(searching, task, roles, "protegi", 60, 1, curve=curve) for curve in (False, True))
    unknown = [row["candidate"] for row in bare["trace"] if row["dev"] is None]
    assert unknown and all(row["dev"] is not None for row in full["trace"])
    assert bare["counts"]["measured"] <= run.measured_at_most(task) and bare["best"] == full["best"]
    points = statistics.curves([bare | {"blind": False}])
    assert points[-1]["dev"] == bare["dev"] and len(points) < len(statistics.curves([full | {"blind": False}]))


def test_what_bpo_search_keeps_is_not_the_comparisons_to_remove(here):
    own = records.write_json(run.folder_of("try", "landscape", "seed", 18, 1) / "result.json", {"mine": True})
    compare.run_all(run_of(methods=["seed"], budgets=[18], seeds=[1]), Calls(own.with_name("calls.sqlite")))
    assert records.read_json(own) == {"mine": True}
