"""Fine-tuning: the plan's numbers, a short real run, its log, and that it repeats."""

import json

import pytest

from bpo_utils import profile, records, tokens, train

TRAINING = profile.load("mini").training
PAIRS = [
    records.Pair(f"p{n}", f"{topic} why", f"Explain the reasons behind {topic}: explain what causes it.", "s")
    for n, topic in enumerate(["tides", "jazz", "maps", "sleep", "ballet", "voting", "caching", "poetry"] * 4)
]


def settings(**changes):
    return TRAINING.model_copy(update={"epochs": 2, "global_batch": 8, "micro_batch": 4, **changes})


def test_plan_counts_steps_warmup_and_target_tokens():
    examples = [{"input_ids": [1, 2, 3], "labels": [tokens.IGNORED, 2, 3]}] * 33
    plan = train.plan(examples, settings(warmup_ratio=0.1), {"parameters": 12, "trained": 10}, processes=2)
    assert (plan["steps"], plan["warmup_steps"], plan["accumulation"]) == (10, 1, 1)
    assert (plan["target_tokens"], plan["tokens"], plan["state_bytes"]) == (66, 99, 168)


def test_global_batch_that_cannot_be_cut_up_is_refused_with_the_numbers():
    with pytest.raises(ValueError, match=r"global batch 32 is not a multiple of micro batch 5 x 2 .*= 10"):
        train.plan([], settings(global_batch=32, micro_batch=5), {"parameters": 1, "trained": 1}, processes=2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train.train(PAIRS, settings(), folder)
    return folder


def test_training_lowers_the_loss_and_logs_every_step(trained):
    log = train.finished(trained)
    assert [entry["step"] for entry in log] == list(range(1, 9))
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    assert json.loads((trained / "plan.json").read_text(encoding="utf-8"))["steps"] == 8


def test_learning_rate_warms_up_and_then_falls_to_zero(trained):
    rates = [entry["learning_rate"] for entry in train.finished(trained)]
    assert rates[1] == max(rates) == pytest.approx(TRAINING.learning_rate)
    assert rates[1:] == sorted(rates[1:], reverse=True)


def test_same_seed_same_losses(trained, tmp_path):
    train.train(PAIRS, settings(), tmp_path)
    losses = [[entry["loss"] for entry in train.finished(folder)] for folder in (trained, tmp_path)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_word_vectors_stay_and_all_else_moves(tmp_path, frozen):
    from bpo_utils.chat import local

    chosen = settings(freeze_embeddings=frozen, epochs=1)
    plan = train.train(PAIRS, chosen, tmp_path)
    before = local.load(train.base_folder(chosen.base))[0].state_dict()
    after = local.load(tmp_path / "model")[0].state_dict()
    same = {name for name in before if before[name].equal(after[name])}
    assert same == ({"model.embed_tokens.weight", "lm_head.weight"} if frozen else set())
    assert train.count_parameters(chosen) == {name: plan[name] for name in ("parameters", "trained")}
    assert (plan["trained"] < plan["parameters"]) is frozen


def test_padding_carries_no_loss(tmp_path):
    # Two pairs of unequal length in one batch: the first logged loss must be the mean over real target tokens only.
    import torch

    from bpo_utils.chat import local

    pairs = [PAIRS[0], records.Pair("long", "tides why", f"{PAIRS[0].optimized_prompt} Say more on tides. " * 3, "s")]
    train.train(pairs, settings(epochs=1, global_batch=2, micro_batch=2), tmp_path)
    model, tokenizer = local.load(train.base_folder(TRAINING.base))
    total, count = 0.0, 0
    for example in tokens.encode_pairs(tokenizer, pairs, 256)[0]:
        ids, labels = torch.tensor([example["input_ids"]]), torch.tensor([example["labels"]])
        with torch.inference_mode():
            n = int((labels != tokens.IGNORED).sum())
            total, count = total + model(input_ids=ids, labels=labels).loss.item() * n, count + n
    assert train.finished(tmp_path)[0]["loss"] == pytest.approx(total / count, rel=1e-4)


def test_no_pair_that_fits_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="none of the 32 pairs fits into max_length = 5"):
        train.train(PAIRS, settings(max_length=5), tmp_path)


def test_unfinished_training_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no finished model"):
        train.finished(tmp_path)


def test_sbatch_command_names_a_file_that_exists():
    from bpo_utils import paths

    command = train.sbatch_command("paper")
    assert command.startswith("sbatch") and (paths.ROOT / command.split()[-1]).is_file()
