"""OPRO: what the optimizer is shown, how replies are cleaned, what it costs, and that the evidence is used."""

import itertools
import random
import statistics
from dataclasses import replace

import pytest
from pydantic import ValidationError
from search_script import chance

from bpo_utils.chat import Calls
from bpo_utils.profile import Model
from bpo_utils.records import Reply
from bpo_utils.search import evidence, landscape, plan, prompts
from bpo_utils.search.evaluate import evaluate
from bpo_utils.search.methods import opro, seed
from bpo_utils.search.plan import Plan, Sizes
from bpo_utils.search.state import Roles, Search, add, start
from bpo_utils.search.task import Mark, Row, Task

TARGET = Model(name="target", provider="mini", model="middle")
OPTIMIZER = Model(name="optimizer", provider="program", model="phrases")


def task(train=10, dev=4, test=2, **more):
    sets = [
        tuple(Row(f"{name}{number}", f"question {name}{number}", f"gold {number}") for number in range(count))
        for name, count in (("t", train), ("d", dev), ("x", test))
    ]
    told = {"position": "before", **more}
    return Task("scripted", "The model answers.", "Start.", *sets, lambda row, text: Mark(float(text), ""), **told)


def scripted(tmp_path, write, answer, one=None, **more):
    """A search whose optimizer and target are two functions, and the list of all that they were asked."""
    asked = []

    def complete(requests, calls):
        asked.extend(requests)
        return [Reply(write(one) if one.model == OPTIMIZER else answer(one)) for one in requests]

    roles = Roles(TARGET, OPTIMIZER, Calls(tmp_path / "calls.sqlite"), complete)
    return Search(one or task(), roles, **more), asked


def fresh():
    """An optimizer that never repeats itself."""
    number = itertools.count()
    return lambda asked: f"<instruction>Idea {next(number)}.</instruction>"


def listed(tmp_path, scores, **more):
    """A search with instructions that reached these scores on dev, and them; the last digit tells them apart."""
    search, _ = scripted(tmp_path, None, lambda asked: asked.prompt.split()[1].rstrip("."), **more)
    pool = [add(search, f"Scored {score:.6f}.", "continue") for score in scores]
    evaluate(search, pool, search.task.dev)
    return search, pool


def shown_texts(text):
    return [one for block in prompts.tagged(text, "scored") for one in prompts.tagged(block, "instruction")]


def landed(tmp_path, number, budget, blind=False):
    target = Model(name="landscape", provider="landscape", model="l")
    roles = Roles(target, OPTIMIZER, Calls(tmp_path / "calls.sqlite"))
    return Search(landscape.task(draw=number), roles, number, budget, blind=blind)


def found(search, settings=None):
    """The true value of what OPRO finds on the landscape, its settings fitted to the search's budget."""
    sizes = Sizes(len(search.task.train), len(search.task.dev))
    one = opro.run(search, plan.fitted(opro, settings or opro.Settings(), sizes, search.budget))
    return landscape.value(landscape.phrases_in(one.text))


# golden check 8: what is shown


@pytest.mark.parametrize(("score", "shown"), [(0.7049, "70"), (0.7051, "71"), (0.0, "0"), (1.0, "100")])
def test_a_score_is_shown_in_hundredths(score, shown):
    assert opro.bucket(score, 100) == shown
    assert opro.bucket(0.705, 100) in ("70", "71")  # as rounding of binary numbers has it
    assert opro.bucket(score, None) == f"{score:.3f}" and opro.bucket(0.52, 20) == "10"


def test_the_best_twenty_are_shown_worst_first_and_the_21st_is_not(tmp_path):
    scores = [
        0.31 + number / 100 for number in (7, 20, 3, 15, 1, 0, 18, 11, 5, 9, 13, 2, 16, 4, 19, 6, 12, 8, 17, 10, 14)
    ]
    search, pool = listed(tmp_path, scores)
    shown = opro.trajectory(search, pool, search.task.dev, opro.Settings())
    assert [one.text for one in shown] == [f"Scored {score:.6f}." for score in sorted(scores)[1:]]
    text = opro.meta_prompt(search, shown, search.task.dev, 1, opro.Settings()).text
    assert shown_texts(text) == [one.text for one in shown] and len(shown_texts(text)) == 20
    numbers = [int(one) for one in prompts.tagged(text, "score")]
    assert numbers == sorted(numbers) == list(range(32, 52))


def test_the_threshold_hides_and_does_not_delete(tmp_path):
    search, pool = listed(tmp_path, [0.1, 0.35, 0.2, 0.5, 0.29, 0.3, 0.6, 0.7, 0.8])
    shown = opro.trajectory(search, pool, search.task.dev, opro.Settings())
    assert [one.text for one in shown] == [f"Scored {score:.6f}." for score in (0.3, 0.35, 0.5, 0.6, 0.7, 0.8)]
    everything = opro.trajectory(search, pool, search.task.dev, opro.Settings(threshold=0.0))
    assert len(everything) == 9 and len(pool) == 9


def test_a_hard_task_still_shows_its_best_five(tmp_path):
    search, pool = listed(tmp_path, [0.01, 0.07, 0.02, 0.06, 0.03, 0.05])
    shown = opro.trajectory(search, pool, search.task.dev, opro.Settings())
    assert [one.text for one in shown] == [f"Scored {score:.6f}." for score in (0.02, 0.03, 0.05, 0.06, 0.07)]


@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
def test_the_order_is_shown_and_named(tmp_path, order):
    scores = [0.4, 0.9, 0.5, 0.8, 0.6, 0.7, 0.95, 0.45]
    search, pool = listed(tmp_path, scores)
    settings = opro.Settings(order=order)
    shown = [one.text for one in opro.trajectory(search, pool, search.task.dev, settings)]
    up = [f"Scored {score:.6f}." for score in sorted(scores)]
    assert sorted(shown) == up
    assert {"ascending": shown == up, "descending": shown == up[::-1], "random": shown not in (up, up[::-1])}[order]
    assert f"in {order} order" in opro.meta_prompt(search, pool, search.task.dev, 1, settings).text


def test_of_equals_the_older_stands_first(tmp_path):
    search, _ = scripted(tmp_path, None, lambda asked: "0.5")
    pool = [add(search, f"Idea {number}.", "continue") for number in range(12)]
    evaluate(search, pool, search.task.dev)
    assert opro.trajectory(search, pool, search.task.dev, opro.Settings()) == pool


@pytest.mark.parametrize(
    ("position", "placed"),
    [
        ("before_Q", "<INS>\nQ: question t1\nA:"),
        ("Q_begin", "Q: <INS>\nquestion t1\nA:"),
        ("Q_end", "Q: question t1\n<INS>\nA:"),
        ("A_begin", "Q: question t1\nA: <INS>"),
        ("before", "<INS>\nquestion t1"),
        ("after", "question t1\n<INS>"),
    ],
)
def test_an_exemplar_has_the_mark_exactly_where_the_instruction_will_stand(tmp_path, position, placed):
    search, _ = scripted(tmp_path, None, lambda asked: "1", task(position=position))
    shown = evidence.placed(search, [search.task.train[1]])
    assert prompts.tagged(shown, "input") == [placed] and prompts.tagged(shown, "output") == ["gold 1"]
    evaluate(search, [start(search)], search.task.dev)
    text = opro.meta_prompt(search, [start(search)], search.task.dev, 1, opro.Settings()).text
    assert ("start of the answer" in text) == (position == "A_begin")


def test_instructions_stand_before_exemplars_unless_switched(tmp_path):
    search, pool = listed(tmp_path, [0.5])
    for switched in (False, True):
        settings = opro.Settings(exemplars_first=switched)
        text = opro.meta_prompt(search, pool, search.task.dev, 1, settings).text
        assert (text.index("<example>") < text.index("<scored>")) == switched


def test_the_layout_for_pre_trained_optimizers_has_scores_before_texts_and_no_exemplars(tmp_path):
    search, pool = listed(tmp_path, [0.5, 0.75])
    settings = opro.Settings(instructions_only=True, buckets=None)
    text = opro.meta_prompt(search, pool, search.task.dev, 1, settings).text
    assert "<example>" not in text and "from 0 to 1," in text and text.endswith("</scored>")
    first = "<score>0.500</score>\n<instruction>\nScored 0.500000.\n</instruction>"
    assert text.index(first) < text.index("<score>0.750</score>")


# exemplars


def test_exemplars_are_three_train_rows_new_in_each_step_or_constant(tmp_path):
    search, _ = scripted(tmp_path, None, lambda asked: "1")

    def drawn(step, **more):
        return [row.id for row in opro.exemplars(search, [], search.task.dev, step, opro.Settings(**more))]

    steps = [drawn(step) for step in range(1, 9)]
    assert all(len(set(one)) == 3 and all(id[0] == "t" for id in one) for one in steps)
    assert len({tuple(one) for one in steps}) > 5 and drawn(1) == steps[0]
    assert len({tuple(drawn(step, choice="constant")) for step in range(1, 9)}) == 1
    assert len(drawn(1, exemplars=0)) == 0 and len(drawn(1, exemplars=99)) == 10


def test_missed_rows_are_counted_ever_or_with_the_instructions_shown(tmp_path):
    """t1 is missed by the oldest instruction alone; t2 by both newer ones, t3 by one of them; t4 to t9 by none."""
    missed = {"Start.": {"t1"}, "Two": {"t2", "t3"}, "Three": {"t2"}}

    def answer(asked):
        text, row = asked.prompt.split("\n")
        return "0" if row.split()[1] in missed[text] else "1"

    search, _ = scripted(tmp_path, None, answer, task(train=10))
    pool = [start(search), add(search, "Two", "continue"), add(search, "Three", "continue")]
    settings = {choice: opro.Settings(choice=choice, fraction=1.0) for choice in ("missed_ever", "missed_now")}
    rows = opro.scoring(search, settings["missed_now"])
    evaluate(search, pool, rows)
    for step in range(1, 9):
        ever = opro.exemplars(search, pool[1:], rows, step, settings["missed_ever"])
        now = opro.exemplars(search, pool[1:], rows, step, settings["missed_now"])
        assert {row.id for row in ever} == {"t1", "t2", "t3"}
        assert [row.id for row in now][:2] == ["t2", "t3"]
    pairs = settings["missed_ever"].model_copy(update={"exemplars": 2})
    drawn = [{row.id for row in opro.exemplars(search, pool[1:], rows, step, pairs)} for step in range(12)]
    assert {"t1", "t3"} in drawn and all(one < {"t1", "t2", "t3"} for one in drawn)  # a draw and not a rank


def test_missed_rows_of_dev_must_not_be_shown():
    for choice in ("missed_ever", "missed_now"):
        with pytest.raises(ValidationError, match="give `fraction` too"):
            opro.Settings(choice=choice)
        assert opro.Settings(choice=choice, fraction=0.2).fraction == 0.2


def test_with_a_fraction_train_scores_and_dev_chooses(tmp_path):
    """The newest idea is the best on train, Idea 1 on dev; it is among the finalists, so it is returned."""

    def answer(asked):
        text, row = asked.prompt.split("\n")
        number = 0 if text == "Start." else int(text.split()[1][:-1]) + 1
        return str(number / 100 if row.split()[1][0] == "t" else float(number == 2))

    settings = opro.Settings(rounds=2, candidates=2, fraction=0.35, finalists=3)
    search, _ = scripted(tmp_path, fresh(), answer)
    rows = opro.scoring(search, settings)
    assert len(rows) == 3 and {row.id[0] for row in rows} == {"t"}
    assert opro.run(search, settings).text == "Idea 1."
    assert search.counts.target_calls == opro.plan(settings, Sizes(10, 4)).target == 5 * 3 + 3 * 4
    assert {id[0] for scores in search.scores.values() for id in scores} == {"t", "d"}
    search, _ = scripted(tmp_path, fresh(), answer)
    assert opro.run(search, settings.model_copy(update={"finalists": 0})).text == "Idea 3."
    assert {id[0] for scores in search.scores.values() for id in scores} == {"t"}


# replies


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("Sure. <instruction>name the place</instruction> and <instruction>second</instruction>", "Name the place"),
        ("<instruction>\n**Name** the place\n", "Name the place"),  # no end: the rest
        ("name the place</instruction> as asked", "Name the place"),  # no beginning
        ("<instruction>说明地点。</instruction>", "说明地点。"),
        ("Name the place.", ""),
        ("I'm sorry, but I can't help with that.", ""),
        ("", ""),
        ("<instruction>  </instruction> Name the place.", ""),
        (f"<instruction>{'x' * 500}</instruction>", f"X{'x' * 499}"),
        (f"<instruction>{'x' * 501}</instruction>", ""),
        ("<instruction>Put <INS> first</instruction>", ""),
        ("<instruction>Put INS first</instruction>", ""),
        ("<instruction>Follow INSTRUCTIONS of step 1</instruction>", "Follow INSTRUCTIONS of step 1"),
    ],
)
def test_a_reply_is_cleaned_as_in_the_original(reply, read):
    assert opro.cleaned(reply, opro.Settings()) == read


def test_digits_are_dropped_where_asked():
    assert opro.cleaned("<instruction>Take 2 steps</instruction>", opro.Settings(no_digits=True)) == ""
    assert opro.cleaned("<instruction>Take two steps</instruction>", opro.Settings(no_digits=True)) == "Take two steps"


def test_duplicates_are_counted_by_their_normal_form_and_not_scored_again(tmp_path):
    said = itertools.cycle(
        [
            "<instruction>one  way</instruction>",
            '<instruction>"One way"</instruction>',
            "<instruction>start.</instruction>",
        ]
    )
    search, asked = scripted(tmp_path, lambda one: next(said), lambda one: "0.5")
    opro.run(search, opro.Settings(rounds=1, candidates=6))
    assert [one.text for one in search.candidates] == ["Start.", "One  way"]
    assert search.counts.duplicates == 5 and search.counts.target_calls == 2 * 4


def test_what_cannot_be_read_is_asked_for_again_and_then_left_out(tmp_path):
    bad = itertools.cycle(["", "I'm sorry.", '{"a": 1}', f"<instruction>{'x' * 501}", "<instruction></instruction>"])
    search, asked = scripted(tmp_path, lambda one: next(bad), lambda one: "0.5", tries=3)
    assert opro.run(search, opro.Settings(candidates=2)).operator == "seed"
    steps = 3  # without anything new
    assert search.counts.optimizer_calls == steps * 2 * 3 == search.counts.bad_replies
    draws = [one.sample for one in asked if one.model == OPTIMIZER]
    assert len(draws) == 18 and {one.temperature for one in asked if one.model == OPTIMIZER} == {1.0}


# costs


def test_the_papers_costs():
    """GSM8K 3.5 % of 7,473 rows, BBH 20 % of 250 (golden check 9); 1,600 proposals (section 4.7)."""
    gsm8k, bbh = (opro.Settings(fraction=part, finalists=0) for part in (0.035, 0.2))
    assert opro.plan(gsm8k, Sizes(7473, 100)) == Plan(target=417_861, optimizer=1600)
    assert opro.plan(bbh, Sizes(250, 100)) == Plan(target=80_050, optimizer=1600)
    assert opro.plan(opro.Settings(), Sizes(7473, 261)) == Plan(target=417_861, optimizer=1600)
    assert opro.plan(opro.Settings(fraction=0.2), Sizes(250, 100)).target == 80_050 + 5 * 100


@pytest.mark.parametrize("more", [{}, {"fraction": 0.35}, {"fraction": 0.5, "choice": "missed_now", "finalists": 99}])
def test_what_was_planned_is_used_if_nothing_repeats(tmp_path, more):
    settings = opro.Settings(rounds=3, candidates=4, **more)
    planned = opro.plan(settings, Sizes(10, 4))
    search, asked = scripted(tmp_path, fresh(), lambda one: "0.5", budget=planned.target)
    opro.run(search, settings)
    assert (search.counts.target_calls, search.counts.optimizer_calls) == (planned.target, planned.optimizer)
    target = [one for one in asked if one.model == TARGET]
    assert len(target) == len(set(target)) and {one.temperature for one in target} == {0.0}
    assert [row["step"] for row in search.trace][:4] == [0, 1, 2, 3]


def test_no_search_uses_more_than_its_plan_or_its_budget(tmp_path):
    rng = random.Random(4)

    def write(asked):
        return rng.choice(["", "Sorry.", f"<instruction>Idea {rng.randint(0, 40)}", f"<instruction>{rng.random()}"])

    for number in range(60):
        drawn = {"candidates": rng.randint(1, 5), "kept": rng.randint(1, 9), "finalists": rng.randint(0, 7)}
        drawn |= {"fraction": rng.choice([None, 0.05, 0.4, 1.0]), "order": rng.choice(["ascending", "random"])}
        drawn |= {"choice": rng.choice(["random", "missed_ever", "missed_now"]) if drawn["fraction"] else "constant"}
        settings, sizes = opro.Settings(rounds=rng.randint(1, 6), **drawn), Sizes(rng.randint(1, 12), rng.randint(1, 9))
        planned = opro.plan(settings, sizes)
        budget = rng.choice([None, rng.randint(1, planned.target)])
        one = task(sizes.train, sizes.dev)
        search, _ = scripted(tmp_path, write, lambda one: str(rng.randint(0, 1)), one, seed=number, budget=budget)
        try:
            fitted = plan.fitted(opro, settings, sizes, budget)
        except ValueError:
            continue
        opro.run(search, fitted)
        assert search.counts.target_calls <= (planned.target if budget is None else budget), drawn
        assert search.counts.optimizer_calls <= opro.plan(fitted, sizes).optimizer * search.tries, drawn


def test_the_seed_prompt_costs_one_pass_over_dev(tmp_path):
    search, _ = scripted(tmp_path, None, lambda one: "0.5")
    assert seed.run(search, seed.Settings()) == start(search) == search.candidates[-1]
    assert search.counts.target_calls == seed.plan(seed.Settings(), Sizes(10, 4)).target == 4


# evidence


def test_a_blind_optimizer_is_shown_nothing_that_was_measured(tmp_path):
    search, pool = listed(tmp_path, [0.9, 0.1, 0.8, 0.2, 0.7, 0.6, 0.5, 0.4], blind=True)
    settings = opro.Settings(kept=3)
    shown = opro.trajectory(search, pool, search.task.dev, settings)
    assert shown == pool[-3:]  # the newest, not the best
    text = opro.meta_prompt(search, shown, search.task.dev, 1, settings).text
    assert set(prompts.tagged(text, "score")) == {"(hidden)"} and "gold" not in text and "question" not in text


def test_without_evidence_opro_finds_less(tmp_path):
    """On the landscape, six draws of items: 800 target calls; scores and exemplars are what leads it."""
    seeing = [found(landed(tmp_path, number, 800)) for number in range(1, 7)]
    blind = [found(landed(tmp_path, number, 800, blind=True)) for number in range(1, 7)]
    assert statistics.mean(blind) < statistics.mean(seeing) - 0.05


@pytest.mark.parametrize(("budget", "ahead"), [(800, 0.03), (1600, 0.06)])
def test_opro_beats_random_search(tmp_path, budget, ahead):
    """Golden check 15, on ten draws of items: two steps and four, at their worst."""
    drawn = [chance(landed(tmp_path, number, budget), seeded=False) for number in range(1, 11)]
    seeing = [found(landed(tmp_path, number, budget)) for number in range(1, 11)]
    assert statistics.mean(seeing) > statistics.mean(drawn) + ahead


def test_a_search_on_a_fraction_of_train_beats_random_search_too(tmp_path):
    settings = opro.Settings(fraction=0.5, choice="missed_now")
    drawn = [chance(landed(tmp_path, number, 800), seeded=False) for number in range(1, 7)]
    assert statistics.mean(found(landed(tmp_path, number, 800), settings) for number in range(1, 7)) > statistics.mean(
        drawn
    )


def test_a_search_taken_up_again_takes_the_same_way(tmp_path):
    settings = opro.Settings(rounds=3, candidates=4)

    def search():
        one = landed(tmp_path, 2, None)
        return Search(replace(one.task), one.roles, 2, folder=tmp_path / "search", about={"method": "opro"})

    first = search()
    whole = opro.run(first, settings)
    again = search()
    assert again.saved == first.digests and list(first.digests) == ["1", "2", "3"]
    assert opro.run(again, settings) == whole and again.trace == first.trace
    with pytest.raises(ValueError, match="came out differently"):
        opro.run(search(), settings.model_copy(update={"exemplars": 1}))
