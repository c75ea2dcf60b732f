"""ProTeGi with a curriculum: how difficult rows are, which are offered when, and that nothing else changes."""

import json
import math
import statistics
from itertools import count

import pytest
from pydantic import ValidationError
from search_script import chance, value

from bpo_utils import profile
from bpo_utils.chat import Calls
from bpo_utils.profile import Model
from bpo_utils.records import Reply
from bpo_utils.search import difficulty, landscape, likelihood, plan, prompts, schedule
from bpo_utils.search import gradients as part
from bpo_utils.search.evaluate import evaluate
from bpo_utils.search.methods import curriculum, protegi
from bpo_utils.search.plan import Plan, Sizes
from bpo_utils.search.state import BudgetSpent, Roles, Scored, Search, add, start
from bpo_utils.search.task import Mark, Row, Task

TARGET = Model(name="landscape", provider="landscape", model="l")
TEACHER = Model(name="stronger", provider="landscape", model="strong")
OPTIMIZER = Model(name="program", provider="program", model="phrases")
SCALED = {"beam": 2, "minibatch": 4, "max_expansion_factor": 4, "n_gradients": 3, "extra_rows": 6, "k": 2}
SCALED |= {"rounds": 3, "samples_per_eval": 4, "eval_rounds": 2, "eval_prompts_per_round": 4}
SMALL = curriculum.Settings(**SCALED)
FREE = curriculum.Settings(**SCALED, measurer="length")


class Script:
    """In the models' place: an optimizer that never repeats itself, a target whose answers say their worth."""

    def __init__(self, worth=None, rate=None):
        self.worth, self.rate = worth or (lambda text, row, asked: 0.0), rate
        self.batches, self.numbers = [], count()

    def __call__(self, requests, calls):
        self.batches.append(list(requests))
        return [Reply(self.reply(one)) for one in requests]

    def reply(self, asked):
        if asked.model != OPTIMIZER:
            text, row = asked.prompt.split("\n")
            return str(self.worth(text, row, asked))
        if asked.prompt.startswith("# Rate"):
            return self.rate(prompts.tagged(asked.prompt, "input")[0])
        tag = "reason" if asked.prompt.startswith("# Give") else "instruction"
        return f"<{tag}>Text {next(self.numbers)}.</{tag}>"

    def asked(self, heading):
        told = f"# {heading}"
        return [one for batch in self.batches for one in batch if one.prompt.startswith(told)]


def number(text):
    """The number of a row: `row 12` or t12."""
    return int("".join(letter for letter in text if letter.isdigit()))


def a_task(train=40, dev=4):
    sets = [tuple(Row(f"{name}{n}", f"row {offset + n}", "1.0") for n in range(size))
            for name, size, offset in (("t", train, 0), ("d", dev, 90_000), ("x", 2, 99_000))]  # fmt: skip
    metric = lambda row, text: Mark(float(text), text)  # noqa: E731
    return Task("scripted", "The model answers.", "Start.", *sets, metric, position="before")


def a_search(place, script=None, one=None, **more):
    return Search(one or a_task(), Roles(TARGET, OPTIMIZER, Calls(place / "calls.sqlite"), script or Script()), **more)


def by_number(rows):
    """Difficulty: the higher the number, the harder."""
    return {row.id: float(number(row.id)) for row in rows}


def shown(asked):
    """The numbers of the rows that a meta-prompt shows, in its order."""
    return [number(text.split("</input>")[0]) for text in prompts.tagged(asked.prompt, "example")]


# schedules


def test_the_share_of_rows_grows_as_published():
    assert [schedule.root(t, 6, 0.2) for t in range(7)] == pytest.approx(
        [0.200, 0.447, 0.600, 0.721, 0.825, 0.917, 1.000], abs=5e-4
    )
    assert [schedule.linear(t, 6, 0.2) for t in range(7)] == pytest.approx(
        [0.20, 0.33, 0.47, 0.60, 0.73, 0.87, 1.00], abs=5e-3
    )
    assert schedule.root(9, 6, 0.2) == schedule.linear(9, 6, 0.2) == 1
    assert schedule.root(3, 6, 0.2, power=1) == pytest.approx(schedule.linear(3, 6, 0.2))


def offered(scheduler, t, seen=(), **more):
    rows = a_task(train=12).train
    measurer = "self_paced" if scheduler == "band" else "length"
    settings = curriculum.Settings(scheduler=scheduler, measurer=measurer, **({"rounds": 4} | more))
    hard = {id: value / 11 for id, value in by_number(rows).items()}
    found = schedule.available(rows, hard, settings, t, seen, 1)
    assert sorted(row.id for part in found for row in part) == sorted(row.id for row in rows)
    return tuple([number(row.id) for row in part] for part in found)


def test_every_schedule_offers_what_it_says():
    assert [len(offered("linear", t)[0]) for t in (1, 2, 3, 4)] == [5, 8, 10, 12]
    assert [len(offered("root", t)[0]) for t in (1, 2, 3, 4)] == [7, 9, 11, 12]
    assert offered("linear", 1) == ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9, 10, 11])
    assert len(offered("linear", 1, growth=2)[0]) == 8
    assert [offered("one_pass", t)[0] for t in (1, 2, 4, 9)] == [[0, 1, 2], [3, 4, 5], [9, 10, 11], [9, 10, 11]]
    assert offered("one_pass", 2)[1] == [6, 7, 8, 9, 10, 11, 0, 1, 2]
    assert offered("band", 1)[0] == pytest.approx([5, 6, 4, 7, 3, 8], abs=1)
    assert set(offered("band", 1)[0]) == {3, 4, 5, 6, 7, 8}
    assert len(offered("band", 1, width=0.001)[0]) >= 1


def test_baby_steps_add_a_bucket_when_dev_does_not_improve():
    assert offered("baby_steps", 1, [0.5])[0] == [0, 1, 2]
    assert offered("baby_steps", 2, [0.5, 0.6])[0] == [0, 1, 2]
    assert offered("baby_steps", 2, [0.5, 0.5])[0] == [0, 1, 2, 3, 4, 5]
    assert offered("baby_steps", 4, [0.5, 0.5, 0.7, 0.6])[0] == list(range(9))
    assert offered("baby_steps", 9, [0.5] * 9)[0] == list(range(12))
    assert offered("baby_steps", 1, [0.5], buckets=2)[0] == [0, 1, 2, 3, 4, 5]


def test_the_controls_change_the_order_and_not_the_share():
    assert offered("linear", 1, order="hard_first")[0] == [11, 10, 9, 8, 7]
    drawn = offered("linear", 1, order="random")[0]
    assert len(drawn) == 5
    assert drawn not in ([0, 1, 2, 3, 4], [11, 10, 9, 8, 7])
    assert drawn == offered("linear", 1, order="random")[0]


def test_equals_are_ordered_by_id_and_never_by_their_place():
    rows = list(a_task().train)
    same = dict.fromkeys([row.id for row in rows], 1.0)
    line = difficulty.ordered(rows, same)
    assert line == difficulty.ordered(rows[::-1], same)
    assert line not in (rows, rows[::-1])
    assert difficulty.ordered(rows, same, hard_first=True) == line


def test_a_band_needs_shares():
    with pytest.raises(ValidationError, match="band needs a measurer"):
        curriculum.Settings(scheduler="band", measurer="length")


# measurers


def test_length_counts_words_in_both_languages():
    rows = [Row("a", "three words here", ""), Row("b", "今天天气很好", "")]
    assert difficulty.length(rows) == {"a": 3.0, "b": 6.0}


def test_the_error_rate_is_that_of_paraphrases(tmp_path):
    """Text 0 to 3 are the paraphrases; row n is right for the first n of them."""
    script = Script(lambda text, row, asked: float(text != "Start." and number(text) < number(row)))
    search = a_search(tmp_path, script, a_task(train=5))
    settings = curriculum.Settings(k=4)
    found = difficulty.measured(search, settings)
    assert [found[f"t{n}"] for n in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]
    cost = difficulty.cost(settings, 5)
    assert cost == Plan(20, 4) == Plan(search.counts.target_calls, search.counts.optimizer_calls)
    assert len([batch for batch in script.batches if batch[0].model == TARGET]) == 1


def test_samples_are_drawn_with_a_temperature_and_are_no_score(tmp_path):
    script = Script(lambda text, row, asked: float(asked.sample % 4 < number(row)))
    search = a_search(tmp_path, script, a_task(train=5), seed=3)
    settings = curriculum.Settings(k=4, runs="samples", measurer="error_rate")
    found = difficulty.measured(search, settings)
    assert [found[f"t{n}"] for n in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert (search.counts.target_calls, search.scores) == (20, {})
    (batch,) = script.batches
    assert {one.temperature for one in batch} == {0.7}
    assert len({(one.prompt, one.sample) for one in batch}) == 20
    with pytest.raises(BudgetSpent, match="20 target calls are wanted"):
        difficulty.measured(a_search(tmp_path, script, a_task(train=5), budget=19), settings)


def test_margin_and_entropy_look_at_what_was_read():
    votes = [Mark(1.0, "a"), Mark(0.0, "b"), Mark(0.0, "a"), Mark(0.0, "c")]
    assert difficulty.runs_say("margin", votes) == 0.5
    assert difficulty.runs_say("entropy", votes) == pytest.approx(1.5 * math.log(2) / math.log(4))
    assert difficulty.runs_say("entropy", [Mark(0.0, "a")] * 4) == difficulty.runs_say("margin", votes[:1]) == 0
    assert difficulty.runs_say("entropy", [Mark(0.0, letter) for letter in "abcd"]) == pytest.approx(1.0)


def test_a_teacher_is_asked_once_for_each_row(tmp_path):
    script = Script(lambda text, row, asked: float(asked.model == TEACHER and number(row) % 2))
    search = a_search(tmp_path, script, a_task(train=4))
    settings = curriculum.Settings(measurer="teacher", teacher=TEACHER)
    assert difficulty.measured(search, settings) == {"t0": 1.0, "t1": 0.0, "t2": 1.0, "t3": 0.0}
    assert search.counts.target_calls == 4 == difficulty.cost(settings, 4).target
    assert search.scores == {}
    with pytest.raises(ValueError, match="name a model as `teacher`"):
        difficulty.measured(search, curriculum.Settings(measurer="teacher"))


def test_without_a_teacher_the_optimizers_model_is_one(tmp_path):
    roles = Roles(
        TARGET, TEACHER, Calls(tmp_path / "calls.sqlite"), lambda requests, calls: [Reply("1")] * len(requests)
    )
    search = Search(a_task(train=4), roles)
    assert set(difficulty.measured(search, curriculum.Settings(measurer="teacher")).values()) == {0.0}


def test_ratings_are_read_and_what_is_none_is_in_the_middle(tmp_path):
    replies = ["<rating>5</rating>", "Sorry.", "<rating>9</rating>", "Well: <rating> 1 </rating>"]
    script = Script(rate=lambda text: replies[number(text)])
    search = a_search(tmp_path, script, a_task(train=4))
    settings = curriculum.Settings(measurer="rating")
    assert difficulty.measured(search, settings) == {"t0": 5.0, "t1": 3.0, "t2": 3.0, "t3": 1.0}
    assert difficulty.cost(settings, 4) == Plan(0, 4)
    assert search.counts.optimizer_calls == 4 + 2
    assert search.counts.bad_replies == 4


def test_the_program_rates(tmp_path):
    search = Search(landscape.task(6, 2, 2), Roles(TARGET, OPTIMIZER, Calls(tmp_path / "calls.sqlite")))
    found = difficulty.measured(search, curriculum.Settings(measurer="rating"))
    assert set(found.values()) <= {1.0, 2.0, 3.0, 4.0, 5.0}
    assert search.counts.bad_replies < 6


def test_the_log_probability_is_that_of_the_gold_text(tmp_path, monkeypatch):
    def scores(search, candidates, rows):
        (one,) = candidates
        found = {row.id: Scored(row.id, -number(row.id) / 8, row.gold, likelihood.READ, False) for row in rows}
        search.likelihoods[one.id] = found
        search.counts.target_calls += len(rows)
        return [0.0]

    monkeypatch.setattr(likelihood, "evaluate", scores)
    search = a_search(tmp_path, one=a_task(train=3))
    settings = curriculum.Settings(measurer="log_prob")
    assert difficulty.measured(search, settings) == {"t0": 0.0, "t1": 0.125, "t2": 0.25}
    assert search.counts.target_calls == difficulty.cost(settings, 3).target


def test_a_target_without_log_probabilities_says_so(tmp_path):
    with pytest.raises(ValueError, match="log-probabilities"):
        difficulty.measured(a_search(tmp_path), curriculum.Settings(measurer="log_prob"))


def test_self_pace_is_read_from_known_scores(tmp_path):
    search = a_search(tmp_path, Script(lambda text, row, asked: float(number(row) % 2 or text != "Start.")))
    rows, beam = search.task.train[:3], [start(search), add(search, "Other.", "edit")]
    evaluate(search, beam[:1], rows[:2])
    evaluate(search, beam[1:], rows[:1])
    before = search.counts.target_calls
    found = difficulty.self_paced(search, beam, rows)
    assert (found, search.counts.target_calls) == ({"t0": 0.5, "t1": 0.0, "t2": 0.5}, before)
    assert difficulty.self_paced(search, [start(search)], rows)["t0"] == 1.0
    assert difficulty.cost(curriculum.Settings(measurer="self_paced"), 60) == Plan(0, 0)


def test_measures_are_compared_by_rank():
    first = {"a": 1.0, "b": 2.0, "c": 9.0}
    measures = {
        "x": first,
        "y": {"a": 0.1, "b": 0.2, "c": 0.3},
        "z": {"a": 3.0, "b": 2.0, "c": 1.0},
        "same": dict.fromkeys("abc", 1.0),
    }
    found = difficulty.agreement(measures)
    assert (found["x, y"], found["x, z"]) == (pytest.approx(1.0), pytest.approx(-1.0))
    assert found["x, same"] is None
    assert json.dumps(found)


# what is offered


def offer(search, settings, easy, beam=None):
    rows = search.task.train
    return curriculum.offer(search, beam or [start(search)], rows[:easy], rows[easy:], settings)


def test_a_parent_with_too_few_errors_is_run_on_harder_rows(tmp_path):
    """Rows from 10 on are wrong: of the six easy rows none is, and four errors are wanted."""
    search = a_search(tmp_path, Script(lambda text, row, asked: float(number(row) < 10)))
    settings = SMALL.model_copy(update={"extra_rows": 30})
    wrong, rows = offer(search, settings, 6)
    assert [row.id for row in wrong["c0"]][:4] == ["t10", "t11", "t12", "t13"]
    assert {row.id for row in rows[:6]} == {f"t{n}" for n in range(6)}
    assert [row.id for row in rows[6:]] == [f"t{n}" for n in range(6, len(rows))]  # then harder ones, in order
    assert 14 <= len(rows) == search.counts.target_calls <= 4 + 30
    few, rows = offer(a_search(tmp_path, Script(lambda text, row, asked: float(number(row) < 10))), SMALL, 6)
    assert (few["c0"], len(rows)) == ([], 10)  # the minibatch of 4 and 6 extra rows


def test_only_the_parent_that_lacks_errors_is_run_on_more(tmp_path):
    search = a_search(tmp_path, Script(lambda text, row, asked: float(text == "Start.")))
    beam = [start(search), add(search, "Bad.", "edit")]
    wrong, rows = offer(search, SMALL, 40, beam)
    assert (len(wrong["c0"]), len(wrong["c1"])) == (0, 4)
    assert (len(search.scores["c0"]), len(search.scores["c1"]), len(rows)) == (10, 4, 10)


def test_with_errors_enough_no_more_is_run(tmp_path):
    search = a_search(tmp_path)
    wrong, rows = offer(search, SMALL, 20)
    assert len(rows) == len(wrong["c0"]) == search.counts.target_calls == 4
    assert {number(row.id) for row in rows} <= set(range(20))


def groups_of(search, settings, size=12):
    rows = search.rng.sample(search.task.train[:size], size)
    return [[number(row.id) for row in group] for group in curriculum.grouped(search, rows, by_number(rows), settings)]


def test_errors_are_cut_into_groups_the_easiest_first(tmp_path):
    search = a_search(tmp_path)
    assert groups_of(search, SMALL) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    many = groups_of(search, SMALL, 36)
    assert [len(group) for group in many] == [4, 4, 4]
    assert many == [sorted(group) for group in many]
    assert [max(group) // 12 for group in many] == [min(group) // 12 for group in many] == [0, 1, 2]
    assert groups_of(search, SMALL, 2) == [[0], [1]]
    assert groups_of(search, SMALL, 0) == []


def test_within_a_group_the_order_is_the_curriculums(tmp_path):
    search = a_search(tmp_path)
    found = groups_of(search, SMALL.model_copy(update={"variant": "within"}), 40)
    assert [len(group) for group in found] == [4, 4, 4]
    assert found == [sorted(group) for group in found]
    assert sorted(found) != found or max(found[0]) > min(found[1])  # the groups themselves are ProTeGi's, at random


def test_shuffled_has_the_same_rows_in_no_order(tmp_path):
    search = a_search(tmp_path)
    found = groups_of(search, SMALL.model_copy(update={"shuffled": True}))
    assert sorted(sum(found, [])) == list(range(12))
    assert found != [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert any(group != sorted(group) for group in found)


def test_sequential_edits_mend_what_the_edit_before_made(tmp_path):
    script = Script()
    curriculum.run(a_search(tmp_path, script), FREE.model_copy(update={"variant": "sequential", "rounds": 1}))
    reasons, edits = script.asked("Give"), script.asked("Improve")
    assert len(edits) == len(reasons) == 3
    asked = [prompts.tagged(one.prompt, "instruction")[0] for one in edits]
    assert asked[0] == "Start."
    assert asked[1:] == ["Text 3.", "Text 4."]  # the replies to the edits before
    assert [prompts.tagged(one.prompt, "reason") for one in edits] == [["Text 0."], ["Text 1."], ["Text 2."]]


def test_a_sequential_edit_that_fails_leaves_the_last_one(tmp_path):
    search = a_search(tmp_path)
    rows = search.task.train[:1]
    evaluate(search, [start(search)], rows)
    lines = [part.Wrong(start(search), list(rows), reason) for reason in ("First.", "Second.", "Third.")]
    search.roles.complete.reply = lambda asked: (
        "Sorry."
        if "Second." in asked.prompt
        else f"<instruction>By {prompts.tagged(asked.prompt, 'reason')[0]}</instruction>"
    )
    born = part.edits_in_turn(search, lines, SMALL)
    assert [(one.candidate.text, one.candidate.parents, one.parent.id) for one in born] == [
        ("By First.", ("c0",), "c0"),
        ("By Third.", ("c1",), "c0"),
    ]


def test_easy_rows_come_first_and_the_choice_looks_at_all_rows(tmp_path):
    """Inputs of more words are harder; in round 1 a third of the rows is there."""
    rows = tuple(Row(f"t{n}", " ".join(["row", str(n), *["word"] * n]), "1.0") for n in range(30))
    plain = a_task()
    one = Task("s", "Answer.", "Start.", rows, plain.dev, plain.test, plain.metric, position="before")
    script = Script()
    search = a_search(tmp_path, script, one)
    curriculum.run(search, FREE.model_copy(update={"scheduler": "linear", "n_gradients": 1}))
    numbers = [max(shown(asked)) for asked in script.asked("Give")]
    assert numbers[0] < 14
    assert max(numbers) >= 14
    chosen = {number(id) for scores in search.scores.values() for id in scores if id.startswith("t")}
    assert max(chosen) > 25
    first, *_, last = search.trace[:-1]
    assert (first["offered"], first["available"], first["labels"]) == (4, 14, {"1.0": 4})
    assert first["words"] == first["difficulty"] < last["words"] + 20
    assert last["available"] == 30
    json.dumps(search.trace)


# costs


@pytest.mark.parametrize(
    "more",
    [
        {"measurer": "error_rate"},
        {"measurer": "margin", "runs": "samples"},
        {"measurer": "self_paced", "variant": "sequential"},
        {"measurer": "teacher", "teacher": TEACHER},
        {"measurer": "length", "scheduler": "baby_steps"},
        {"measurer": "rating", "scheduler": "one_pass"},
    ],
    ids=lambda more: more["measurer"],
)
def test_the_planned_calls_are_reached(tmp_path, more):
    """Three rows are wrong for everybody, so that extra rows are run to the last; the newest instruction is best."""

    def worth(text, row, asked):
        return 0.99 if number(row) % 1000 < 3 else 1 + (0 if text == "Start." else number(text) / 1e6)

    settings = SMALL.model_copy(update=more)
    train, reached = 2000, []
    for seed in range(1, 5):
        script = Script(worth, lambda text: "<rating>2</rating>")
        sizes = Sizes(train, 4)
        search = a_search(tmp_path, script, a_task(train), seed=seed)
        curriculum.run(search, settings)
        most = curriculum.plan(settings, sizes)
        assert search.counts.target_calls <= most.target
        assert search.counts.optimizer_calls <= most.optimizer
        reached.append(search.counts.target_calls)
    assert most.target - max(reached) <= 2 * 6  # rows that were known already
    measuring, extra = difficulty.cost(settings, train), (1 + 2 + 2) * 6
    looks = 2 * 4 if settings.scheduler == "baby_steps" else 0
    plain = protegi.plan(settings, sizes)
    assert most.target == plain.target + measuring.target + extra + looks
    assert most.optimizer == plain.optimizer + measuring.optimizer


def test_the_default_costs_protegi_and_the_measurer():
    sizes = Sizes(400, 50)
    plain, most = protegi.plan(protegi.Settings(), sizes), curriculum.plan(curriculum.Settings(), sizes)
    assert most.target - plain.target == 400 * 4 + 21 * 64
    assert most.optimizer - plain.optimizer == 4


def test_a_budget_for_one_round_is_kept(tmp_path):
    for more in ({"measurer": "error_rate"}, {"measurer": "length", "scheduler": "baby_steps"}):
        settings = SMALL.model_copy(update=more)
        budget = curriculum.plan(settings.model_copy(update={"rounds": 1}), Sizes(40, 4)).target
        search = a_search(tmp_path, Script(lambda text, row, asked: float(number(row) > 3)), budget=budget)
        curriculum.run(search, settings)
        assert search.step >= 1
        assert search.counts.target_calls <= budget


# evidence


def on_landscape(place, seed, blind=False, **more):
    one = landscape.task(60, 24, 10)
    place.mkdir(exist_ok=True)
    search = Search(one, Roles(TARGET, OPTIMIZER, Calls(place / f"{seed}{blind}.sqlite")), seed, 480, blind=blind)
    scaled = SCALED | {"rounds": 6, "minibatch": 16, "n_gradients": 2, "samples_per_eval": 8, "extra_rows": 16, "k": 1}
    settings = plan.fitted(curriculum, curriculum.Settings(**(scaled | more)), Sizes(60, 24), 480)
    return search, curriculum.run(search, settings)


def test_without_evidence_it_does_worse(tmp_path):
    seen, blind = (
        [landscape.value(landscape.phrases_in(on_landscape(tmp_path, seed, hidden)[1].text)) for seed in range(1, 7)]
        for hidden in (False, True)
    )
    assert statistics.mean(seen) > statistics.mean(blind) + 0.1


def test_the_same_seed_goes_the_same_way(tmp_path):
    first, second = (on_landscape(tmp_path / name, 2, measurer="self_paced")[0] for name in "ab")
    assert first.candidates == second.candidates
    assert first.trace == second.trace


def test_malformed_replies_give_no_child_and_no_endless_loop(tmp_path):
    script = Script(rate=lambda text: "?")
    script.reply = lambda asked: "0.0" if asked.model == TARGET else "I'm sorry, I can't."
    for measurer in ("error_rate", "rating"):
        for variant in ("consecutive", "sequential"):
            settings = SMALL.model_copy(update={"measurer": measurer, "variant": variant})
            search = a_search(tmp_path, script)
            assert curriculum.run(search, settings).text == "Start."
            assert len(search.candidates) == 1


def test_it_beats_random_search_and_needs_the_examples(tmp_path):
    """480 target calls, the profile's settings."""
    settings = curriculum.Settings.model_validate(profile.load("mini").searching.settings["curriculum"])
    roles = Roles(Model(name="landscape", provider="landscape", model="l"), OPTIMIZER, Calls(tmp_path / "calls.sqlite"))
    worth = {"seen": [], "blind": [], "random": []}
    for seed in range(1, 7):
        task = landscape.task(60, 24, 1, seed)
        chosen = plan.fitted(curriculum, settings, Sizes(len(task.train), len(task.dev)), 480)
        for name in ("seen", "blind"):
            worth[name].append(value(curriculum.run(Search(task, roles, seed, 480, blind=name == "blind"), chosen)))
        worth["random"].append(chance(Search(task, roles, seed, 480), seeded=False))
    means = {name: statistics.mean(values) for name, values in worth.items()}
    assert means["seen"] > means["random"] and means["seen"] > means["blind"], means
