"""APE and Iterative APE: generation, filtering in stages, the two scores, and what they cost."""

import json
import math
import random
import statistics
from dataclasses import replace

import pytest
from search_script import chance

from bpo_utils.chat import Calls
from bpo_utils.profile import Model
from bpo_utils.records import Reply
from bpo_utils.search import landscape, likelihood, mini_task, plan, prompts
from bpo_utils.search.candidates import normal
from bpo_utils.search.methods import ape, iterative_ape, paraphrases
from bpo_utils.search.plan import Plan, Sizes
from bpo_utils.search.state import BudgetSpent, Roles, Search, start
from bpo_utils.search.task import Mark, Row, Task

TARGET = Model(name="target", provider="mini", model="middle")
OPTIMIZER = Model(name="optimizer", provider="program", model="phrases")


def rows(name, count):
    return tuple(Row(f"{name}{number}", f"question {name}{number}", f"gold {number}") for number in range(count))


def task(train=10, dev=12, test=2, **more):
    sets = [rows(name, count) for name, count in (("t", train), ("d", dev), ("x", test))]
    return Task("scripted", "The model answers.", "Start.", *sets, lambda row, text: Mark(float(text), ""), **more)


class Script:
    """Who answers: `write(number, request)` for the optimizer, `answer(request)` for the target; keeps what was asked.

    With `known` it remembers as the store of calls does, and `new` counts what it did not know.
    """

    def __init__(self, write, answer, known=None, stop=math.inf):
        self.write, self.answer, self.known, self.stop = write, answer, {} if known is None else known, stop
        self.asked, self.new = [], 0

    def __call__(self, requests, calls):
        replies = []
        for one in requests:
            self.asked.append(one)
            if one not in self.known:
                if self.new >= self.stop:
                    raise KeyboardInterrupt
                self.new += 1
                optimizer = one.model == OPTIMIZER
                self.known[one] = self.write(len(self.known), one) if optimizer else self.answer(one)
            replies.append(Reply(self.known[one]))
        return replies

    def of(self, model):
        return [one for one in self.asked if one.model == model]


def fresh(number, asked):
    """An optimizer that never repeats itself."""
    return f"Idea {number}."


def newest(asked):
    """A target that does better with every newer idea, on every row."""
    number = int(asked.prompt.split("Idea ")[1].split(".")[0])
    return str(number / 1_000_000)


def hashed(asked):
    """A target whose every answer is right or wrong at random."""
    return str(random.Random(asked.prompt).randint(0, 1))


def scripted(tmp_path, write=fresh, answer=newest, one=None, **more):
    script = write if isinstance(write, Script) else Script(write, answer)
    roles = Roles(TARGET, OPTIMIZER, Calls(tmp_path / "calls.sqlite"), script)
    return Search(one or task(position="before"), roles, **more), script


def landed(tmp_path, seed, budget, blind=False):
    target = Model(name="landscape", provider="landscape", model="l")
    calls = Calls(tmp_path / "calls.sqlite")
    return Search(landscape.task(draw=seed), Roles(target, OPTIMIZER, calls), seed, budget, blind=blind)


def found(module, settings, search):
    """The true value of what a method finds on the landscape, its settings fitted to the search's budget."""
    sizes = Sizes(len(search.task.train), len(search.task.dev))
    one = module.run(search, plan.fitted(module, settings, sizes, search.budget))
    return landscape.value(landscape.phrases_in(one.text))


# what it costs


def test_halving_from_64_with_doubled_rows_costs_four_times_512():
    stages = ape.stages(ape.Settings(), 64, 120)
    assert stages == [(64, 8), (32, 16), (16, 32), (8, 64)]
    assert [count * size for count, size in stages] == [512] * 4 and sum(c * s for c, s in stages) == 2048
    assert ape.stages(ape.Settings(), 64, 200)[4:] == [(4, 80)]  # the few that are left see all of dev


def test_plain_scoring_of_the_released_script_costs_1800():
    script = ape.Settings(subsamples=3, completions=30, filter="plain")
    assert ape.plan(script, Sizes(100, 100)) == Plan(target=1800, optimizer=90)
    assert ape.plan(ape.Settings(filter="plain"), Sizes(100, 15)) == Plan(50 * 15, 50)  # the paper's 50 candidates


def test_a_later_stage_gets_what_dev_has_left():
    assert ape.stages(ape.Settings(first=2), 32, 24) == [(32, 2), (16, 4), (8, 8), (4, 10)]
    assert ape.stages(ape.Settings(first=30), 32, 24) == [(32, 24)]
    assert ape.stages(ape.Settings(), 4, 24) == [(4, 24)]
    assert [rows for rows, _ in ape.stages(ape.Settings(first=1), 19, 30)] == [19, 10, 5, 4]  # half, rounded up
    assert ape.stages(ape.Settings(threshold=0.5), 32, 56) == [(32, 8), (32, 16), (32, 32)]  # all may pass


@pytest.mark.parametrize("more", [{}, {"filter": "plain", "rows": 7}, {"filter": "plain", "rows": None}])
def test_ape_uses_what_was_planned_if_nothing_repeats(tmp_path, more):
    settings = ape.Settings(first=2, **more)
    search, _ = scripted(tmp_path)
    ape.run(search, settings)
    planned = ape.plan(settings, Sizes(10, 12))
    assert (search.counts.target_calls, search.counts.optimizer_calls) == (planned.target, planned.optimizer)


@pytest.mark.parametrize("more", [{}, {"variations": 3}, {"keep": 0.25}, {"filter": "plain"}, {"threshold": 0.0}])
def test_iterative_ape_uses_what_was_planned_if_every_variation_wins(tmp_path, more):
    settings = iterative_ape.Settings(subsamples=2, completions=8, first=1, few=2, **more)
    search, _ = scripted(tmp_path)
    assert iterative_ape.run(search, settings) == search.candidates[-1]
    planned = iterative_ape.plan(settings, Sizes(10, 12))
    assert (search.counts.target_calls, search.counts.optimizer_calls) == (planned.target, planned.optimizer)


def test_no_search_uses_more_than_was_planned(tmp_path):
    """Random settings, an optimizer that repeats itself and sometimes says nothing, answers at random."""
    rng = random.Random(1)

    def write(number, asked):
        return rng.choice(["", "I'm sorry, I can't.", f"Idea {rng.randint(0, 30)}.", f"Idea {number}."])

    for _ in range(60):
        drawn = {"subsamples": rng.randint(1, 3), "completions": rng.randint(1, 7), "first": rng.randint(1, 5)}
        drawn |= {"growth": rng.randint(1, 3), "keep": rng.choice([0.1, 0.34, 0.5, 0.7]), "few": rng.randint(1, 5)}
        drawn |= {"threshold": rng.choice([None, 0.5]), "rounds": rng.randint(1, 4), "variations": rng.randint(1, 3)}
        settings = iterative_ape.Settings(**drawn, filter=rng.choice(["adaptive", "adaptive", "plain"]))
        sizes = Sizes(10, rng.randint(1, 20))
        planned = iterative_ape.plan(settings, sizes)
        one = task(dev=sizes.dev, position="before")
        search, _ = scripted(
            tmp_path, write, rng.choice([hashed, newest]), one, seed=rng.random(), budget=planned.target
        )
        iterative_ape.run(search, settings)
        assert search.counts.target_calls <= planned.target, drawn
        assert search.counts.optimizer_calls <= planned.optimizer * search.tries, drawn
        assert len(search.scores) == len({normal(search.candidates[int(id[1:])].text) for id in search.scores})


# filtering


def test_stages_share_their_rows_and_take_new_ones_each(tmp_path):
    search, script = scripted(tmp_path, answer=hashed, one=task(dev=20, position="before"))
    pool = ape.generated(search, ape.Settings(subsamples=2, completions=8))
    ranked = ape.filtered(search, pool, ape.Settings(first=2, few=2))
    order = [row.id for row in ape.deciding(search, ape.Settings())]
    assert sorted(order) == sorted(row.id for row in search.task.dev)
    for one in ranked:
        assert list(search.scores[one.id]) == order[: len(search.scores[one.id])]
    assert [len(search.scores[one.id]) for one in ranked] == [20] * 2 + [14] * 2 + [6] * 4 + [2] * 8
    assert len(script.of(TARGET)) == len(set(script.of(TARGET))) == search.counts.target_calls


def test_who_is_best_on_every_row_is_never_dropped(tmp_path):
    for number in range(8):
        search, _ = scripted(tmp_path, answer=lambda one, best=f"Idea {number}.": str(int(best in one.prompt)))
        assert ape.run(search, ape.Settings(subsamples=1, completions=8, first=1, few=1)).text == f"Idea {number}."


def test_a_threshold_lets_all_pass_that_reach_it_and_never_fewer_than_a_few(tmp_path):
    def answer(asked):
        return str(int(int(asked.prompt.split("Idea ")[1].split(".")[0]) % 4 == 0))

    for threshold, full in ((0.5, 4), (1.1, 3), (0.0, 16)):
        settings = ape.Settings(subsamples=1, completions=16, first=2, few=3, threshold=threshold)
        search, _ = scripted(tmp_path, answer=answer)
        ape.run(search, settings)
        assert sum(len(one) == 12 for one in search.scores.values()) == full


def test_the_target_is_greedy_and_only_dev_decides(tmp_path):
    search, script = scripted(tmp_path)
    ape.run(search, ape.Settings())
    assert {one.temperature for one in script.of(TARGET)} == {0.0}
    assert {(one.temperature, one.top_p, one.max_tokens) for one in script.of(OPTIMIZER)} == {(0.9, 0.9, 50)}
    assert {id[0] for scores in search.scores.values() for id in scores} == {"d"}


# generation


def test_every_draw_shows_different_train_rows(tmp_path):
    search, script = scripted(tmp_path)
    ape.generated(search, ape.Settings(subsamples=6, completions=2))
    asked = list(dict.fromkeys(one.prompt for one in script.of(OPTIMIZER)))
    assert len(asked) == 6 and len(script.of(OPTIMIZER)) == 12
    for text in asked:
        shown = prompts.tagged(text, "input")
        assert len(set(shown)) == 5 and all(one.startswith("question t") for one in shown)
        assert prompts.tagged(text, "output") == [one.replace("question t", "gold ") for one in shown]


@pytest.mark.parametrize("mode", ["forward", "reverse", "customized"])
def test_a_mode_has_one_blank_or_none(tmp_path, mode):
    search, _ = scripted(tmp_path)
    text = ape.meta_prompt(search, search.task.train[:2], ape.Settings(mode=mode)).text
    assert text.startswith("# Infer the instruction\n") and text.count(ape.BLANK) == (mode != "forward")
    assert text.endswith("The instruction was:") == (mode == "forward")
    search.blind = True
    assert "gold" not in ape.meta_prompt(search, search.task.train[:2], ape.Settings(mode=mode)).text


@pytest.mark.parametrize(("position", "form"), [("A_begin", "Q: {input}\nA:\n[____]"), ("before", "[____]\n{input}")])
def test_a_customized_form_has_the_blank_where_the_instruction_stands(tmp_path, position, form):
    search, _ = scripted(tmp_path, one=task(position=position))
    assert f"\n\n{form}\n\n" in ape.meta_prompt(search, (), ape.Settings(mode="customized")).text


def test_a_second_blank_is_an_error_but_not_one_in_a_row(tmp_path):
    search, _ = scripted(tmp_path, one=task(form="Fill in: [____]"))
    with pytest.raises(ValueError, match="2 blanks"):
        ape.meta_prompt(search, (), ape.Settings(mode="customized"))
    odd = Row("t1", "fill [____] in", "gold")
    assert ape.meta_prompt(search, (odd,), ape.Settings(mode="reverse")).text.count(ape.BLANK) == 2


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("Answer in one word.", "Answer in one word."),
        ("Instruction: Answer in one word.\n\nExample 1\n<example>", "Answer in one word."),  # what follows the blank
        ("In the text below ...\n\nInstruction: Answer!\n\nExample 1\n<example>", "Answer!"),  # all repeated
        ('"Answer in one word."', "Answer in one word."),
        ("Example 1\n<example>", ""),
    ],
)
def test_a_blank_is_read_without_what_stands_around_it(tmp_path, reply, read):
    search, _ = scripted(tmp_path)
    text = ape.meta_prompt(search, search.task.train[:2], ape.Settings(mode="reverse")).text
    assert prompts.blank(reply, text, ape.BLANK) == read


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("  Name the place.\nThen stop.", "Name the place."),
        ("Here is the instruction:\n\n'Name the place.'", "Name the place."),
        ("Instruction: 说明地点。\n其他", "说明地点。"),
        ("I'm sorry, but I cannot help with that.", ""),
        ("抱歉，我无法回答。", ""),
        ("\n \n", ""),
    ],
)
def test_a_completion_is_its_first_line(reply, read):
    assert prompts.line(reply) == read


def test_what_cannot_be_read_is_no_candidate_and_the_seed_is_left(tmp_path):
    bad = ["", "I'm sorry, but I can't do that.", '{"instruction": 1}', "x" * 5000, " \n", "As an AI I have none."]
    for module, settings in ((ape, ape.Settings()), (iterative_ape, iterative_ape.Settings())):
        search, _ = scripted(tmp_path, lambda number, asked: bad[number % len(bad)])
        assert module.run(search, settings).operator == "seed" and len(search.candidates) == 1
        assert search.counts.target_calls == 0 and search.counts.bad_replies > 0
        assert search.counts.optimizer_calls <= 50 * search.tries


def test_equal_guesses_are_one_candidate(tmp_path):
    search, _ = scripted(tmp_path, lambda number, asked: ["Idea 1.", "'Idea  1.'", "Start.", "Idea 2."][number % 4])
    start(search)
    pool = ape.generated(search, ape.Settings(subsamples=1, completions=8))
    assert [one.text for one in pool] == ["Idea 1.", "Idea 2."] and search.counts.duplicates == 6


# rounds


def test_a_variation_is_asked_for_with_nothing_but_the_instruction(tmp_path):
    search, script = scripted(tmp_path)
    iterative_ape.run(search, iterative_ape.Settings(subsamples=1, completions=8, first=2, few=2, rounds=2))
    made = [one for one in search.candidates if one.operator == "resample"]
    assert len(made) == 8 and {one.meta for one in made} == {prompts.version("paraphrase")}
    for one, asked in zip(made, script.of(OPTIMIZER)[8:], strict=True):
        (parent,) = (search.candidates[int(id[1:])] for id in one.parents)
        assert asked.prompt == prompts.filled("paraphrase", instruction=parent.text)
    first, second = {one.parents for one in made[:4]}, {one.parents for one in made[4:]}
    assert first == {(f"c{number}",) for number in (5, 6, 7, 8)}  # the newest four are the best four
    assert second == {(one.id,) for one in made[:4]}


def test_what_was_good_in_an_earlier_round_is_not_lost(tmp_path):
    def answer(asked):
        number = int(asked.prompt.split("Idea ")[1].split(".")[0])
        first = int(asked.prompt.split("question d")[1]) in known
        return (
            "1" if first and number > 7 else "0.9" if number == 3 else "0"
        )  # variations shine on the first rows alone

    settings = iterative_ape.Settings(subsamples=1, completions=8, first=2, few=1, rounds=3)
    search, _ = scripted(tmp_path, answer=answer)
    known = {int(row.id[1:]) for row in ape.deciding(search, settings)[:2]}
    assert iterative_ape.run(search, settings).text == "Idea 3."
    assert search.trace[-1]["candidate"] == "c4"


def test_a_search_that_was_stopped_goes_on_without_a_call_twice(tmp_path):
    settings = iterative_ape.Settings(subsamples=2, completions=6, first=1, few=2)

    def run(folder, stop=math.inf, known=None):
        script = Script(
            lambda number, asked: f"Idea {random.Random(repr(asked)).randint(0, 9999)}.", hashed, known, stop
        )
        search, _ = scripted(tmp_path, script, seed=3, folder=tmp_path / folder, about={"method": "iterative_ape"})
        try:
            return iterative_ape.run(search, settings), search, script
        except KeyboardInterrupt:
            return None, search, script

    whole, straight, script = run("straight")
    for stop in (5, 40, script.new - 1):
        none, _, first = run(f"stopped{stop}", stop)
        assert none is None and first.new == stop
        again, search, second = run(f"stopped{stop}", known=first.known)
        assert again == whole and first.new + second.new == script.new
        assert (search.counts, search.trace, search.scores) == (straight.counts, straight.trace, straight.scores)
        assert run(f"stopped{stop}", known=second.known)[2].new == 0


# log-probability


@pytest.mark.parametrize("kind", ["the miniature's", "one with absolute positions"])
def test_log_probability_is_minus_the_loss_of_the_model(kind):
    """Against Transformers' own loss, one text at a time; batches with padding must give the same."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from bpo_utils.mini import models
    from bpo_utils.tokens import prompt_ids

    model, tokenizer = models.load("middle")
    if kind != "the miniature's":
        torch.manual_seed(1)
        shape = {
            "n_embd": 16,
            "n_layer": 1,
            "n_head": 2,
            "initializer_range": 0.5,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        model = GPT2LMHeadModel(GPT2Config(vocab_size=models.VOCABULARY, **shape)).eval()
    asked = [
        "[INST] Tell me about tea. [/INST]",
        "[INST] Tea [/INST]",
        "[INST] " + "Tell me more. " * 9 + "[/INST]",
    ] * 7
    given = ["Tea is a drink.", "Tea helps, and it is a drink that many like.", "It"] * 7
    found = likelihood.log_probabilities(model, tokenizer, list(zip(asked, given, strict=True)))
    for place in range(3):
        front, text = prompt_ids(tokenizer, asked[place]), tokenizer.encode(given[place], add_special_tokens=False)
        labels = torch.tensor([[-100] * len(front) + text])
        with torch.inference_mode():
            loss = model(input_ids=torch.tensor([front + text]), labels=labels).loss.item()
        assert found[place] == pytest.approx(-loss, abs=2e-4) and found[place] < 0
        assert found[place::3] == pytest.approx([found[place]] * 7, abs=2e-4)
    with pytest.raises(ValueError, match="1 of 1 given texts"):
        likelihood.log_probabilities(model, tokenizer, [(asked[0], "")])


def given(asked):
    """A target that finds the gold text likely by how new the idea is."""
    assert isinstance(asked, likelihood.Given) and asked.given.startswith("gold ")
    return str(float(newest(asked)) - 2.0)


def test_ape_by_log_probability_is_counted_paired_and_kept(tmp_path):
    settings = ape.Settings(subsamples=2, completions=8, first=2, score="logprob")
    search, script = scripted(tmp_path, answer=given, folder=tmp_path / "search")
    one = ape.run(search, settings)
    assert one == search.candidates[-1] and search.scores == {}
    assert search.counts.target_calls == ape.plan(settings, Sizes(10, 12)).target == len(set(script.of(TARGET)))
    values = likelihood.evaluate(search, [one], search.task.dev)
    assert values == [pytest.approx(float(one.text.split()[1][:-1]) / 1e6 - 2)]
    assert len(script.of(TARGET)) == search.counts.target_calls  # known, so not asked again
    kept = [json.loads(line) for line in (tmp_path / "search" / "scores.jsonl").read_text().splitlines()]
    assert {row["read"] for row in kept} == {likelihood.READ} and {row["answer"][:5] for row in kept} == {"gold "}


def test_log_probability_keeps_to_the_budget_and_off_the_test_rows(tmp_path):
    search, script = scripted(tmp_path, answer=given, budget=11)
    pool = ape.generated(search, ape.Settings(subsamples=1, completions=1))
    with pytest.raises(BudgetSpent, match="12 target calls are wanted, 11"):
        likelihood.evaluate(search, pool, search.task.dev)
    with pytest.raises(ValueError, match="test set"):
        likelihood.evaluate(search, pool, search.task.test)
    assert script.of(TARGET) == []


def test_a_chat_api_cannot_and_says_so_before_anything_is_asked(tmp_path):
    search, script = scripted(tmp_path)
    api = Model(name="gpt-4o", provider="openai", model="gpt-4o")
    search.roles = Roles(api, OPTIMIZER, search.roles.calls, script)
    for module, settings in ((ape, ape.Settings), (iterative_ape, iterative_ape.Settings)):
        with pytest.raises(ValueError, match=r"gpt-4o: openai gives no log-probabilities.*score: accuracy"):
            module.run(search, settings(score="logprob"))
    assert script.asked == []


def test_a_real_tiny_model_finds_the_right_answer_likelier_than_another(tmp_path):
    """Through the programs of the room, as a search asks it."""
    one = mini_task.task(2, 6, 2)
    search = Search(one, Roles(TARGET, OPTIMIZER, Calls(tmp_path / "calls.sqlite")))
    right = likelihood.evaluate(search, [start(search)], one.dev)[0]
    assert search.counts.target_calls == 6 and search.counts.target_tokens > 60
    others = [replace(row, gold=other.gold) for row, other in zip(one.dev, one.dev[1:] + one.dev[:1], strict=True)]
    search = Search(replace(one, dev=tuple(others)), search.roles)
    assert likelihood.evaluate(search, [start(search)], others)[0] < right - 1 < 0


# against chance


def test_ape_and_its_rounds_beat_random_search_and_need_the_examples(tmp_path):
    """Golden check 15, at 800 target calls and six draws of items; without examples they fall far below."""
    ways = {ape: ape.Settings(completions=50), iterative_ape: iterative_ape.Settings(completions=5, first=3, rounds=20)}
    drawn = [chance(landed(tmp_path, seed, 800), seeded=False) for seed in range(1, 7)]
    for module, settings in ways.items():
        seeing = [found(module, settings, landed(tmp_path, seed, 800)) for seed in range(1, 7)]
        blind = [found(module, settings, landed(tmp_path, seed, 800, blind=True)) for seed in range(1, 7)]
        assert statistics.mean(seeing) > statistics.mean(drawn) + 0.03
        assert statistics.mean(blind) < statistics.mean(seeing) - 0.1


# the control


def test_paraphrases_are_chosen_on_dev_from_the_seed_alone(tmp_path):
    def answer(asked):
        return "0" if asked.prompt.startswith("Start.") else newest(asked)

    search, script = scripted(tmp_path, answer=answer)
    one = paraphrases.run(search, paraphrases.Settings(candidates=6))
    assert one.text == "Idea 5." and {asked.prompt for asked in script.of(OPTIMIZER)} == {
        prompts.filled("paraphrase", instruction="Start.")
    }
    assert search.counts.target_calls == paraphrases.plan(paraphrases.Settings(candidates=6), Sizes(10, 12)).target
    assert [row["target_calls"] for row in search.trace] == [12 * count for count in range(1, 8)]
