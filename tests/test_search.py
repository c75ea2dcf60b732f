"""The skeleton of prompt search: tasks, candidates, evaluation, questions to the optimizer, the saved state; and what
every method must keep: its plan, its evidence taken away, its way the same in every process."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bpo_utils import paths, profile, records
from bpo_utils.chat import Calls, wire
from bpo_utils.profile import Model
from bpo_utils.records import Reply
from bpo_utils.search import evidence, landscape, methods, plan, program, prompts, run
from bpo_utils.search import state as states
from bpo_utils.search.candidates import LONGEST, normal
from bpo_utils.search.evaluate import best, errors, evaluate, mean, measure, request, scored
from bpo_utils.search.program_replies import REPLIES
from bpo_utils.search.propose import DRAWS, Meta, Proposal, ask, instruction, propose
from bpo_utils.search.state import BudgetSpent, Roles, Search, add, note, save, start, steps
from bpo_utils.search.task import POSITIONS, Mark, Row, Task, prompt, shown, split

TARGET = Model(name="landscape", provider="landscape", model="landscape")
PROGRAM = Model(name="program", provider="program", model="phrases")
ODD = 'Use {input}, {instruction}, [INPUT], {{ x }}, \\1 and <b> as "they" are.\n写得简单一点。'


class Answers:
    """In the models' place. `batches`: the requests of each call, all of which it keeps."""

    def __init__(self, target: Callable = landscape.answer, optimizer: Callable = program.reply) -> None:
        self.by_provider = {"landscape": target, "program": optimizer}
        self.batches: list[list[wire.Request]] = []

    def __call__(self, requests: Sequence[wire.Request], calls: Calls) -> list[Reply]:
        self.batches.append(list(requests))
        said = [self.by_provider[one.model.provider](one) for one in requests]
        return [one if isinstance(one, Reply) else Reply(one) for one in said]

    def asked(self, model: Model) -> list[str]:
        """The prompts that one model got."""
        return [one.prompt for batch in self.batches for one in batch if one.model == model]


def a_search(place: Path, answers: Answers | None = None, task: Task | None = None, **more) -> Search:
    complete = {"complete": answers} if answers else {}
    roles = Roles(TARGET, PROGRAM, Calls(place / "calls.sqlite"), **complete)
    return Search(task or landscape.task(12, 8, 6), roles, **more)


def a_task(**more) -> Task:
    rows = [(Row(f"r{n}", f"question {n}", str(n)),) for n in range(3)]
    return Task(
        "made", "Somebody asks.", "Answer.", *rows, lambda row, text: Mark(float(text == row.gold), text), **more
    )


# Tasks


@pytest.mark.parametrize(
    ("position", "asked", "begun", "bare"),
    [
        ("before", "INS\nwhy?", "", "why?"),
        ("after", "why?\nINS", "", "why?"),
        ("answer", "why?", "INS", "why?"),
        ("before_Q", "INS\nQ: why?\nA:", "", "Q: why?\nA:"),
        ("Q_begin", "Q: INS\nwhy?\nA:", "", "Q: why?\nA:"),
        ("Q_end", "Q: why?\nINS\nA:", "", "Q: why?\nA:"),
        ("A_begin", "Q: why?\nA:", "INS", "Q: why?\nA:"),
    ],
)
def test_the_instruction_stands_where_the_task_says(position, asked, begun, bare):
    task = a_task(position=position)
    assert prompt(task, "INS", "why?") == (asked, begun)
    assert prompt(task, "", "why?") == (bare, "")
    assert prompt(task, "INS", "why?", "See: 1 + 1 = 2") == (f"See: 1 + 1 = 2\n\n{asked}", begun)
    formed = prompt(a_task(position=position, form="In tags."), "INS", "why?")[0]
    mark = "\nA:" if asked.endswith("\nA:") else ""
    assert formed == asked.removesuffix("\nA:") + "\nIn tags." + mark
    template = shown(a_task(position=position, form="In tags."))
    assert template.count("{instruction}") == template.count("{input}") == template.count("In tags.") == 1


def test_all_positions_are_tested_here():
    assert list(POSITIONS) == ["before", "after", "answer", "before_Q", "Q_begin", "Q_end", "A_begin"]
    with pytest.raises(ValueError, match="no position 'between'; there are before, after"):
        a_task(position="between")


@pytest.mark.parametrize("position", POSITIONS)
def test_nothing_in_an_instruction_or_input_is_interpreted(position):
    asked, begun = prompt(a_task(position=position, form="{input} {form}"), ODD, f"{ODD}!", "{demo} {input}")
    whole = asked + begun
    assert whole.startswith("{demo} {input}\n\n") and whole.count(ODD) == 2 and whole.count(f"{ODD}!") == 1
    assert whole.count("{input} {form}") == 1


def test_the_start_of_an_answer_goes_to_the_target_as_one(tmp_path):
    search = a_search(tmp_path, task=a_task(position="A_begin", answer_tokens=77))
    asked = request(search, start(search), search.task.dev[0])
    assert (asked.prompt, asked.answer_start, asked.max_tokens) == ("Q: question 1\nA:", "Answer.", 77)
    assert asked.temperature == 0.0 and asked.model == TARGET


def test_sets_share_no_row():
    row = Row("a", "x", "y")
    other = Row("b", "x", "y")
    with pytest.raises(ValueError, match="1 ids occur more than once, such as a"):
        Task("t", "", "", (row,), (row,), (other,), lambda *_: Mark(1.0, ""))
    with pytest.raises(ValueError, match="no rows in dev"):
        Task("t", "", "", (row,), (), (other,), lambda *_: Mark(1.0, ""))
    rows = [Row(str(n), str(n), "") for n in range(10)]
    parts = split(rows, 3, 2, 5, seed=1)
    assert [len(part) for part in parts] == [3, 2, 5] and len({row.id for part in parts for row in part}) == 10
    assert split(rows, 3, 2, 5, seed=1) == parts != split(rows, 3, 2, 5, seed=2)
    with pytest.raises(ValueError, match=r"3 \+ 3 \+ 5 rows are asked for, and there are 10"):
        split(rows, 3, 3, 5, seed=1)


# Evaluation


def test_candidates_are_scored_on_the_same_rows_in_one_batch_and_never_twice(tmp_path):
    answers = Answers()
    search = a_search(tmp_path, answers)
    dev = search.task.dev
    pair = [start(search), add(search, "Check each unit.", "edit")]
    found = evaluate(search, pair, dev[:4])
    assert [len(batch) for batch in answers.batches] == [8] and search.counts.target_calls == 8
    assert [[one.row for one in scored(search, each, dev[:4])] for each in pair] == [[row.id for row in dev[:4]]] * 2
    assert found == [mean(search, each, dev[:4]) for each in pair]
    third = add(search, "Name the place.", "edit")
    evaluate(search, [*pair, third, third], [*dev[2:6], dev[2]])
    assert len(answers.batches) == 2 and len(answers.batches[1]) == 2 * 2 + 4
    evaluate(search, [*pair, third], dev[2:6])
    best(search, pair, dev[:6], 2)
    errors(search, third, dev[2:6])
    sent = answers.asked(TARGET)
    assert len(answers.batches) == 2 and len(sent) == len(set(sent)) == search.counts.target_calls == 16
    with pytest.raises(KeyError):
        scored(search, third, dev[:1])


def test_the_older_of_equals_wins_and_errors_are_the_rows_below_right(tmp_path):
    search = a_search(tmp_path, Answers(target=lambda asked: "did: nothing"))
    pair = [start(search), add(search, "Other.", "edit")]
    assert best(search, pair[::-1], search.task.dev, 2) == pair
    assert errors(search, pair[0], search.task.train) == list(search.task.train)
    search = a_search(tmp_path, Answers(target=lambda asked: f"did: {landscape.need(asked.prompt.split(chr(10))[0])}"))
    assert (
        errors(search, start(search), search.task.train) == [] and mean(search, start(search), search.task.train) == 1
    )


def test_what_passes_the_budget_is_refused_before_anything_is_sent(tmp_path):
    answers = Answers()
    search = a_search(tmp_path, answers, budget=9)
    pair = [start(search), add(search, "Check each unit.", "edit")]
    evaluate(search, pair[:1], search.task.dev[:4])
    with pytest.raises(BudgetSpent, match="12 target calls are wanted, 5 are left of 9"):
        evaluate(search, pair, search.task.dev)
    assert len(answers.batches) == 1 and search.counts.target_calls == 4
    evaluate(search, pair, search.task.dev[:4])  # 4 of the 8 are there
    assert search.left == 1


def test_test_rows_are_measured_and_never_evaluated(tmp_path):
    answers = Answers()
    search = a_search(tmp_path, answers, budget=8)
    seed = start(search)
    evaluate(search, [seed], search.task.dev)
    with pytest.raises(ValueError, match="rows of the test set are for `measure`"):
        evaluate(search, [seed], [search.task.dev[0], search.task.test[0]])
    assert len(answers.batches) == 1
    (test,) = measure(search, [seed], search.task.test)
    measure(search, [seed], [*search.task.test, *search.task.dev])  # known, all of it
    assert [one.row for one in test] == [row.id for row in search.task.test] and len(answers.batches) == 2
    assert (search.counts.target_calls, search.counts.measured, search.left) == (8, 6, 0)
    assert not set(search.scores["c0"]) & search.tests


@pytest.mark.parametrize("outcome", ["refused", "too_long", "empty"])
def test_what_was_not_answered_is_unreadable_and_worth_nothing(tmp_path, outcome):
    right = Answers(target=lambda asked: Reply("1", outcome))
    search = a_search(tmp_path, right, task=a_task())
    assert evaluate(search, [start(search)], search.task.dev) == [0.0]
    assert scored(search, start(search), search.task.dev)[0].unreadable and search.counts.unreadable == 1


def test_every_call_counts_with_its_tokens(tmp_path):
    search = a_search(tmp_path, Answers(optimizer=lambda asked: "<instruction>Be brief and kind.</instruction>"))
    seed = start(search)
    evaluate(search, [seed], search.task.dev)
    measure(search, [seed], search.task.test)
    ask(search, [Meta("opro", "Write.")], instruction, samples=3)
    counts = search.counts
    assert (counts.target_calls, counts.optimizer_calls, counts.measured, counts.estimated) == (8, 3, 6, 17)
    asked = [request(search, seed, row) for row in search.task.dev]
    answers = [one.answer for one in scored(search, seed, search.task.dev)]
    assert counts.target_tokens == sum(map(wire.expected_input, asked)) + sum(len(one) // 4 for one in answers)
    assert counts.optimizer_tokens == 3 * (10 + 44 // 4) and counts.usd == 0.0  # 'Write.': 6 letters / 4 + 8


# Candidates and the optimizer


def test_a_child_remembers_where_it_came_from(tmp_path):
    reply = "Of course! <instruction>\n  Name the place. \n</instruction>"
    search = a_search(tmp_path, Answers(optimizer=lambda asked: reply), step=3)
    seed = start(search)
    meta = Meta("paraphrase", prompts.filled("paraphrase", instruction=seed.text))
    (child,) = propose(search, [Proposal(meta, (seed,), "edit", {"demo": "1 + 1 = 2"})], instruction)
    assert (child.id, child.text, child.demo, child.parents) == ("c1", "Name the place.", "1 + 1 = 2", ("c0",))
    assert (child.step, child.operator, child.reply) == (3, "edit", reply)
    assert child.meta == prompts.version("paraphrase") and search.candidates == [seed, child]
    assert states.by_id(search, "c1") is child and start(search) is seed


def test_an_instruction_is_known_by_its_normal_form(tmp_path):
    search = a_search(tmp_path)
    assert normal(' "Be  brief.\n" ') == "Be brief." and normal("'") == "'" and normal("“简短”") == "“简短”"
    assert add(search, "Be brief.", "edit").text == "Be brief."
    assert add(search, ' "Be  brief." ', "edit") is None and search.counts.duplicates == 1
    assert add(search, "Be brief.", "edit", demo="One.") and add(search, "Be brief.", "edit", demo=" One. ") is None
    assert add(search, " ", "edit") is None and add(search, "x" * (LONGEST + 1), "edit") is None
    assert len(search.candidates) == 2 and search.counts.duplicates == 2


def test_a_reply_that_cannot_be_read_is_asked_for_again_and_then_left_out(tmp_path):
    said = iter(["no tags", "<instruction>One.</instruction>", "", "<instruction>Two.</instruction>", "<instruction>"])
    answers = Answers(optimizer=lambda asked: next(said))
    search = a_search(tmp_path, answers)
    found = ask(search, [Meta("opro", "Write.")], instruction, samples=3)
    assert found == [[("One.", "<instruction>One.</instruction>"), ("Two.", "<instruction>Two.</instruction>")]]
    assert (search.counts.bad_replies, search.counts.optimizer_calls) == (3, 5)  # 3 asked, 2 again, 1 left out
    samples = [one.sample for batch in answers.batches for one in batch]
    assert samples == [DRAWS + n for n in range(5)]  # the same text asked again is another draw
    answers = Answers(optimizer=lambda asked: "never")
    search = a_search(tmp_path, answers, tries=4, seed=7)
    assert propose(search, [Proposal(Meta("opro", "Write."))], instruction, samples=2) == []
    assert (len(answers.batches), search.counts.optimizer_calls, search.counts.bad_replies) == (4, 8, 8)
    assert answers.batches[0][0].sample == 7 * DRAWS


@pytest.mark.parametrize(
    "reply",
    [
        "I'm sorry, but I can't help with that.", "I cannot do this.", "抱歉，我无法完成。", "", "  \n",
        '{"instruction": "Be brief."}', "x" * (LONGEST + 1), Reply("Write the ans", finish="length"),
    ],
)  # fmt: skip
def test_what_is_no_instruction_is_not_taken_for_one(tmp_path, reply):
    answers = Answers(optimizer=lambda asked: reply)
    search = a_search(tmp_path, answers)
    assert propose(search, [Proposal(Meta("paraphrase", "Vary."))], prompts.plain) == []
    assert search.counts.bad_replies == search.counts.optimizer_calls == 2 and search.counts.duplicates == 0


def test_a_reply_cut_off_after_its_instruction_is_good(tmp_path):
    reply = Reply("<instruction>Be brief.</instruction> I hope this", finish="length")
    search = a_search(tmp_path, Answers(optimizer=lambda asked: reply))
    assert [one.text for one in propose(search, [Proposal(Meta("opro", "Go on."))], instruction)] == ["Be brief."]
    half = Reply("<instruction>Be brief and", finish="length")
    search = a_search(tmp_path, Answers(optimizer=lambda asked: half))
    found = propose(search, [Proposal(Meta("opro", "Go on."))], lambda text: prompts.first_or_rest(text, "instruction"))
    assert found == [] and search.counts.bad_replies == 2


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ('"Be brief."', "Be brief."),
        ("Instruction: Be brief.", "Be brief."),
        ("```\nBe brief.\n```", "Be brief."),
        ("Be brief.\nBe kind.", "Be brief.\nBe kind."),
        ("Say sorry first.", "Say sorry first."),
    ],
)
def test_a_whole_completion_is_read_as_an_instruction(reply, text):
    assert prompts.plain(reply) == text


def test_tags_are_read_as_far_as_they_are_there():
    assert prompts.tagged("<a>1</a> <A>\n2\n</A> <a> </a> <a>3", "a") == ["1", "2"]
    assert prompts.first_or_rest("<a>1</a><a>2</a>", "a") == "1"
    assert prompts.first_or_rest("so: <a> 1", "a") == "1" and prompts.first_or_rest("1 </a> so", "a") == "1"
    assert prompts.first_or_rest("neither", "a") == "" and instruction("<instruction></instruction>") == ""


# Meta-prompts


def files() -> list[str]:
    return sorted(path.stem for path in prompts.FOLDER.glob("*.md"))


def test_slots_are_filled_once_and_what_fills_them_is_not_looked_into():
    text = prompts.filled("paraphrase", instruction=f"{ODD} {{{{instruction}}}}")
    assert text.count(ODD) == 1 and text.count("{{instruction}}") == 1
    with pytest.raises(ValueError, match=r"paraphrase: its slots are \['instruction'\], given were \['text'\]"):
        prompts.filled("paraphrase", text="x")
    with pytest.raises(FileNotFoundError, match="no meta-prompt 'paraphrases'.*did you mean"):
        prompts.text("paraphrases")


def test_every_meta_prompt_has_a_version_that_changes_with_it(monkeypatch, tmp_path):
    versions = [prompts.version(name) for name in files()]
    assert len(set(versions)) == len(versions) and all(one.split("@")[0] in files() for one in versions)
    before = prompts.version("opro")
    (tmp_path / "opro.md").write_text(prompts.text("opro") + "!", encoding="utf-8")
    monkeypatch.setattr(prompts, "FOLDER", tmp_path)
    prompts.text.cache_clear()
    try:
        assert prompts.version("opro") != before
    finally:
        prompts.text.cache_clear()


def test_the_program_refuses_a_heading_that_it_does_not_know():
    with pytest.raises(ValueError, match="no reply to the heading 'Write a poem'; it knows Infer the instruction"):
        program.reply(wire.Request(PROGRAM, "# Write a poem\n\nNow."))
    assert len(REPLIES) > 10


# Evidence


def test_the_optimizer_sees_inputs_answers_and_references(tmp_path):
    search = a_search(tmp_path)
    seed, rows = start(search), search.task.train[:2]
    evaluate(search, [seed], rows)
    answer = scored(search, seed, rows)[0].answer
    told = evidence.examples(search, rows, seed)
    assert f"<output>\n{answer}\n</output>\n<reference>\n{rows[0].gold}\n</reference>" in told and "Example 2" in told
    assert evidence.examples(search, rows).count(f"<output>\n{rows[1].gold}\n</output>") == 1
    listed = evidence.trajectory(search, [seed], ["15"])
    assert listed == f"<scored>\n<instruction>\n{seed.text}\n</instruction>\n<score>15</score>\n</scored>"
    assert f"{rows[0].input}\n{evidence.PLACE}\n</input>" in evidence.placed(search, rows)
    assert "1. <earlier>\nOne\n</earlier>\n2. <earlier>" in evidence.numbered(["One", "Two"])


def test_a_blind_search_shows_no_input_answer_reference_or_score(tmp_path):
    search = a_search(tmp_path, blind=True)
    rows, many = search.task.train[:2], [start(search), *(add(search, f"Do {n}.", "edit") for n in range(8))]
    evaluate(search, many, rows)
    told = [evidence.examples(search, rows, many[0]), evidence.examples(search, rows), evidence.placed(search, rows)]
    assert told == [evidence.NOTHING] * 3
    listed = evidence.trajectory(search, many, [f"{n}7" for n in range(9)])
    assert all(one.text in listed for one in many) and "7<" not in listed
    shown = prompts.tagged(listed, "instruction")
    assert shown != [one.text for one in many] and sorted(shown) == sorted(one.text for one in many)


# The saved state


def small(folder: Path, answers: Answers | None = None, **more) -> Search:
    return a_search(folder, answers, folder=folder / "search", about={"method": "made"}, **more)


def go(search: Search, stop: int = 0, rounds: int = 3) -> Search:
    """A method of three rounds; killed in round `stop`."""
    pool = [start(search)]
    evaluate(search, pool, search.task.dev)
    for step in steps(search, rounds, worst=16):
        if step == stop:
            raise KeyboardInterrupt
        meta = Meta("paraphrase", prompts.filled("paraphrase", instruction=search.rng.choice(pool).text))
        pool += propose(search, [Proposal(meta, (pool[-1],), "vary")], prompts.plain, samples=2, temperature=1.0)
        note(search, best(search, pool, search.task.dev)[0])
    save(search, "end")
    return search


def test_the_state_is_saved_after_every_step(tmp_path):
    search, seen = small(tmp_path), []
    pool = [start(search)]
    for step in steps(search, 3, worst=8):
        if step > 1:
            seen.append(records.read_json(tmp_path / "search" / "state.json"))
        evaluate(search, pool, search.task.dev[: step * 2])
        note(search, pool[0])
    assert [one["step"] for one in seen] == [1, 2] and [one["counts"]["target_calls"] for one in seen] == [2, 4]
    assert seen[1]["trace"] == [{"step": n, "target_calls": 2 * n, "candidate": "c0"} for n in (1, 2)]
    assert list(seen[1]["digests"]) == ["1", "2"] and seen[1]["config"]["method"] == "made"
    scores, (born,) = (
        [json.loads(line) for line in (tmp_path / "search" / name).read_text("utf-8").splitlines()]
        for name in ("scores.jsonl", "candidates.jsonl")
    )
    assert [one["row"] for one in scores] == [row.id for row in search.task.dev[:6]]
    assert states.Candidate(**born | {"parents": ()}) == pool[0] and born["parents"] == []


def test_a_search_that_was_stopped_goes_the_same_way_and_on(tmp_path):
    whole = go(a_search(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        go(small(tmp_path), stop=3)
    told: list[str] = []
    again = go(small(tmp_path, tell=told.append))
    assert "taken up after step 2" in told[0]
    assert (again.candidates, again.scores, again.trace) == (whole.candidates, whole.scores, whole.trace)
    assert set(records.read_json(tmp_path / "search" / "state.json")["digests"]) == {"1", "2", "3", "end"}


def test_a_replay_that_comes_out_differently_is_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        go(small(tmp_path), stop=3)
    before = (tmp_path / "search" / "state.json").read_bytes()
    with pytest.raises(ValueError, match="step 1 came out differently from the run that is saved there"):
        go(small(tmp_path, Answers(target=lambda asked: "did: nothing")))
    with pytest.raises(ValueError, match="came out differently"):
        go(small(tmp_path, Answers(optimizer=lambda asked: f"Vary {asked.sample}.")))
    assert (tmp_path / "search" / "state.json").read_bytes() == before
    with pytest.raises(KeyboardInterrupt):  # stopped earlier than before: what was checked to step 2 stays so
        go(small(tmp_path), stop=2)
    assert set(records.read_json(tmp_path / "search" / "state.json")["digests"]) == {"1", "2"}


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"seed": 2}, "seed"),
        ({"budget": 100}, "budget"),
        ({"blind": True}, "blind"),
        ({"tries": 3}, "tries"),
        ({"task": landscape.task(12, 8, 6, draw=2)}, "rows"),
        ({"task": a_task(position="before")}, "position, rows, start, task"),
    ],
)
def test_a_folder_of_another_search_is_refused(tmp_path, other, named):
    go(small(tmp_path))
    with pytest.raises(ValueError, match=rf"holds another search \(it differs in {named}"):
        small(tmp_path, **other)


def test_a_round_starts_only_if_its_worst_case_fits(tmp_path):
    told: list[str] = []
    search = a_search(tmp_path, budget=20, tell=told.append)
    seen = []
    for step in steps(search, 10, worst=6, keep=4):
        seen.append(step)
        evaluate(search, [add(search, f"Do {step}.", "edit")], search.task.dev[:6])
    assert seen == [1, 2] and "step 3 could take 6 target calls, 8 are left" in told[0]
    search = a_search(tmp_path, tell=told.append)
    assert list(steps(search, 10, worst=6)) == [1, 2, 3] and "3 steps brought nothing new" in told[-1]


# Every method


def rows_of(task: Task) -> plan.Sizes:
    return plan.Sizes(len(task.train), len(task.dev))


def least(name: str, task: Task) -> int:
    """The smallest budget that a method with its paper's settings can do with."""
    module = methods.find(name)
    return module.plan(module.Settings().model_copy(update={module.KNOB: 1}), rows_of(task)).target


@pytest.mark.parametrize("name", methods.NAMES)
def test_a_method_keeps_to_its_plan(tmp_path, name):
    module, task = methods.find(name), landscape.task(40, 10, 4)
    few = least(name, task)
    for budget in (few, few + 7, 3 * few):
        for seed in (1, 2):
            settings = plan.fitted(module, module.Settings(), rows_of(task), budget)
            most, answers = module.plan(settings, rows_of(task)), Answers()
            search = a_search(tmp_path, answers, task, seed=seed, budget=budget)
            found = module.run(search, settings)
            assert search.counts.target_calls <= min(budget, most.target), f"{name} {budget} {seed}"
            assert search.counts.optimizer_calls <= most.optimizer * search.tries
            assert len(answers.asked(TARGET)) == len(set(answers.asked(TARGET))) == search.counts.target_calls
            assert len(answers.asked(PROGRAM)) == search.counts.optimizer_calls
            assert found in search.candidates and search.trace[-1]["target_calls"] <= search.counts.target_calls
            assert not {row for scores in search.scores.values() for row in scores} & search.tests


@pytest.mark.parametrize("name", methods.NAMES)
def test_a_method_runs_at_the_sizes_of_profile_smoke(tmp_path, name):
    searching = profile.load("smoke").searching
    task = landscape.task(searching.rows.train, searching.rows.dev, searching.rows.test)
    assert name in searching.methods
    for budget in searching.budgets:
        roles = Roles(TARGET, PROGRAM, Calls(tmp_path / "calls.sqlite"))
        folder = tmp_path / str(budget)
        told: list[str] = []
        result = run.search(searching, task, roles, name, budget, 1, folder, told.append)
        used, most = result["counts"], result["planned"]
        assert used["target_calls"] <= most["target"] <= budget and result["best"]["text"]
        assert used["optimizer_calls"] <= most["optimizer"] * searching.tries
        assert f"planned: at most {most['target']:,} target calls" in told[0]
        assert len(result["scores"]) == len(result["seed_scores"]) == len(task.test) and result["trace"]
        assert result["trace"][-1]["dev"] is not None and records.read_json(folder / "result.json") == result
        assert run.search(searching, task, roles, name, budget, 1, folder) == result


@pytest.mark.parametrize("name", methods.NAMES)
def test_a_method_is_not_shown_a_thing_if_it_is_blind(tmp_path, name):
    module, task, budget = methods.find(name), landscape.task(40, 10, 4), 2400
    answers = Answers()
    search = a_search(tmp_path, answers, task, budget=budget, blind=True)
    module.run(search, plan.fitted(module, module.Settings(), rows_of(task), budget))
    told = [text for asked in answers.batches for one in asked if one.model == PROGRAM for text in one.texts]
    items = [row.input for part in (task.train, task.dev) for row in part]
    assert not [item for item in items for text in told if f"{item}\n" in text or text.endswith(item)]
    assert not [text for text in told if "did: " in text]


@pytest.mark.parametrize("name", methods.NAMES)
def test_without_one_good_reply_the_first_instruction_stays(tmp_path, name):
    module, task = methods.find(name), landscape.task(20, 5, 2)
    answers = Answers(optimizer=lambda asked: "I'm sorry, but I can't help with that request.")
    search = a_search(tmp_path, answers, task, budget=2 * least(name, task))
    settings = plan.fitted(module, module.Settings(), rows_of(task), search.budget)
    found, counts = module.run(search, settings), search.counts
    assert found.text == task.seed and len(search.candidates) == 1 and counts.target_calls <= search.budget
    assert counts.bad_replies == counts.optimizer_calls <= 2 * module.plan(settings, rows_of(task)).optimizer


WAY = """
import json, sys
sys.path.insert(0, "tests")
from pathlib import Path
import test_search as t
found = {}
for name in sys.argv[2:]:
    module, task = t.methods.find(name), t.landscape.task(20, 5, 2)
    budget = 2 * t.least(name, task)
    search = t.a_search(Path(sys.argv[1]), task=task, budget=budget)
    module.run(search, t.plan.fitted(module, module.Settings(), t.rows_of(task), budget))
    found[name] = t.states.digest([[t.states.asdict(one) for one in search.candidates], search.trace])
print(json.dumps(found))
"""


def test_every_method_goes_the_same_way_in_another_process(tmp_path):
    ways = []
    for number in ("1", "2"):
        command = [sys.executable, "-c", WAY, str(tmp_path), *methods.NAMES]
        env = os.environ | {"PYTHONHASHSEED": number}
        done = subprocess.run(command, cwd=paths.ROOT, env=env, capture_output=True, encoding="utf-8", timeout=120)
        assert done.returncode == 0, done.stderr
        ways.append(json.loads(done.stdout.splitlines()[-1]))
    assert ways[0] == ways[1] and set(ways[0]) == set(methods.NAMES)


def test_an_unknown_method_is_named_with_the_nearest():
    with pytest.raises(ValueError, match=r"no method 'protegy' \(did you mean 'protegi'\?\); there are seed"):
        methods.find("protegy")


def test_a_budget_that_is_too_small_says_what_is_needed():
    module = methods.find("opro")
    with pytest.raises(ValueError, match="OPRO: a budget of 89 target calls is too small; rounds: 1 can take 90"):
        plan.fitted(module, module.Settings(), plan.Sizes(40, 10), 89)
    assert plan.fitted(module, module.Settings(), plan.Sizes(40, 10), 90).rounds == 2  # repeated ones leave calls
    assert plan.fitted(module, module.Settings(), plan.Sizes(40, 10), None) == module.Settings()
    assert plan.Plan(1000, 50).said(800, 2) == (
        "planned: at most 800 target calls and 50 optimizer calls (at most 100 if replies must be asked for again)"
    )


def test_settings_are_the_papers_what_the_profile_changes_and_what_the_budget_allows():
    searching = profile.load("smoke").searching.model_copy(update={"settings": {"opro": {"candidates": 2}}})
    task = landscape.task(12, 4, 8)
    settings = run.settings_of(searching, "opro", task, 24)
    assert (settings.candidates, settings.kept, settings.rounds) == (2, 20, 4)
    wrong = searching.model_copy(update={"settings": {"opro": {"candidate": 2}}})
    with pytest.raises(ValueError, match=r"(?s)settings of opro.*candidate\b.*it has rounds, candidates"):
        run.settings_of(wrong, "opro", task, 24)
