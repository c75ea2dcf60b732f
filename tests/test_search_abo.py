"""ABO: procedures and demonstrations are checked, the failing step alone is rewritten, and what it costs."""

import math
import random
import re
import statistics

import pytest
from search_script import APOLOGY, OPTIMIZER, TARGET, Script, chance, found, hashed, landed, scripted, sizes, task

from bpo_utils.search import evidence, landscape, procedures, prompts
from bpo_utils.search.evaluate import request
from bpo_utils.search.methods import abo
from bpo_utils.search.plan import Plan, Sizes
from bpo_utils.search.state import by_id
from bpo_utils.search.task import Row

STEPS = {"# Write": "steps", "# Demo": "demonstrate", "# Find": "locate", "# Deco": "refine", "# Renew": "renew"}
ROW = Row("t1", "question t1", "gold 1")


def current(asked):
    return prompts.tagged(asked.prompt, "instruction")[0]


def demonstration(procedure, answer="1", order=None):
    order = order or [number for number in procedures.parts(procedure) if number]
    told = [f"Step {number}: done." for number in order]
    return f"<demonstration>\n{chr(10).join([*told, f'Answer: {answer}'])}\n</demonstration>"


def fresh(number, asked):
    """An optimizer that never repeats itself, and keeps to the form."""
    kind = next(kind for heading, kind in STEPS.items() if asked.prompt.startswith(heading))
    if kind == "steps":
        return "<instruction>\n1. Read it.\n2. Think.\n3. Answer.\n</instruction>"
    if kind == "locate":
        return f"<step>2</step><correction>Think {number} times.</correction>"
    if kind == "refine":
        return f"<instruction>{re.sub('2[.].*', f'2. Think of idea {number}.', current(asked))}</instruction>"
    return demonstration(current(asked))


def wrong(asked):
    """Wrong on train rows, on dev rows right where the prompt was refined."""
    last = asked.prompt.rpartition("question ")[2]
    return "0" if last.startswith("t") else str(int("idea" in asked.prompt))


def a_search(place, write=fresh, answer=wrong, **more):
    return scripted(place, write, answer, **more)


# golden check 13


def test_dropping_the_demonstration_changes_the_rendered_request(tmp_path):
    search, _ = a_search(tmp_path)
    best = abo.run(search, abo.Settings())
    row = search.task.dev[0]
    whole = request(search, best, row)
    bare = request(search, type(best)(**{**vars(best), "demo": ""}), row)
    assert best.demo and whole.prompt == f"{best.demo}\n\n{bare.prompt}" and whole != bare
    (shown,) = [row for row in search.task.train if best.demo.startswith(f"Input: {row.input}\n")]
    assert shown.id not in {row.id for part in (search.task.dev, search.task.test) for row in part}


def test_the_demonstrations_row_is_the_same_throughout_and_is_never_run(tmp_path):
    search, script = a_search(tmp_path)
    abo.run(search, abo.Settings(rounds=4, shown=20))
    (shown,) = {
        prompts.tagged(one.prompt, "input")[0]
        for one in script.of(OPTIMIZER, "# Demo") + script.of(OPTIMIZER, "# Renew")
    }
    assert len({one.demo.partition("\n")[0] for one in search.candidates[1:]}) == 1
    assert shown.startswith("question t")
    assert not [one for one in script.of(TARGET) if one.prompt.endswith(shown)]
    assert shown not in prompts.tagged(script.of(OPTIMIZER, "# Write")[0].prompt, "input")
    train = {
        one.prompt.rpartition("\n")[2] for one in script.of(TARGET) if "question t" in one.prompt.rpartition("\n")[2]
    }
    assert len(train) == 9


# what it costs


def test_the_plan_counts_start_batches_and_dev():
    assert abo.plan(abo.Settings(), Sizes(100, 100)) == Plan(2 * 100 + 2 * (32 + 100), 2 + 2 * (4 + 1 + 1))
    assert abo.plan(abo.Settings(keep_seed=False), Sizes(100, 100)).target == 100 + 2 * 132
    assert abo.plan(abo.Settings(demonstration=False), Sizes(100, 100)).optimizer == 1 + 2 * 5
    assert abo.plan(abo.Settings(renewed=False), Sizes(100, 100)).optimizer == 2 + 2 * 5
    assert abo.plan(abo.Settings(candidates=3), Sizes(20, 100)) == Plan(200 + 2 * (19 + 300), 2 + 2 * 10)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"candidates": 3},
        {"demonstration": False},
        {"renewed": False},
        {"keep_seed": False},
        {"rounds": 1, "batch": 4},
    ],
)
def test_a_search_uses_what_was_planned_if_nothing_repeats_and_all_goes_wrong(tmp_path, more):
    settings = abo.Settings(**more)
    search, _ = a_search(tmp_path)
    abo.run(search, settings)
    planned = abo.plan(settings, sizes(search))
    assert (search.counts.target_calls, search.counts.optimizer_calls) == (planned.target, planned.optimizer)


def test_no_search_uses_more_than_was_planned(tmp_path):
    """Random settings, an optimizer that repeats itself, apologizes or says nothing, answers at random."""
    rng = random.Random(1)

    def write(number, asked):
        return rng.choice(["", APOLOGY, *[fresh(rng.randint(0, 5), asked)] * 2, fresh(number, asked)])

    for _ in range(60):
        drawn = {"rounds": rng.randint(1, 4), "batch": rng.randint(1, 12), "located": rng.randint(1, 6)}
        drawn |= {"candidates": rng.randint(1, 3), "accept": rng.choice(["always", "not_worse"])}
        drawn |= {name: rng.random() < 0.7 for name in ("demonstration", "renewed", "keep_seed")}
        settings = abo.Settings(**drawn)
        one = task(dev=rng.randint(1, 9), train=rng.randint(1, 12))
        search, _ = a_search(tmp_path, write, rng.choice([hashed, wrong]), one=one, seed=rng.random())
        planned = abo.plan(settings, sizes(search))
        search.budget = max(2 * len(one.dev), planned.target - rng.randint(0, planned.target // 2))
        abo.run(search, settings)
        assert search.counts.target_calls <= planned.target, drawn
        assert search.counts.optimizer_calls <= planned.optimizer * search.tries, drawn


# procedures and demonstrations


def test_a_procedure_is_read_with_the_parts_inside_its_steps():
    text = "Do this:\n1. Read.\n   a) Twice.\n  2. not a step\n2. Think.\n2.1 Also this.\n3. 回答。"
    assert procedures.parts(text) == {
        0: "Do this:",
        1: "Read.\n   a) Twice.\n  2. not a step",
        2: "Think.\n2.1 Also this.",
        3: "回答。",
    }
    assert procedures.parts("1、看。\n2）想。") == {0: "", 1: "看。", 2: "想。"}
    for bad in ("", "Think.", "2. Think.", "1. Read.\n3. Think.", "1. Read.\n1. Think."):
        assert procedures.parts(bad) == {} and procedures.written(f"<instruction>{bad}</instruction>") == ""
    assert procedures.written("<instruction>1. Only one.</instruction>") == ""
    assert procedures.written("1. Read.\n2. Think.") == "" and procedures.written(APOLOGY) == ""


@pytest.mark.parametrize(
    ("new", "taken"),
    [
        ("1. Read.\n2. Think.\n   a) First.\n   b) Then.\n3. Answer.", True),
        ("1.  Read.\n2. Think more.\n\n3. Answer.", True),  # white space is no change
        ("1. Read it.\n2. Think more.\n3. Answer.", False),
        ("1. Read.\n2. Think.\n3. Answer.", False),  # nothing has changed
        ("1. Read.\n2. Think.\n3. Answer well.", False),
        ("1. Read.\n2. Think.\n3. Then.\n4. Answer.", False),
        ("1. Read.\n2. Think more. Answer.", False),
        ("1. Read.\n2. Think more.\n3. Answer.\n4. Stop.", False),
        ("Well:\n1. Read.\n2. Think more.\n3. Answer.", False),
    ],
)
def test_only_the_failing_step_may_change(new, taken):
    text = procedures.refined(f"<instruction>{new}</instruction>", "1. Read.\n2. Think.\n3. Answer.", 2)
    assert text == (new if taken else "")


@pytest.mark.parametrize(
    ("reply", "taken"),
    [
        ("<demonstration>Step 1: read.\nStep 2: thought.\nAnswer: 1</demonstration>", True),
        ("<demonstration>Step 1: Answer: 0?\nStep 2: so\nAnswer: 1.0</demonstration>", True),  # the last one counts
        ("<demonstration>**Step 1:** read.\n- Step 2: 想。\n**Answer：** 1</demonstration>", True),
        ("<demonstration>Step 1: read.\nStep 2: thought.\nAnswer: 0</demonstration>", False),
        ("<demonstration>Step 1: read.\nStep 2: thought.\n1</demonstration>", False),
        ("<demonstration>Step 1: read.\nAnswer: 1</demonstration>", False),
        ("<demonstration>Step 2: thought.\nStep 1: read.\nAnswer: 1</demonstration>", False),
        ("<demonstration>Step 1: a\nStep 2: b\nStep 3: c\nAnswer: 1</demonstration>", False),
        ("Step 1: read.\nStep 2: thought.\nAnswer: 1", False),
        (APOLOGY, False),
    ],
)
def test_a_demonstration_has_every_step_in_order_and_the_right_answer(reply, taken):
    text = procedures.worked(reply, "1. Read.\n2. Think.", task(), ROW)
    assert bool(text) == taken and (not text or text.startswith("Input: question t1\n"))


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("Step two fails. <step>2</step>\n<correction>Count again.</correction>", (2, "Count again.")),
        ("<step>4</step><correction>x</correction>", None),
        ("<step>0</step><correction>x</correction>", None),
        ("<step>two</step><correction>x</correction>", None),
        ("<step>2</step>", None),
        ("<correction>x</correction>", None),
        (APOLOGY, None),
    ],
)
def test_a_failing_step_is_one_of_the_procedure_with_its_correction(reply, read):
    assert procedures.located(reply, "1. Read.\n2. Count.\n3. Answer.") == read


def test_a_wrong_demonstration_is_asked_for_again(tmp_path):
    def write(number, asked):
        kind = asked.prompt[:6]
        return (
            demonstration(current(asked), "0")
            if kind in ("# Demo", "# Rene") and not asked.sample % 2
            else fresh(number, asked)
        )

    search, script = a_search(tmp_path, write)
    assert abo.run(search, abo.Settings(rounds=1)).demo.endswith("Answer: 1")
    assert len(script.of(OPTIMIZER, "# Demo")) == len(script.of(OPTIMIZER, "# Renew")) == 2
    assert search.counts.bad_replies == 2


def test_without_a_right_demonstration_the_procedure_goes_alone_and_the_next_round_tries_again(tmp_path):
    def write(number, asked):
        late = "idea" in asked.prompt
        return (
            demonstration(current(asked), "0")
            if asked.prompt.startswith("# Demo") and not late
            else fresh(number, asked)
        )

    search, script = a_search(tmp_path, write)
    best = abo.run(search, abo.Settings(rounds=1))
    assert [bool(one.demo) for one in search.candidates] == [False, False, True] and best.demo
    assert not script.of(OPTIMIZER, "# Renew")  # there was none to renew


def test_a_demonstration_is_told_the_form_of_answers(tmp_path):
    search, script = a_search(tmp_path, one=task(form="Write a number."))
    abo.run(search, abo.Settings(rounds=1))
    asked = script.of(OPTIMIZER, "# Demo") + script.of(OPTIMIZER, "# Renew")
    assert len(asked) == 2 and all("told for its answer: Write a number. Do not" in one.prompt for one in asked)


# a round


def test_the_step_that_fails_most_often_is_rewritten_by_its_own_corrections(tmp_path):
    for votes, expected in (([1, 3, 3, 2], 3), ([2, 1, 2, 1], 1), ([3, 9, 9, 9], 3)):
        given = iter(votes * 2)

        def write(number, asked, given=given, expected=expected):
            if asked.prompt.startswith("# Find"):
                step = next(given)
                return f"<step>{step}</step><correction>Mend {step}.</correction>"
            if asked.prompt.startswith("# Deco"):
                return f"<instruction>{current(asked).replace(f'{expected}. ', f'{expected}. Mended: ')}</instruction>"
            return fresh(number, asked)

        search, script = a_search(tmp_path, write)
        abo.run(search, abo.Settings(rounds=1))
        (asked,) = script.of(OPTIMIZER, "# Deco")
        assert f"fails at step <step>{expected}</step>" in asked.prompt
        assert set(prompts.tagged(asked.prompt, "correction")) == {f"Mend {expected}."}
        assert search.candidates[-1].operator == f"refine step {expected}" and "Mended" in search.candidates[-1].text


def test_each_wrong_row_is_looked_at_alone_with_the_whole_output(tmp_path):
    search, script = a_search(tmp_path)
    abo.run(search, abo.Settings(rounds=1, located=3))
    asked = script.of(OPTIMIZER, "# Find")
    assert len(asked) == 3 == len({one.prompt for one in asked}) and {one.temperature for one in asked} == {0.0}
    for one in asked:
        assert len(prompts.tagged(one.prompt, "example")) == 1 and prompts.tagged(one.prompt, "output") == ["0"]
    assert [len(batch) for batch in script.batches if batch[0].model == OPTIMIZER] == [1, 1, 3, 1, 1]


def test_a_round_without_an_error_changes_nothing(tmp_path):
    search, script = a_search(tmp_path, answer=lambda asked: "1")
    assert abo.run(search, abo.Settings(rounds=9)).text == "Start."  # of equals the older
    assert len(script.of(OPTIMIZER)) == 2 and len(search.candidates) == 2


def test_a_drop_on_dev_counts_or_not(tmp_path):
    def worse(asked):
        last = asked.prompt.rpartition("question ")[2]
        return "0" if last.startswith("t") else str(int("idea" not in asked.prompt))

    for accept, parents in (("always", ["c1", "c2"]), ("not_worse", ["c1", "c1"])):
        search, _ = a_search(tmp_path, answer=worse)
        best = abo.run(search, abo.Settings(accept=accept, keep_seed=False))
        assert [one.parents[0] for one in search.candidates[2:]] == parents and best.id == "c1"


def test_the_best_of_several_rewrites_goes_on(tmp_path):
    def best_second(asked):
        last, third = asked.prompt.rpartition("question ")[2], "idea 12" in asked.prompt
        return "0" if last.startswith("t") else "0.9" if third else "0.5"

    numbers = iter(range(11, 99))

    def write(number, asked):
        return fresh(next(numbers) if asked.prompt.startswith("# Deco") else number, asked)

    search, _ = a_search(tmp_path, write, best_second)
    assert "idea 12" in abo.run(search, abo.Settings(candidates=3)).text
    assert {by_id(search, one.parents[0]).text for one in search.candidates if one.step == 2} == {
        search.candidates[3].text
    }


def test_variants_of_the_demonstration(tmp_path):
    search, script = a_search(tmp_path)
    abo.run(search, abo.Settings(demonstration=False))
    assert not [one for one in search.candidates if one.demo] and not script.of(OPTIMIZER, "# Demo")
    search, script = a_search(tmp_path)
    abo.run(search, abo.Settings(renewed=False))
    assert len({one.demo for one in search.candidates[1:]}) == 1 and not script.of(OPTIMIZER, "# Renew")
    search, script = a_search(tmp_path)
    abo.run(search, abo.Settings())
    for one, child in zip(script.of(OPTIMIZER, "# Renew"), search.candidates[2:], strict=True):
        assert prompts.tagged(one.prompt, "demonstration")[0] == by_id(search, child.parents[0]).demo
        assert current(one) == child.text


def test_the_prompts_length_is_logged_in_every_round(tmp_path):
    def longer(number, asked):
        return (
            fresh(number, asked).replace("idea", f"idea and {'more and ' * len(current(asked))}")
            if "# Deco" in asked.prompt
            else fresh(number, asked)
        )

    told = []
    search, _ = a_search(tmp_path, longer, tell=told.append)
    abo.run(search, abo.Settings())
    lengths = [row["prompt_tokens"] for row in search.trace]
    assert len(lengths) == 3 and lengths == sorted(set(lengths))
    assert [f"step {step}: c{step + 1} has about {tokens} tokens" for step, tokens in enumerate(lengths)] == told


# replies that cannot be read, and no evidence


@pytest.mark.parametrize(
    "bad", ["", APOLOGY, "1. Read.\n2. Think.", "<instruction>1. Read.\n2. Think.", "<instruction>Go.</instruction>"]
)
def test_without_a_procedure_the_first_instruction_stays(tmp_path, bad):
    search, script = a_search(tmp_path, lambda number, asked: bad)
    assert abo.run(search, abo.Settings()).text == "Start." and len(script.of(OPTIMIZER)) == 2
    assert search.counts.target_calls == 0


@pytest.mark.parametrize("kind", ["# Find", "# Deco"])
@pytest.mark.parametrize(
    "bad", ["", APOLOGY, "<step>7</step>", "<instruction>1. All.\n2. New.\n3. Here.</instruction>"]
)
def test_a_round_whose_replies_cannot_be_read_has_no_child(tmp_path, kind, bad):
    search, script = a_search(
        tmp_path, lambda number, asked: bad if asked.prompt.startswith(kind) else fresh(number, asked)
    )
    abo.run(search, abo.Settings())
    assert len(search.candidates) == 2 and search.counts.bad_replies == len(script.of(OPTIMIZER, kind)) > 2


def test_a_blind_search_shows_no_row_not_even_in_the_demonstration(tmp_path):
    search, script = a_search(tmp_path, blind=True)
    abo.run(search, abo.Settings())
    assert all(evidence.NOTHING in one.prompt for one in script.of(OPTIMIZER) if not one.prompt.startswith("# Deco"))
    assert not [one for one in script.of(OPTIMIZER) if "question" in one.prompt.replace("Input: question", "")]


# replay, and against chance


def test_a_search_that_was_stopped_goes_on_without_a_call_twice(tmp_path):
    def run(folder, stop=math.inf, known=None):
        script = Script(
            lambda number, asked: fresh(random.Random(repr(asked)).randint(0, 9999), asked), wrong, known, stop
        )
        search, _ = scripted(tmp_path, None, None, script=script, seed=3, folder=tmp_path / folder)
        try:
            return abo.run(search, abo.Settings(candidates=2)), search, script
        except KeyboardInterrupt:
            return None, search, script

    whole, straight, script = run("straight")
    for stop in (5, 60, script.new - 1):
        none, _, first = run(f"stopped{stop}", stop)
        assert none is None and first.new == stop
        again, search, second = run(f"stopped{stop}", known=first.known)
        assert again == whole and first.new + second.new == script.new
        assert (search.counts, search.trace, search.scores) == (straight.counts, straight.trace, straight.scores)


@pytest.mark.parametrize("more", [{}, {"demonstration": False}])
def test_abo_beats_random_search_and_needs_the_examples(tmp_path, more):
    """Golden check 15, at 400 target calls and eight draws of items; without examples it falls below."""
    settings, draws = abo.Settings(rounds=10, batch=16, **more), range(1, 9)
    seeing = [found(abo, settings, landed(tmp_path, draw, 400)) for draw in draws]
    blind = [found(abo, settings, landed(tmp_path, draw, 400, blind=True)) for draw in draws]
    assert statistics.mean(seeing) > statistics.mean(chance(landed(tmp_path, draw, 400)) for draw in draws) + 0.05
    assert statistics.mean(seeing) > statistics.mean(blind) + 0.05


def test_on_the_landscape_the_demonstrations_answer_is_right(tmp_path):
    search = landed(tmp_path, 1, 400)
    abo.run(search, abo.Settings())
    (demo, *_) = [one.demo for one in search.candidates if one.demo]
    item = demo.partition("\n")[0].removeprefix("Input: ")
    assert demo.endswith(f"Answer: did: {landscape.need(item)}")
