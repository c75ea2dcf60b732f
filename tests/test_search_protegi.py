"""ProTeGi: its expansion, its costs, what it shows, and that it is led by what it is shown."""

import random
import statistics
from itertools import count

import pytest
from search_script import chance

from bpo_utils.chat import Calls
from bpo_utils.profile import Model
from bpo_utils.records import Reply
from bpo_utils.search import gradients as part
from bpo_utils.search import landscape, plan, prompts
from bpo_utils.search.evaluate import evaluate, mean
from bpo_utils.search.methods import protegi
from bpo_utils.search.plan import Plan, Sizes
from bpo_utils.search.state import Roles, Search, add, start
from bpo_utils.search.task import Mark, Row, Task

TARGET = Model(name="landscape", provider="landscape", model="l")
OPTIMIZER = Model(name="program", provider="program", model="phrases")
KINDS = {"Give": "reason", "Improve": "edit", "Paraphrase": "paraphrase"}
SMALL = protegi.Settings(
    rounds=3, beam=3, minibatch=4, max_expansion_factor=5, samples_per_eval=4, eval_rounds=3, eval_prompts_per_round=4
)
MINI = {"beam": 2, "minibatch": 16, "n_gradients": 2, "max_expansion_factor": 4}
MINI |= {"samples_per_eval": 8, "eval_rounds": 2, "eval_prompts_per_round": 4}


class Script:
    """In the models' place: an optimizer that never repeats itself, and a target whose answers say their worth.

    `worth(instruction, row)`; `write(kind, number)`: what the optimizer replies. Keeps the batches.
    """

    def __init__(self, worth=None, write=None):
        self.worth, self.write = worth or (lambda text, row: 0.0), write or self.fresh
        self.batches, self.numbers = [], count()

    def __call__(self, requests, calls):
        self.batches.append(list(requests))
        return [Reply(self.reply(one)) for one in requests]

    def reply(self, asked):
        if asked.model == OPTIMIZER:
            return self.write(kind(asked), next(self.numbers))
        text, row = asked.prompt.split("\n")
        return str(self.worth(text, row))

    def fresh(self, what, number):
        tag = "reason" if what == "reason" else "instruction"
        return f"<{tag}>Text {number}.</{tag}>"

    def asked(self, what):
        return [one for batch in self.batches for one in batch if one.model == OPTIMIZER and kind(one) == what]


def kind(asked):
    return KINDS[asked.prompt.split()[1]]


def a_task(train=3000, dev=20):
    sets = [tuple(Row(f"{name}{n}", f"row {name}{n}", "1.0") for n in range(size)) for name, size in
            (("t", train), ("d", dev), ("x", 2))]  # fmt: skip
    metric = lambda row, text: Mark(float(text), text)  # noqa: E731
    return Task("scripted", "The model answers.", "Start.", *sets, metric, position="before")


def a_search(place, script, one=None, **more):
    return Search(one or a_task(), Roles(TARGET, OPTIMIZER, Calls(place / "calls.sqlite"), script), **more)


def on_landscape(place, seed, blind=False, budget=480, settings=None):
    place.mkdir(exist_ok=True)
    one = landscape.task(60, 24, 10)
    search = Search(one, Roles(TARGET, OPTIMIZER, Calls(place / f"{seed}{blind}.sqlite")), seed, budget, blind=blind)
    fitted = plan.fitted(protegi, settings or protegi.Settings(**MINI), Sizes(60, 24), budget)
    return search, protegi.run(search, fitted)


def noise(text, row):
    return random.Random(f"{text} {row}").random() * 0.9


# costs


def test_the_costs_are_the_published_ones():
    settings = protegi.Settings()
    assert protegi.asked(settings) == (13, 18)
    assert protegi.children(settings) == 14
    assert protegi.arms(settings, 4) == 36
    whole = protegi.plan(settings, Sizes(train=400, dev=50))
    assert whole == Plan(target=13_632 + 5 * 50, optimizer=378)
    parents = whole.optimizer // protegi.asked(settings)[1]
    assert (parents, parents * protegi.asked(settings)[0]) == (21, 273)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"selector": "ucb_e"},
        {"selector": "bf", "samples_per_eval": 9, "eval_rounds": 6, "eval_prompts_per_round": 4},
        {"reject_on_errors": True},
        {"gradients_per_error": 2, "steps_per_gradient": 2},
        {"seeds": ["Other start.", "Third start."]},
    ],
    ids=str,
)
def test_the_planned_calls_are_reached_by_an_optimizer_that_never_repeats_itself(tmp_path, more):
    settings = SMALL.model_copy(update=more)
    script = Script(noise)
    if "gradients_per_error" in more:
        script.write = lambda what, n: "".join(
            script.fresh(what, f"{n} {i}") for i in range(1 + (what != "paraphrase"))
        )
    used = []
    for seed in (1, 2, 3):  # where a parent's rows are drawn again, they cost nothing
        search = a_search(tmp_path, script, seed=seed)
        protegi.run(search, settings)
        used.append(Plan(search.counts.target_calls, search.counts.optimizer_calls))
    most = protegi.plan(settings, Sizes(3000, 20))
    assert max(one.target for one in used) == most.target
    assert {one.optimizer for one in used} == {most.optimizer}


@pytest.mark.parametrize("selector", ["bf", "ucb", "ucb_e", "sr", "s_sr", "sh"])
@pytest.mark.parametrize("released", [False, True])
def test_no_selector_passes_the_plan(tmp_path, selector, released):
    settings = SMALL.model_copy(update={"selector": selector, "released": released})
    search = a_search(tmp_path, Script(noise))
    found = protegi.run(search, settings)
    assert search.counts.target_calls <= protegi.plan(settings, Sizes(3000, 20)).target
    assert found.operator in ("edit", "paraphrase")


def test_a_budget_is_kept_and_its_rounds_are_run(tmp_path):
    for rounds in (1, 2, 3):
        settings = SMALL.model_copy(update={"rounds": rounds})
        budget = protegi.plan(settings, Sizes(3000, 20)).target
        search = a_search(tmp_path, Script(noise), budget=budget)
        protegi.run(search, SMALL)
        assert (search.step, search.counts.target_calls) == (rounds, budget)


def test_the_optimizer_gets_one_batch_of_each_kind_in_a_round(tmp_path):
    script = Script(noise)
    protegi.run(a_search(tmp_path, script), SMALL)
    batches = [{kind(one) for one in batch} for batch in script.batches if batch[0].model == OPTIMIZER]
    assert batches == [{"reason"}, {"edit"}, {"paraphrase"}] * 3


# expansion


def test_a_parent_has_14_children_of_which_8_stay(tmp_path):
    script = Script()
    search = a_search(tmp_path, script)
    rows = search.task.train[:8]
    parents = [start(search), *(add(search, f"Parent {number}.", "edit") for number in range(3))]
    evaluate(search, parents, rows)
    settings = protegi.Settings()
    groups = [part.Wrong(one, group) for one in parents for group in protegi.drawn(search, rows, settings)]
    pool = protegi.expand(search, parents, groups, {one.id: list(rows) for one in parents}, settings)
    assert len(search.candidates) == 4 + 4 * 14
    assert len(pool) == 36
    assert pool[-4:] == parents
    born = [one for one in search.candidates if one.operator != "seed" and one not in parents]
    family = {one.id: one.id for one in parents}
    for one in born:
        family[one.id] = family[one.parents[0]]
    assert [sum(family[one.id] == parent.id for one in pool) for parent in parents] == [9] * 4
    assert {one.meta.partition("@")[0] for one in born} == {"protegi_edit", "protegi_paraphrase"}


def test_reasons_are_asked_on_groups_of_four_errors_of_a_shared_minibatch(tmp_path):
    script = Script(lambda text, row: float(row.endswith(("1", "3", "5", "7", "9"))))
    search = a_search(tmp_path, script)
    settings = protegi.Settings(rounds=2, beam=2, minibatch=40)
    protegi.run(search, settings)
    asked = script.asked("reason")
    assert len(asked) == (1 + 2) * 4
    for one in asked:
        shown = prompts.tagged(one.prompt, "example")
        assert len(shown) == 4
        assert all(text.split("</input>")[0].strip()[-1] in "02468" for text in shown)
        assert all("<output>\n0.0\n" in text and "<reference>\n1.0\n" in text for text in shown)
    assert len({one.prompt for one in asked[:4]}) == 4
    last = max(number for number, batch in enumerate(script.batches) if batch[0] in asked)
    first = script.batches[last - 1]  # parents of round 2 on its minibatch
    by_text = {}
    for one in first:
        text, row = one.prompt.split("\n")
        by_text.setdefault(text, set()).add(row)
    assert len(by_text) == 2
    assert all(len(rows) > 30 for rows in by_text.values())  # but for rows that were known already
    assert len(set().union(*by_text.values())) <= 40


def test_an_edit_sees_the_reason_and_the_errors_that_it_came_from(tmp_path):
    script = Script(noise)
    protegi.run(a_search(tmp_path, script), SMALL.model_copy(update={"rounds": 1}))
    reasons, edits = script.asked("reason"), script.asked("edit")
    assert len(reasons) == len(edits) == 4
    for number, (reason, edit) in enumerate(zip(reasons, edits, strict=True)):
        assert prompts.tagged(edit.prompt, "reason") == [f"Text {number}."]
        assert prompts.tagged(edit.prompt, "example") == prompts.tagged(reason.prompt, "example")


def test_without_errors_no_reason_is_asked_and_parents_stay(tmp_path):
    script, said = Script(lambda text, row: float(text == "Start.")), []
    search = a_search(tmp_path, script, tell=said.append)
    assert protegi.run(search, SMALL).text == "Start."
    asked = [prompts.tagged(one.prompt, "instruction")[0] for one in script.asked("reason")]
    assert len(asked) == 2 * 2 * 4  # of two paraphrases in rounds 2 and 3, which are wrong on all
    assert "Start." not in asked
    assert len(script.asked("edit")) == 2 * 2 * 4
    assert len(script.asked("paraphrase")) == 2 + 2 * (2 * 5 + 1) * 2
    assert "no reason is asked" in said[0]


def test_the_children_that_mend_the_errors_are_kept(tmp_path):
    """With reject_on_errors; Text 7 and 9 are right where the seed is wrong."""
    good = ("Text 7.", "Text 9.")
    for reject, kept in ((True, 2), (False, None)):
        search = a_search(tmp_path, Script(lambda text, row: float(text in good)))
        settings = protegi.Settings(max_expansion_factor=2, reject_on_errors=reject, minibatch=20)
        rows = search.rng.sample(search.task.train, 20)
        evaluate(search, [start(search)], rows)
        wrong = {"c0": list(rows)}
        groups = [part.Wrong(start(search), group) for group in protegi.drawn(search, rows, settings)]
        before = search.counts.target_calls
        pool = protegi.expand(search, [start(search)], groups, wrong, settings)
        assert len(pool) == 3
        assert search.counts.target_calls - before == (4 * 4 if reject else 0)
        tried = {one for one in search.scores if search.scores[one] and one != "c0"}
        texts = {search.candidates[int(one[1:])].text for one in tried}
        if kept:
            assert set(good) & texts <= {one.text for one in pool}


def test_what_the_cap_dropped_may_come_again(tmp_path):
    search = a_search(tmp_path, Script())
    meta = part.Meta("protegi_edit", "")
    first = part.candidate(search, "Be brief.", "edit", start(search), "", meta)
    again = part.candidate(search, ' "Be  brief." ', "paraphrase", start(search), "", meta)
    assert again is first
    assert search.counts.duplicates == 1


def test_the_same_child_twice_is_one(tmp_path):
    search = a_search(tmp_path, Script())
    parent, some = start(search), [add(search, f"Text {number}.", "edit") for number in range(8)]
    born = [part.Child(parent, one) for one in [*some, *some]]
    assert part.capped(search, born, {"c0": []}, protegi.Settings()) == some


# choice


def test_a_single_candidate_is_not_scored_and_more_first_instructions_are(tmp_path):
    search = a_search(tmp_path, Script())
    assert protegi.first(search, SMALL) == [search.candidates[0]]
    assert search.counts.target_calls == 0
    search = a_search(tmp_path, Script(lambda text, row: float(text == "Good.")))
    beam = protegi.first(search, SMALL.model_copy(update={"seeds": ["Bad.", "Good.", "bad 2", "Start."]}))
    assert [one.operator for one in search.candidates] == ["seed"] * 4
    assert beam[0].text == "Good."
    assert (len(beam), search.counts.target_calls) == (3, 48)


def test_the_last_choice_is_made_on_dev(tmp_path):
    """On train the newest is best, on dev the oldest edit."""

    def worth(text, row):
        number = int("".join(letter for letter in text if letter.isdigit()) or 0)
        return number / 1000 if row.startswith("row t") else 1 - number / 1000

    search = a_search(tmp_path, Script(worth))
    found = protegi.run(search, SMALL)
    assert found.text == "Start."
    assert [row["candidate"] for row in search.trace][-1] == "c0"
    last = search.trace[-2]["candidate"]
    assert mean(search, search.candidates[int(last[1:])], search.task.dev) < 1


@pytest.mark.parametrize(
    "reply",
    [
        "I'm sorry, but I can't help with that.",
        "",
        "<instruction>never closed",
        "<reason></reason><instruction> </instruction>",
        "```json\n{}\n```",
    ],
)
def test_malformed_replies_give_no_child_and_no_endless_loop(tmp_path, reply):
    script = Script(noise, lambda what, number: reply)
    search = a_search(tmp_path, script)
    assert protegi.run(search, SMALL).text == "Start."
    assert [one.text for one in search.candidates] == ["Start."]
    assert search.counts.bad_replies == search.counts.optimizer_calls == 3 * 2 * (4 + 2)


def test_half_of_the_replies_malformed_is_no_end(tmp_path):
    script = Script(noise)
    script.write = lambda what, number: script.fresh(what, number) if number % 2 else "Sorry."
    search = a_search(tmp_path, script)
    assert protegi.run(search, SMALL).operator in ("edit", "paraphrase")
    most = protegi.plan(SMALL, Sizes(3000, 20))
    assert search.counts.optimizer_calls <= most.optimizer * search.tries
    assert not any("Sorry" in one.text for one in search.candidates)


def test_the_same_seed_goes_the_same_way_and_another_seed_another(tmp_path):
    first, second, other = (on_landscape(tmp_path / name, seed)[0] for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert first.candidates == second.candidates
    assert first.scores == second.scores
    assert first.candidates != other.candidates


# evidence


def worth_of(found):
    return landscape.value(landscape.phrases_in(found.text))


def test_without_evidence_it_does_worse(tmp_path):
    seen, blind = ([worth_of(on_landscape(tmp_path, seed, hidden)[1]) for seed in range(1, 7)] for hidden in (0, 1))
    assert statistics.mean(seen) > statistics.mean(blind) + 0.1


def test_a_blind_search_shows_no_example(tmp_path):
    script = Script(noise)
    protegi.run(a_search(tmp_path, script, blind=True), SMALL)
    told = [one.prompt for batch in script.batches for one in batch if one.model == OPTIMIZER]
    assert len(told) == 7 * 18
    assert not any(prompts.tagged(text, "example") or "row t" in text for text in told)


def test_it_beats_random_search_with_as_many_target_calls(tmp_path):
    found, drawn = [], []
    for seed in range(1, 7):
        search, best = on_landscape(tmp_path, seed)
        found.append(worth_of(best))
        drawn.append(chance(Search(search.task, search.roles, seed, 480), seeded=False))
    assert statistics.mean(found) > statistics.mean(drawn) + 0.05
