"""Who answers better in notebook 07; and with models behind an API: store, cap, replay, the plan of what it costs."""

import dataclasses

import fake_api
import pytest

from bpo_utils import chat, profile, records
from bpo_utils.chat import errors
from bpo_utils.further import arena, costs, experiments, trials, variants
from bpo_utils.rewrite import Rewritten

SMOKE = profile.load("smoke")


def field(judged):
    run, asked = SMOKE, []

    def ask(model, texts, decoding=None, calls=None, sample=0):
        asked.append((model.name, list(texts)))
        if model in run.judges:
            return [records.Reply(judged(text)) for text in texts]
        return [records.Reply(f"{model.name} says {text}") for text in texts]

    questions = [records.TestPrompt(str(n), "dolly", f"question {n}", "", "") for n in range(4)]
    return arena.Arena(run, questions, chat.Calls(store=None), ask), asked


def test_a_text_is_answered_once_and_equal_prompts_tie():
    made, asked = field(lambda text: "[[A]]")
    model, judge = made.run.answer_models[0], made.run.judges[0]
    original = arena.System(model, made.originals)
    changed = arena.System(model, ("better", *made.originals[1:3], None))
    verdicts = arena.duel(made, original, [changed, changed], judge)
    assert [[row.how for row in part] for part in verdicts] == [
        ["judged", "equal_answers", "equal_answers", "no_answer"]
    ] * 2
    answered = [text for name, texts in asked if name == model.name for text in texts]
    assert len(answered) == len(set(answered)) == 5
    row = arena.row({"experiment": "x"}, verdicts)
    assert (row["n"], row["seeds"], row["net_win"]) == (4, 2, 0.0)  # always the first: the orders disagree, a tie
    assert row["share_C"] == 0.75 and row["share_invalid"] == 0.25


def test_models_can_be_held_against_each_other():
    def judged(text):
        from bpo_utils import judge_prompts

        _, first, second = judge_prompts.parse_prompt(text)
        return "[[A]]" if "mini-strong" in first else "[[B]]"

    made, _ = field(judged)
    weak, strong = (arena.System(made.run.answer_models[k], made.originals) for k in (0, -1))
    assert {row.verdict for row in arena.duel(made, weak, [strong], made.run.judges[0])[0]} == {"B"}
    assert {row.verdict for row in arena.duel(made, strong, [weak], made.run.judges[0])[0]} == {"A"}


def test_an_answer_model_that_the_profile_lacks_is_named():
    run = SMOKE.model_copy(update={"iterating": SMOKE.iterating.model_copy(update={"answer_model": "mini-huge"})})
    with pytest.raises(ValueError, match="mini-huge.*mini-weak, mini-middle, mini-strong"):
        experiments.model_of(run, run)


# models behind an API


@pytest.fixture(scope="module")
def api():
    usage = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
    with fake_api.running(reply="judge", usage=usage) as running:
        yield running


def paid(api):
    """The smoke profile with two answer models, a judge and a teacher behind the local server."""
    behind = {"provider": "compatible", "base_url": api.url, "price": profile.Price(input=10.0, output=20.0)}
    models = [profile.Model(name=name, model=name, **behind) for name in ("small", "large")]
    chosen = {"answer_model": "small", "teacher": SMOKE.teacher.model_copy(update={"model": "asked", **behind})}
    changed = {"answer_models": models, "judges": [profile.Model(name="judge", model="judge", **behind)]}
    limits = {"compatible": profile.Limits(requests_per_minute=60000, tokens_per_minute=10**8)}
    return SMOKE.model_copy(update=changed | {"limits": limits, "iterating": SMOKE.iterating.model_copy(update=chosen)})


def test_calls_go_through_the_store_under_the_cap_and_are_replayed(api, tmp_path):
    run = paid(api)
    store = tmp_path / "calls.sqlite"
    questions = [records.TestPrompt(str(n), "dolly", f"question {n}", "", "") for n in range(4)]

    def scored(mode, cap):
        made = arena.Arena(run, questions, chat.Calls(store, mode, cap, run.limits))
        small, large = run.answer_models
        better = arena.System(small, tuple(f"better {text}" for text in made.originals))
        return arena.duel(made, arena.System(large, made.originals), [better, better], run.judges[0])

    with pytest.raises(errors.BudgetReached):
        scored("online", 0.0)
    assert api.stats()["endpoints"].get("chat", 0) == 0
    first, asked = scored("online", 5.0), api.stats()["endpoints"]["chat"]
    assert asked == 4 + 4 + 2 * 4  # both systems' answers, and both orders once for two equal seeds
    assert scored("replay", 0.0) == first and api.stats()["endpoints"]["chat"] == asked


def test_the_teacher_without_feedback_is_the_one_that_iterating_names(api, tmp_path):
    run = paid(api).model_copy(update={"teacher": SMOKE.teacher.model_copy(update={"provider": "recorded"})})
    api.script(reply="text:Thoughts: short.\n\nOptimized Instruction: Say more about it, with an example. [END]")
    rows = [records.Preference(f"row-{n}", f"prompt {n}", "", f"good {n}", f"bad {n}", "made") for n in range(3)]
    found = variants.without_feedback(run, rows, chat.Calls(tmp_path / "calls.sqlite", "online", 5.0))
    assert [row.optimized_prompt for row in found] == ["Say more about it, with an example."] * 3


def test_the_plan_of_calls_counts_what_is_then_asked(api, run_folder, monkeypatch, tmp_path):
    api.reset()
    run = paid(api)
    run = run.model_copy(update={"iterating": run.iterating.model_copy(update={"sizes": [4], "noise": []})})
    run = run.model_copy(update={"iterating": run.iterating.model_copy(update={"noise_pairs": 4})})
    made = [records.Pair(f"row-{n}", f"what is {n}", f"Say what {n} is.", "made") for n in range(8)]
    groups = {
        name: [trials.trial(run, name, made[:n], 1)] for name, n in (("bpo", 8), ("no_feedback", 7), ("pairs_4", 4))
    }
    monkeypatch.setattr(
        trials,
        "rewritten",
        lambda one, texts: [
            Rewritten(text, f"{one.key} {text} 2", steps=(f"{one.key} {text}", f"{one.key} {text} 2")) for text in texts
        ],
    )
    questions = [records.TestPrompt(str(n), "dolly", f"question {n}", "", "") for n in range(3)]
    field = arena.Arena(run, questions, chat.Calls(tmp_path / "calls.sqlite", "online", 50.0, run.limits))
    model = run.answer_models[0]
    plan = costs.planned(field, model, groups)
    assert api.stats()["endpoints"].get("chat", 0) == 0
    experiments.iterated(field, model, groups["bpo"])
    experiments.without_feedback(field, model, groups)
    experiments.scaled(field, groups["bpo"])
    experiments.curves(field, model, groups)
    assert sum(line.to_pay for line in plan) == api.stats()["endpoints"]["chat"]
    again = costs.planned(field, model, groups)  # now with the stored answers, so that the judges' prompts are known
    assert sum(line.to_pay for line in again) == 0 and sum(line.cached for line in again) > 0
    mini = dataclasses.replace(field, run=SMOKE)
    assert costs.planned(mini, SMOKE.answer_models[0], groups) == []
