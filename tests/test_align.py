import importlib.util
import math

import pytest

from bpo_utils import profile, records
from bpo_utils.align import augment, compare, curves, dpo, figures, held_out, policy, policy_gradient, systems, with_trl
from bpo_utils.mini import models, prompts, world
from bpo_utils.training.setup import base_folder

needs_trl = pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="needs the extra rlhf")
ROWS = [
    {"prompt": "What is behind evolution?", "good": "Evolution is driven by selection.", "bad": "Maps are drawings."},
    {"prompt": "volcanoes", "good": "A volcano is an opening in the crust. It can erupt.", "bad": "A volcano is."},
    {"prompt": "Why are maps useful?\nPassage: Maps help.", "good": "Maps help.", "bad": "I do not know that at all."},
]


@pytest.fixture(scope="module")
def weak():
    return policy.load(models.folder("weak"))


def rewrites(count, test_set="dolly"):
    return [records.Rewrite(f"{test_set}-{n}", test_set, "bpo", f"p{n}", f"o{n}") for n in range(count)]


def test_the_loss_is_that_of_the_paper_on_numbers_done_by_hand():
    import torch

    margins = dpo.margins(*(torch.tensor([value]) for value in (-1.0, -4.0, -2.0, -3.0)))  # 1 - (-1) = 2
    assert margins.item() == 2.0
    assert dpo.loss(margins, 0.5).item() == pytest.approx(-math.log(1 / (1 + math.exp(-1.0))))
    assert dpo.loss(torch.zeros(1), 0.1).item() == pytest.approx(math.log(2))


@needs_trl
def test_the_loss_is_that_of_trl_on_a_batch(weak, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    reference, tokenizer = weak
    model, _ = policy.load(models.folder("middle"))
    pairs = dpo.encoded(tokenizer, ROWS)
    now, before = (torch.stack(dpo.reference_of(each, tokenizer, pairs)) for each in (model, reference))
    ours = dpo.loss(dpo.margins(now[:, 0], now[:, 1], before[:, 0], before[:, 1]), 0.3).mean().item()
    how = with_trl._common({"learning_rate": 1e-5, "beta": 0.3}, 1, tmp_path, 1)
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(models.folder("middle"), dtype=torch.float32),
        ref_model=AutoModelForCausalLM.from_pretrained(models.folder("weak"), dtype=torch.float32),
        args=DPOConfig(**how, per_device_train_batch_size=3, max_length=None),
        train_dataset=with_trl.preference_set(tokenizer, ROWS),
        processing_class=tokenizer,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(ours, rel=1e-4)
    assert abs(ours - math.log(2)) > 0.01, "policy and reference are alike, so nothing was compared"


@needs_trl
def test_trl_trains_behind_the_same_calls(weak, tmp_path):
    steps = {"dpo": [], "policy_gradient": []}
    settings = {"learning_rate": 1e-4, "beta": 0.1, "looks": 1, "epochs": 1, "batch": 3}
    model, tokenizer = policy.load(models.folder("weak"))
    log = with_trl.dpo(model, tokenizer, ROWS, settings, 1, steps["dpo"].append, tmp_path)
    assert steps["dpo"] == [0, 1] and log[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    settings |= {"steps": 1, "prompts": 2, "samples": 2, "max_new_tokens": 8}
    asked = []

    def reward(pairs):
        asked.extend(question for question, _ in pairs)
        return [float(len(answer)) for _, answer in pairs]

    prompts = [row["prompt"] for row in ROWS]
    with_trl.policy_gradient(model, tokenizer, prompts, reward, settings, 1, steps["policy_gradient"].append, tmp_path)
    assert steps["policy_gradient"] == [0, 1] and len(asked) == 4 and set(asked) <= set(prompts)


def test_without_trl_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="make rlhf") as error:
        with_trl.check()
    assert "\n" not in str(error.value)


def test_an_answer_is_compared_with_the_mean_of_the_others():
    import torch

    found = policy_gradient.advantages(torch.tensor([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0]]))
    assert found.tolist() == [[-3.0, -1.5, 4.5], [0.0, 0.0, 0.0]]
    with pytest.raises(ValueError, match="samples"):
        policy_gradient.advantages(torch.ones(4, 1))


def test_the_gradient_makes_the_rewarded_answers_likelier(weak):
    model, tokenizer = policy.load(models.folder("weak"))
    reference, _ = weak
    settings = {"steps": 6, "prompts": 2, "samples": 8, "max_new_tokens": 24, "beta": 0.0, "learning_rate": 2e-3}
    log = policy_gradient.train(
        model,
        reference,
        tokenizer,
        ["volcanoes", "maps"],
        lambda pairs: [-float(len(answer)) for _, answer in pairs],
        settings | {"looks": 1},
        1,
        lambda step: None,
    )
    assert log[-1]["reward"] > log[0]["reward"] + 10, "shorter answers were rewarded and did not become likelier"
    assert log[0]["log_ratio"] == pytest.approx(0, abs=1e-4) and log[-1]["log_ratio"] > 0


def test_kl_of_two_known_distributions():
    import torch

    new, old = torch.tensor([[0.5, 0.5], [0.25, 0.75]]), torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    expected = [0.0, 0.25 * math.log(0.5) + 0.75 * math.log(1.5)]
    assert policy.kl(new.log(), old.log()).tolist() == pytest.approx(expected)


def test_a_model_has_not_moved_from_itself_and_has_from_another(weak):
    model, tokenizer = weak
    answers = [policy.example(tokenizer, row["prompt"], row["good"]) for row in ROWS]
    other, _ = policy.load(models.folder("strong"))
    assert held_out.divergence(model, model, tokenizer, answers)["kl"] == 0
    found = held_out.divergence(other, model, tokenizer, answers)
    assert found["kl"] == pytest.approx(found["kl_token"] * found["tokens"]) and found["kl"] > 0.1


def test_padding_and_batches_change_no_probability(weak):
    import torch

    model, tokenizer = weak
    rows = [policy.example(tokenizer, row["prompt"], row["good"]) for row in ROWS]
    with torch.no_grad():
        together = policy.log_probabilities(model, rows, tokenizer.eos_token_id)
        alone = [
            -model(**{name: torch.tensor([value]) for name, value in row.items()}).loss
            * sum(label != -100 for label in row["labels"])
            for row in rows
        ]
    assert together.tolist() == pytest.approx([value.item() for value in alone], rel=1e-4)


def test_drawn_answers_hold_what_was_drawn_and_nothing_after_the_end(weak):
    import torch

    model, tokenizer = weak
    torch.manual_seed(1)
    groups = policy.drawn(model, tokenizer, ["volcanoes", "Why are maps useful, and to whom?"], 3, 40)
    assert [len(group) for group in groups] == [3, 3]
    for group in groups:
        for row in group:
            ids = [label for label in row["labels"] if label != -100]
            assert ids.count(tokenizer.eos_token_id) <= 1 and tokenizer.eos_token_id not in ids[:-1]
            assert row["input_ids"][-len(ids) :] == ids and row["input_ids"][0] == tokenizer.bos_token_id


def test_instructions_are_new_and_repeat_themselves_by_seed():
    taken = {records.joined(row.prompt, row.context).lower() for row in world.preferences()}
    found = augment.instruction_set(60, 1, taken)
    texts = {records.joined(row.prompt, row.context).lower() for row in found}
    assert len(texts) == 60 and not texts & taken and found == augment.instruction_set(60, 1, taken)
    known = {*world.training_topics(), *world.training_threats()}
    assert {world.read(text).topic for text in texts} <= known


def test_a_world_that_is_too_small_is_an_error(monkeypatch):
    monkeypatch.setattr(prompts, "draw", lambda *_: ("What are maps?", "", "question"))
    with pytest.raises(ValueError, match="only 1 new prompts of 5; lower"):
        augment.instruction_set(5, 1, set())


def test_a_training_row_has_the_original_prompt_and_both_sets_the_same_instructions():
    made = rewrites(3)
    sides = [(row.id, side) for row in made for side in ("original", "bpo")]
    answers = [
        records.Answer(id, "dolly", side, "m", "", "" if (id, side) == ("dolly-1", "bpo") else f"{side} {id}")
        for id, side in sides
    ]
    rows = augment.training_rows(made, answers, "bpo")
    assert rows == [{"prompt": "p0", "answer": "bpo dolly-0"}, {"prompt": "p2", "answer": "bpo dolly-2"}]
    assert [row["prompt"] for row in augment.training_rows(made, answers, "original")] == ["p0", "p2"]
    assert len(augment.training_rows(made, answers, "bpo", 1)) == 1


def test_questions_are_a_part_of_every_set_and_no_matter_of_order():
    rows = rewrites(40) + rewrites(20, "vicuna") + [records.Rewrite("x", "dolly", "identity", "p", "p")]
    some = systems.questions(rows, 30)
    assert [row.test_set for row in some] == ["dolly"] * 20 + ["vicuna"] * 10
    assert {row.id for row in systems.questions(rows[::-1], 30)} == {row.id for row in some}
    assert len(systems.questions(rows, None)) == 60


def test_every_comparison_pairs_the_answers_that_its_name_says():
    asked = rewrites(2)
    answers = {
        f"{model}-{seed}": {
            text: f"{model} {seed} {text}" for row in asked for text in (row.prompt, row.optimized_prompt)
        }
        for model in systems.RLHF
        for seed in (1, 2)
    }
    questions = {("dolly", row.id): f"Q {row.id}" for row in asked}
    found = {
        each.rewriter: (each.optimized, each.original)
        for each in compare.matches(compare.rlhf(), asked, questions, answers, [1, 2])
        if each.answer_model == "2" and each.id == "dolly-1"
    }
    assert found == {
        "PG : ori": ("policy_gradient 2 p1", "original 2 p1"),
        "BPO : PG": ("original 2 o1", "policy_gradient 2 p1"),
        "BPO+PG : ori": ("policy_gradient 2 o1", "original 2 p1"),
        "BPO+PG : PG": ("policy_gradient 2 o1", "policy_gradient 2 p1"),
        "DPO : ori": ("dpo 2 p1", "original 2 p1"),
        "BPO : DPO": ("original 2 o1", "dpo 2 p1"),
        "BPO+DPO : ori": ("dpo 2 o1", "original 2 p1"),
        "BPO+DPO : DPO": ("dpo 2 o1", "dpo 2 p1"),
    }


def verdict(comparison, seed, id, letter, judge="rubric"):
    return records.Verdict(id, "dolly", comparison, str(seed), judge, letter, letter, letter, "", "")


def test_rows_count_over_seeds_and_the_first_named_wins_with_b():
    chosen = compare.rlhf()[:1]
    letters = {1: "BBC", 2: "BAB"}
    verdicts = [verdict("PG : ori", s, str(n), letter) for s, text in letters.items() for n, letter in enumerate(text)]
    (row,) = compare.rows(chosen, verdicts)
    assert (row["A"], row["B"], row["C"], row["n"], row["seeds"]) == (1, 4, 1, 3, 2)
    assert row["net_win"] == pytest.approx(0.5) and row["spread"] == pytest.approx([2 / 3, 1 / 3], abs=1e-4)
    assert list(row)[:3] == ["experiment", "comparison", "judge"]
    (card,) = compare.cards([row], {"rlhf": "mini:weak"})
    assert card.claim == "t5_ppo_vs_original" and -1 <= card.low <= card.high <= 1


def test_topics_of_the_instruction_set_are_counted_apart():
    questions = {("dolly", str(n)): f"What are {topic}?" for n, topic in enumerate(["maps", "glaciers"] * 2)}
    instructions = [records.TestPrompt("i", "set", "Why are maps useful?", "", "question")]
    verdicts = [verdict("BPO-2 : ori-9", 1, str(n), letter) for n, letter in enumerate("BABC")]
    sizes = {"ori_full": 9, "bpo_full": 9, "bpo_small": 2}
    found = compare.by_topic(compare.augmentation(sizes)[:1], verdicts, questions, instructions)
    assert {row["topics"]: (row["B"], row["A"], row["C"]) for row in found} == {
        "in the set": (2, 0, 0),
        "not in the set": (0, 1, 1),
    }


def test_looks_are_spread_evenly_and_end_with_the_training():
    assert dpo.looked_at(80, 3) == {27, 53, 80} and dpo.looked_at(2, 1) == {2} and dpo.looked_at(2, 4) == {1, 2}


def test_claims_of_both_tables_are_known():
    from bpo_utils import reproduced

    sizes = {"ori_full": 1000, "bpo_full": 1000, "bpo_small": 100}
    for each in (*compare.rlhf(), *compare.augmentation(sizes)):
        reproduced.card(each.claim, 0.1, 0.0, 0.2, 100, 3)
    assert [each.name for each in compare.augmentation(sizes)] == ["BPO-100 : ori-1000", "BPO-1000 : ori-1000"]


@pytest.mark.parametrize(
    ("reward", "rubric", "word"),
    [
        ((0.1, 0.3), (-0.4, -0.1), "yes"),
        ((0.1, 0.3), (-0.4, 0.1), "in part"),
        ((0.1, 0.3), (0.1, 0.2), "no: both"),
        ((-0.1, 0.3), (-0.4, -0.1), "no: the reward"),
    ],
)
def test_hacked_means_reward_up_and_rubric_down(reward, rubric, word):
    change = {"reward_low": reward[0], "rubric_low": rubric[0], "rubric_high": rubric[1]}
    assert curves.verdict(change).startswith(word)


def test_figures_repeat_byte_by_byte_in_both_languages(tmp_path):
    chosen = compare.rlhf()
    verdicts = [
        verdict(each.name, s, str(n), "BAC"[(n + s) % 3], judge)
        for each in chosen
        for judge in ("rubric", "preference")
        for s in (1, 2)
        for n in range(4)
    ]
    rows = compare.rows(chosen, verdicts)
    points = [
        {"model": model, "seed": seed, "step": step, "reward": step / 9, "rubric": seed, "kl": step, "tokens": 30}
        for model in ("PG", "DPO")
        for seed in (1, 2)
        for step in (0, 4, 8)
    ]
    for language in ("en", "zh"):
        made = [figures.rlhf(rows, "miniature", tmp_path / f"{n}", language) for n in "ab"]
        made += [figures.reward(points, 24, "miniature", tmp_path / f"r{n}", language) for n in "ab"]
        for one, two in ((made[0], made[1]), (made[2], made[3])):
            assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
        assert ("miniature" if language == "en" else "微缩") in made[0][-1].read_text(encoding="utf-8")


def test_the_profiles_that_have_the_notebook_name_models_that_are_there():
    for name in ("mini", "smoke"):
        run = profile.load(name)
        settings = run.aligning
        assert settings.instructions.answered_by in [model.name for model in run.answer_models]
        assert settings.instructions.small < settings.instructions.full
        for base in (settings.base, settings.reward, settings.instructions.base):
            base_folder(base)


def test_named_rows_go_by_claim_judge_and_topics():
    row = {
        "claim": "t6_full",
        "judge": "rubric",
        "comparison": "BPO-24 : ori-24",
        "net_win": 0.2,
        "n": 11,
        "spread": [0.2],
    }
    assert compare.named([row | {"spread": [0.2]}]) == {"t6_full": {"rubric": {"net_win": 0.2, "n": 11}}}
    both = [row | {"topics": "in the set"}, row | {"topics": "not in the set", "net_win": -0.1}]
    assert compare.named(both)["t6_full"]["not in the set"]["rubric"]["net_win"] == -0.1
