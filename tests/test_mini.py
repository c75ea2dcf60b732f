"""The miniature's models: their size, their cards, that teaching resumes exactly, and what its judges say."""

import json
import random

import pytest

from bpo_utils import judge_prompts, paths, profile
from bpo_utils.mini import lessons, models, preference, provider, school, world

SHIPPED = ("base", "weak", "middle", "strong", "judge")
GREEDY = profile.Decoding(temperature=0.0, top_p=1.0, max_new_tokens=60, batch_size=8, seed=1)


def test_models_are_shipped_as_safetensors_within_25_mb_with_card_and_log():
    files = [path for path in paths.MINI_MODELS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25e6
    assert not [path for path in files if path.suffix in {".bin", ".pt", ".pth", ".pkl"}]
    for name in SHIPPED:
        assert (models.folder(name) / "model.safetensors").is_file()
        assert "Apache-2.0" in (models.folder(name) / "README.md").read_text(encoding="utf-8")
        log = (models.folder(name) / "log.jsonl").read_text(encoding="utf-8").splitlines()
        assert all("loss" in json.loads(line) for line in log) and log


def test_missing_model_names_the_command_that_makes_it():
    with pytest.raises(FileNotFoundError, match="python -m bpo_utils.mini.build"):
        models.folder("giant")


def tiny():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = models.SHAPE | {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    return LlamaForCausalLM(LlamaConfig(**shape))


def test_teaching_interrupted_and_resumed_gives_the_same_weights(tmp_path, monkeypatch):
    import torch

    tokenizer = models.load("base")[1]
    monkeypatch.setattr(school, "SAVE_EVERY", 2)
    monkeypatch.setattr(school, "BATCH", 4)
    monkeypatch.setattr(school, "GROUP", 1)
    course = school.Course("try", steps=6, horizon=6, learning_rate=1e-3, warmup=2, seed=1)
    whole = school.teach(tiny(), tokenizer, lessons.form_lesson, course, tmp_path / "whole")
    drawn = iter(range(1000))

    def interrupted(rng: random.Random, tokenizer: object) -> lessons.Lesson:
        if next(drawn) == 4 * school.BATCH + 1:  # in the fifth step, after the fourth was saved
            raise KeyboardInterrupt
        return lessons.form_lesson(rng, tokenizer)

    with pytest.raises(KeyboardInterrupt):
        school.teach(tiny(), tokenizer, interrupted, course, tmp_path / "broken")
    resumed = school.teach(tiny(), tokenizer, lessons.form_lesson, course, tmp_path / "broken")
    assert all(torch.equal(*both) for both in zip(whole.parameters(), resumed.parameters(), strict=True))
    log = (tmp_path / "broken" / "try.log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in log] == [2, 4, 6]


def test_answer_models_know_facts_and_do_as_they_are_told():
    asked = "Explain the reasons behind tides: explain what causes it and give a concrete example."
    answer = provider.ask("strong", [asked], GREEDY)[0]
    assert {("tides", "cause"), ("tides", "example")} <= set(world.facts_in(answer))


def test_stronger_models_supply_more_of_what_was_left_unsaid():
    questions = [f"Why {'are' if world.plural(topic) else 'is'} there {topic}?" for topic in list(world.topics())[:24]]
    given = []
    for name in ("weak", "middle", "strong"):
        answers = provider.ask(name, questions, GREEDY.model_copy(update={"temperature": 0.7}))
        given.append(sum(len(set(world.facts_in(answer)) - {("", "")}) for answer in answers))
    assert given[0] < given[1] < given[2]


FACTS = world.topics()["tides"]
FULL = f"{FACTS['cause']} {FACTS['definition']} {FACTS['example']}"


@pytest.mark.parametrize("name", ["rubric", "preference"])
def test_judges_prefer_the_full_answer_in_both_orders_and_tie_on_equal_ones(name):
    question = "Why are there tides?"
    pairs = [(FULL, FACTS["cause"]), (FACTS["cause"], FULL), (FULL, FULL)]
    replies = provider.ask(name, [judge_prompts.prompt(question, *pair) for pair in pairs], None)
    assert [judge_prompts.read("pairwise", reply) for reply in replies] == ["A", "B", "C"]
    assert all(len(reply) > len("[[A]]") + 20 for reply in replies)


def test_learned_judge_agrees_with_most_rows_that_it_was_taught():
    rows = world.preferences()[-200:]
    tokenizer = models.load("base")[1]
    scorer = provider._judge()[0]
    both = [(f"{row.prompt}\n{row.context}".strip(), answer) for row in rows for answer in (row.good, row.bad)]
    scores = preference.scores(scorer, tokenizer, both)
    right = sum(scores[i] > scores[i + 1] for i in range(0, len(scores), 2)) / len(rows)
    assert right > 0.7


def test_rows_held_out_of_the_judge_share_no_prompt_with_those_it_learns_from():
    rows = world.preferences()
    learnt, held_out = preference.kept_apart(rows)
    prompts = [{(row.prompt, row.context) for row in part} for part in (learnt, held_out)]
    assert not prompts[0] & prompts[1] and held_out == rows[: len(rows) // 10]
    assert len(learnt) > len(rows) // 2  # what repeats is a part, not all


@pytest.mark.parametrize(
    ("unsaid", "drop", "given"),
    [(1.0, 0.0, ["risk", "cause", "step"]), (0.0, 0.0, ["risk", "cause"]), (0.0, 1.0, ["risk"])],
)
def test_answer_models_add_what_was_needed_and_not_named_and_never_give_nothing(unsaid, drop, given):
    strength = lessons.Strength(unsaid=unsaid, passage=0.0, harm=0.0, drop=drop, steps=1)
    assert lessons._given(random.Random(0), strength, ["risk", "cause"], ["cause", "step"]) == given


def test_unknown_model_and_missing_decoding_are_errors():
    with pytest.raises(ValueError, match="no model 'giant'"):
        provider.ask("giant", [], GREEDY)
    with pytest.raises(ValueError, match="say how to decode"):
        provider.ask("weak", ["hello"], None)
