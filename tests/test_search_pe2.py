"""PE2: its conversation turn by turn, the components that can be switched off, hard negatives, and what it costs."""

import math
import random
import statistics

import pytest
from search_script import APOLOGY, OPTIMIZER, TARGET, Script, chance, found, hashed, idea, landed, scripted, sizes, task

from bpo_utils.search import evidence, prompts
from bpo_utils.search.methods import pe2
from bpo_utils.search.plan import Plan, Sizes
from bpo_utils.search.state import by_id

SMALL = {"beam": 2, "proposals": 2, "looked": 8}


def fresh(number, asked):
    """An optimizer that never repeats itself."""
    if asked.prompt.startswith("# Refine"):
        return f"<instruction>Idea {number}.</instruction>"
    return f"Idea {number}." if asked.prompt.startswith("# Infer") else f"Examined or summarized, {number}."


def learned(asked):
    """A target that is right on every train row, and on dev rows better with every newer idea."""
    return "1" if "question t" in asked.prompt else str(idea(asked) / 1_000_000)


def a_search(place, write=fresh, answer=learned, **more):
    return scripted(place, write, answer, **more)


# golden check 11, and what it costs


def test_36_proposals_take_72_calls_and_96_with_induced_prompts():
    manual, induced = pe2.Settings(), pe2.Settings(initial="induced")
    assert pe2.plan(manual, Sizes(100, 100)) == Plan((1 + 36) * 100 + 9 * 100, 72)
    assert pe2.plan(induced, Sizes(100, 100)) == Plan((30 + 48) * 100 + 12 * 100, 30 + 96)
    assert pe2.plan(pe2.Settings(history=True), Sizes(100, 100)).optimizer == 3 * 36
    assert pe2.plan(pe2.Settings(hard_negatives=False), Sizes(100, 100)).target == 37 * 100 + 9 * 8
    assert pe2.plan(manual, Sizes(20, 100)).target == 37 * 100 + 9 * 20


@pytest.mark.parametrize(
    "more",
    [
        {},
        SMALL,
        {"initial": "induced", "induced": 5},
        {"hard_negatives": False},
        {"backtracking": False, "rounds": 4, **SMALL},
        {"history": True, "tutorial": True, **SMALL},
        {"proposals": 1, "beam": 1},
    ],
)
def test_a_search_uses_what_was_planned_if_nothing_repeats_and_train_rows_go_right(tmp_path, more):
    settings = pe2.Settings(**more)
    search, _ = a_search(tmp_path)
    assert pe2.run(search, settings) == max(search.candidates, key=lambda one: int(one.id[1:]))
    planned = pe2.plan(settings, sizes(search))
    assert (search.counts.target_calls, search.counts.optimizer_calls) == (planned.target, planned.optimizer)


def test_no_search_uses_more_than_was_planned(tmp_path):
    """Random settings, an optimizer that repeats itself, apologizes or says nothing, answers at random."""
    rng = random.Random(1)

    def write(number, asked):
        return rng.choice(["", APOLOGY, f"<instruction>Idea {rng.randint(0, 20)}.</instruction>", fresh(number, asked)])

    for _ in range(60):
        drawn = {"rounds": rng.randint(1, 4), "beam": rng.randint(1, 4), "proposals": rng.randint(1, 4)}
        drawn |= {"batch": rng.randint(1, 8), "looked": rng.randint(1, 20), "history": rng.random() < 0.3}
        drawn |= {"initial": rng.choice(["manual", "induced"]), "induced": rng.randint(1, 5)}
        drawn |= {"backtracking": rng.random() < 0.5, "hard_negatives": rng.random() < 0.7}
        settings = pe2.Settings(**drawn)
        one = task(dev=rng.randint(1, 9), train=rng.randint(1, 12))
        search, _ = a_search(tmp_path, write, rng.choice([hashed, learned]), one=one, seed=rng.random())
        planned = pe2.plan(settings, sizes(search))
        search.budget = planned.target - rng.randint(0, planned.target // 2)
        if settings.initial == "induced":
            search.budget = max(search.budget, settings.induced * len(one.dev))
        search.budget = max(search.budget, len(one.dev))
        pe2.run(search, settings)
        assert search.counts.target_calls <= planned.target, drawn
        assert search.counts.optimizer_calls <= planned.optimizer * search.tries, drawn


def test_the_last_round_refines_as_many_prompts_as_the_budget_allows(tmp_path):
    def wrong(asked):  # on every train row, so that the first ones that are run are enough
        return "0" if "question t" in asked.prompt else learned(asked)

    each = 4 * 12 + 8
    for left, parents in ((each - 1, 0), (each, 1), (3 * each - 1, 2), (4 * each, 4)):
        search, _ = a_search(tmp_path, answer=wrong, budget=12 + each + left)
        pe2.run(search, pe2.Settings(rounds=2))
        assert len({one.parents for one in search.candidates if one.step == 2}) == parents
        assert search.counts.target_calls == 12 + each + parents * each


# the conversation


def test_the_conversation_is_the_papers_turn_by_turn(tmp_path):
    search, script = a_search(tmp_path, one=task(form="Answer in one word."))
    pe2.run(search, pe2.Settings(rounds=1, proposals=1, tutorial=True, history=True))
    first, second, third = script.of(OPTIMIZER)
    assert [role for role, _ in first.earlier] == ["user", "assistant"] * 2
    tutorial, _, task_turn, ready = (text for _, text in first.earlier)
    assert tutorial == prompts.text("pe2_tutorial") and 300 < len(tutorial.split()) < 500
    assert "Step 1." in task_turn and "Step 2." in task_turn and "and 2 examples" in task_turn
    assert ready == prompts.text("pe2_ready")
    assert "```\n{instruction}\n{input}\nAnswer in one word.\n```" in first.prompt  # the context specification
    assert "<instruction>\nStart.\n</instruction>" in first.prompt and "absolutely right" in first.prompt
    assert [f"\n{number}. " in first.prompt for number in range(1, 7)] == [True] * 5 + [False]
    assert second.earlier == (*first.earlier, ("user", first.prompt), ("assistant", script.known[first]))
    assert second.prompt.count("Start.") == 1 and "at most 50 words" in second.prompt
    assert third.earlier == (*second.earlier, ("user", second.prompt), ("assistant", script.known[second]))
    assert "less than 200 words" in third.prompt
    assert [(one.temperature, one.max_tokens) for one in (first, second)] == [(0.0, 1024), (0.7, 300)]
    (born,) = search.candidates[1:]
    assert born.parents == ("c0",) and born.reply == script.known[second] and born.text in born.reply
    assert prompts.version("pe2_examine") in born.meta and prompts.version("pe2_tutorial") in born.meta


def test_a_rounds_conversations_go_out_together_one_turn_in_one_batch(tmp_path):
    search, script = a_search(tmp_path)
    pe2.run(search, pe2.Settings(history=True))
    asked = [batch for batch in script.batches if batch[0].model == OPTIMIZER]
    assert [len(batch) for batch in asked] == [4] * 3 + [16] * 6


@pytest.mark.parametrize(
    ("off", "words"),
    [("description", "in two steps"), ("context", "```"), ("questions", "Does the output do what the prompt says?")],
)
def test_a_component_can_be_switched_off_alone(tmp_path, off, words):
    texts = {}
    for on in (True, False):
        search, script = a_search(tmp_path)
        pe2.run(search, pe2.Settings(rounds=1, **{off: on}))
        texts[on] = "\n".join(script.of(OPTIMIZER, "# Examine")[0].texts)
    assert words in texts[True] and words not in texts[False]
    others = {"description": "in two steps", "context": "```", "questions": "Does the output do"} | {off: "<example>"}
    assert all(other in texts[False] for other in others.values())
    assert not script.of(OPTIMIZER)[0].earlier if off == "description" else script.of(OPTIMIZER)[0].earlier


def test_the_limits_of_words_are_asked_for(tmp_path):
    search, script = a_search(tmp_path)
    pe2.run(search, pe2.Settings(rounds=1, words=200, step_words=10))
    (asked, *_) = script.of(OPTIMIZER, "# Refine")
    assert "at most 200 words" in asked.prompt and "change up to 10 words" in asked.prompt
    search, script = a_search(tmp_path)
    pe2.run(search, pe2.Settings(rounds=1))
    assert "change up to" not in script.of(OPTIMIZER, "# Refine")[0].prompt


def test_the_history_shows_the_line_of_a_prompt_with_scores_and_changes(tmp_path):
    def better(asked):
        return "1" if "question t" in asked.prompt else str(min(idea(asked), 100) / 100)

    search, script = a_search(tmp_path, answer=better)
    pe2.run(search, pe2.Settings(beam=1, proposals=1, history=True))
    first, second, third = script.of(OPTIMIZER, "# Refine")
    assert "<scored>" not in first.prompt  # there is no earlier one
    line = search.candidates[:3]
    shown = [prompts.tagged(block, "instruction")[0] for block in prompts.tagged(third.prompt, "scored")]
    assert shown == [one.text for one in line] and len(prompts.tagged(second.prompt, "scored")) == 2
    scores = [
        str(round(100 * statistics.mean(s.value for k, s in search.scores[one.id].items() if k[0] == "d")))
        for one in line
    ]
    assert prompts.tagged(third.prompt, "score") == scores and len(set(scores)) == 3
    said = [script.known[one] for one in script.of(OPTIMIZER, "# Summarize")]
    assert f"1. {said[0]}\n\n2. {said[1]}" in third.prompt and said[2] not in third.prompt
    search, script = a_search(tmp_path, answer=better, blind=True)
    pe2.run(search, pe2.Settings(beam=1, proposals=1, history=True))
    text = "\n".join(text for one in script.of(OPTIMIZER) for text in one.texts)
    assert "question t" not in text and "(hidden)" in text and evidence.NOTHING in text
    said = [script.known[one] for one in script.of(OPTIMIZER, "# Summarize")]
    assert not [one for one in script.of(OPTIMIZER, "# Refine") if said[0] in one.prompt]
    assert not [text for text in prompts.tagged(text, "score") if text != "(hidden)"]


# hard negatives


def odd(asked):
    """Right on train rows with an even number; dev rows as `learned`."""
    number = int(asked.prompt.rpartition("question ")[2][1:].split("\n")[0])
    return str(int(number % 2 == 0)) if "question t" in asked.prompt else str(idea(asked) / 1_000_000)


def shown_rows(script):
    asked = script.of(OPTIMIZER, "# Examine")
    return [[int(text.removeprefix("question t")) for text in prompts.tagged(one.prompt, "input")] for one in asked]


def test_only_rows_that_go_wrong_are_shown_and_each_proposal_gets_its_own(tmp_path):
    search, script = a_search(tmp_path, answer=odd, one=task(train=100))
    pe2.run(search, pe2.Settings(rounds=1))
    batches = shown_rows(script)
    assert len(batches) == 4 and all(len(batch) == 2 for batch in batches)
    assert all(number % 2 for batch in batches for number in batch)
    assert len({number for batch in batches for number in batch}) == 8
    run = [one for one in script.of(TARGET) if "question t" in one.prompt]
    assert 8 < len(run) < 40  # until eight errors are found, and no further
    search, script = a_search(tmp_path, answer=odd, one=task(train=100))
    pe2.run(search, pe2.Settings(rounds=1, hard_negatives=False))
    assert {number % 2 for batch in shown_rows(script) for number in batch} == {0, 1}
    assert len([one for one in script.of(TARGET) if "question t" in one.prompt]) == 8


def test_the_look_for_errors_ends_at_its_bound_and_at_the_budget(tmp_path):
    for more, budget, run in (({"looked": 20}, None, 20), ({"looked": 100}, None, 40), ({}, 12 + 4 * 12 + 9, 8)):
        search, script = a_search(tmp_path, one=task(train=40), budget=budget)
        pe2.run(search, pe2.Settings(rounds=1, **more))
        assert len([one for one in script.of(TARGET) if "question t" in one.prompt]) == run
        assert len(search.candidates) == 5  # without an error it shows rows that go right
        assert all(len(batch) == 2 for batch in shown_rows(script))


def test_rows_known_to_go_wrong_need_not_be_run_again(tmp_path):
    def stuck(asked):
        return str(int("Start." in asked.prompt)) if "question d" in asked.prompt else "0"

    search, script = a_search(tmp_path, answer=stuck, one=task(train=100))
    assert pe2.run(search, pe2.Settings(beam=1)).text == "Start."
    assert {one.parents for one in search.candidates[1:]} == {("c0",)}
    assert len([one for one in script.of(TARGET) if "question t" in one.prompt]) == 8


# back-tracking


def test_a_prompt_of_round_0_can_be_refined_in_round_3(tmp_path):
    def answer(asked):  # the first instruction is the best, and of the others each is worse than the one before
        return "0" if "question t" in asked.prompt else str(1 / (1 + idea(asked)))

    for on in (True, False):
        search, _ = a_search(tmp_path, answer=answer)
        assert pe2.run(search, pe2.Settings(backtracking=on, **SMALL)).text == "Start."
        last = [by_id(search, one.parents[0]) for one in search.candidates if one.step == 3]
        assert ("Start." in {one.text for one in last}) == on
        assert {one.step for one in last} == ({0, 1} if on else {2})


# induced prompts


def test_induced_prompts_take_the_first_ones_place(tmp_path):
    search, script = a_search(tmp_path, one=task(train=30))
    pe2.run(search, pe2.Settings(initial="induced", induced=6, rounds=1))
    asked = script.of(OPTIMIZER, "# Infer")
    assert len({one.prompt for one in asked}) == 6 and all(
        len(prompts.tagged(one.prompt, "input")) == 5 for one in asked
    )
    assert [one.operator for one in search.candidates[:8]] == ["seed"] + ["induce"] * 6 + ["refine"]
    assert "c0" not in search.scores  # it is not in the pool
    assert {one.parents for one in search.candidates[7:]} == {(f"c{number}",) for number in (3, 4, 5, 6)}


def test_an_induced_prompt_over_the_limit_is_none_and_the_seed_is_left(tmp_path):
    search, _ = a_search(tmp_path, lambda number, asked: "很" * 51 if "Infer" in asked.prompt else fresh(number, asked))
    pe2.run(search, pe2.Settings(initial="induced", induced=3, rounds=1))
    assert search.counts.bad_replies == 6 and search.candidates[1].parents == ("c0",)


# replies that cannot be read


@pytest.mark.parametrize(
    "bad", ["", APOLOGY, "A better prompt.", "<instruction>cut off", "<instruction> </instruction>"]
)
def test_a_refinement_that_cannot_be_read_is_asked_for_again_and_left_out(tmp_path, bad):
    def write(number, asked):
        return bad if asked.prompt.startswith("# Refine") else "examined"

    search, script = a_search(tmp_path, write)
    assert pe2.run(search, pe2.Settings()).text == "Start." and len(search.candidates) == 1
    assert len(script.of(OPTIMIZER, "# Refine")) == 2 * 4 * 3 and search.counts.bad_replies == 24


@pytest.mark.parametrize("bad", ["", " \n", APOLOGY])
def test_an_examination_that_cannot_be_read_ends_its_conversation(tmp_path, bad):
    search, script = a_search(tmp_path, lambda number, asked: bad)
    assert pe2.run(search, pe2.Settings(rounds=1)).text == "Start."
    assert len(script.of(OPTIMIZER)) == 2 * 4 and not script.of(OPTIMIZER, "# Refine")


def test_the_conversation_goes_on_from_the_reply_that_could_be_read(tmp_path):
    def write(number, asked):
        return "" if asked.prompt.startswith("# Examine") and asked.sample % 2 == 0 else fresh(number, asked)

    search, script = a_search(tmp_path, write)
    pe2.run(search, pe2.Settings(rounds=1))
    assert len(search.candidates) == 5
    assert all(dict(one.earlier)["assistant"].startswith("Examined") for one in script.of(OPTIMIZER, "# Refine"))


# replay, and against chance


def test_a_search_that_was_stopped_goes_on_without_a_call_twice(tmp_path):
    def run(folder, stop=math.inf, known=None):
        def write(number, asked):
            return fresh(random.Random(repr(asked)).randint(0, 9999), asked)

        script = Script(write, hashed, known, stop)
        search, _ = scripted(tmp_path, None, None, script=script, seed=3, folder=tmp_path / folder)
        try:
            return pe2.run(search, pe2.Settings(history=True, **SMALL)), search, script
        except KeyboardInterrupt:
            return None, search, script

    whole, straight, script = run("straight")
    for stop in (5, 60, script.new - 1):
        none, _, first = run(f"stopped{stop}", stop)
        assert none is None and first.new == stop
        again, search, second = run(f"stopped{stop}", known=first.known)
        assert again == whole and first.new + second.new == script.new
        assert (search.counts, search.trace, search.scores) == (straight.counts, straight.trace, straight.scores)


def test_pe2_beats_random_search_and_needs_the_examples(tmp_path):
    """Golden check 15, at 400 target calls and eight draws of items; without examples it falls below."""
    settings, draws = pe2.Settings(rounds=20, **SMALL), range(1, 9)
    seeing = [found(pe2, settings, landed(tmp_path, draw, 400)) for draw in draws]
    blind = [found(pe2, settings, landed(tmp_path, draw, 400, blind=True)) for draw in draws]
    assert statistics.mean(seeing) > statistics.mean(chance(landed(tmp_path, draw, 400)) for draw in draws) + 0.05
    assert statistics.mean(seeing) > statistics.mean(blind) + 0.05
