"""Batches without padding: examples that do not see each other, an order that repeats, and a loss that counts right."""

import pytest

from bpo_utils import tokens
from bpo_utils.chat import local
from bpo_utils.training import batches, setup

TEXTS = [
    ("wats jazz", "Explain jazz."),
    ("maps why", "Explain the reasons behind maps: what causes them."),
    ("a", "B."),
]


@pytest.fixture(scope="module")
def base():
    return local.load(setup.base_folder("mini:base"))[0], setup.load_tokenizer("mini:base")


@pytest.fixture(scope="module")
def examples(base):
    frame = tokens.REWRITER_FRAME
    return [tokens.encode(base[1], tokens.framed(frame, prompt), target) for prompt, target in TEXTS]


def singly(model, examples):
    """Logits of each example on its own, at the positions that have a label after them."""
    import torch

    found = []
    for example in examples:
        taught = [n for n, label in enumerate(example["labels"][1:]) if label != tokens.IGNORED]
        with torch.inference_mode():
            found.append(model(input_ids=torch.tensor([example["input_ids"]])).logits[0, taught])
    return torch.cat(found)


def flattened(model, tokenizer, examples, **more):
    import torch

    batch = batches.collator("flat", tokenizer)(examples) | more
    batch.pop("labels")
    with torch.inference_mode():
        return model(**batch, use_cache=False).logits[0]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_flattened_examples_do_not_see_each_other(base, examples, attention):
    import torch

    model, tokenizer = base
    before = model.config._attn_implementation
    model.set_attn_implementation(attention)
    try:
        together, alone = flattened(model, tokenizer, examples), singly(model, examples)
        model.double()
        exact = flattened(model, tokenizer, examples), singly(model, examples)
    finally:
        model.float().set_attn_implementation(before)
    assert (together - alone).abs().max() < 1e-5 * alone.abs().max()  # the scale at which float32 rounds
    # In float64 rounding is out of the way: what one example took from another would stay.
    torch.testing.assert_close(*exact, rtol=1e-11, atol=1e-11)


def test_an_all_ones_mask_would_let_them_see_each_other(base, examples):
    # The counter-test: the comparison above must notice the classical fault.
    import torch

    model, tokenizer = base
    mask = torch.ones(1, sum(len(example["input_ids"]) for example in examples), dtype=torch.long)
    mixed = flattened(model, tokenizer, examples, attention_mask=mask)
    assert (mixed - singly(model, examples)).abs().max().item() > 0.1


def test_only_positions_with_a_label_go_through_the_output_layer(base, examples):
    batch = batches.collator("flat", base[1])(examples)
    taught = sum(label != tokens.IGNORED for example in examples for label in example["labels"])
    assert len(batch["logits_to_keep"]) == taught == len(flattened(*base, examples))
    assert batch["position_ids"][0].tolist() == [n for e in examples for n in range(len(e["input_ids"]))]
    assert "attention_mask" not in batch and "cu_seq_lens_q" not in batch


def test_flash_attention_gets_the_borders(base, examples):
    batch = batches.collator("flat", base[1], flash=True)(examples)
    ends = [0]
    for example in examples:
        ends.append(ends[-1] + len(example["input_ids"]))
    assert batch["cu_seq_lens_q"].tolist() == batch["cu_seq_lens_k"].tolist() == ends


@pytest.mark.parametrize("batching", ["flat", "pad"])
def test_loss_of_a_batch_is_that_of_its_examples(base, examples, batching):
    import torch

    model, tokenizer = base
    batch = batches.collator(batching, tokenizer)(examples)
    labels = batch.pop("labels")
    with torch.inference_mode():
        total, count = batches.summed_loss(model(**batch, use_cache=False).logits, labels)
        alone = 0.0
        for example in examples:
            ids, own = torch.tensor([example["input_ids"]]), torch.tensor([example["labels"]])
            alone += model(input_ids=ids, labels=own).loss.item() * int((own != tokens.IGNORED).sum())
    assert count == sum(label != tokens.IGNORED for example in examples for label in example["labels"])
    assert total.item() == pytest.approx(alone, rel=1e-5)


def test_the_two_means_differ_where_targets_differ_in_length():
    import torch

    outputs = type("Outputs", (), {})()
    outputs.logits = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[-100, 1, 2, -100, 3, 4]])
    total, count = batches.summed_loss(outputs.logits, labels)
    assert count == 4
    over_tokens = batches.loss_function("tokens")(outputs, labels, num_items_in_batch=10)
    over_micro_batch = batches.loss_function("micro_batches")(outputs, labels, num_items_in_batch=10)
    assert over_tokens == pytest.approx(total.item() / 10) and over_micro_batch == pytest.approx(total.item() / 4)


def test_logits_of_another_batch_are_refused():
    import torch

    with pytest.raises(ValueError, match="3 positions with logits, 2 with a label"):
        batches.summed_loss(torch.zeros(1, 3, 5), torch.tensor([[-100, 1, 2, -100, -100]]))


def test_order_depends_on_seed_and_epoch_alone():
    first = batches.order(10, 1, 0, 4, drop_last=False)
    assert sorted(first) == list(range(10)) and first == batches.order(10, 1, 0, 4, drop_last=False)
    assert first != batches.order(10, 1, 1, 4, drop_last=False) and first != batches.order(10, 2, 0, 4, drop_last=False)
    assert batches.order(10, 1, 0, 4, drop_last=True) == first[:8]


def test_sampler_follows_the_epoch_it_is_told():
    sampler = batches.Sampler(10, 1, 4, drop_last=True)
    sampler.set_epoch(3)
    assert list(sampler) == batches.order(10, 1, 3, 4, drop_last=True) and len(sampler) == 8


def test_a_short_last_batch_is_filled_up_with_what_teaches_nothing(examples):
    sampler = batches.Sampler(10, 1, 4, drop_last=False, at_once=4)
    assert list(sampler) == [*batches.order(10, 1, 0, 4, drop_last=False), 10, 10] and len(sampler) == 12
    blank = batches.blank(examples)
    assert set(blank["labels"]) == {tokens.IGNORED} and len(blank["input_ids"]) == len(blank["labels"])


def test_computed_tokens_count_padding():
    assert batches.computed_tokens([5, 3, 4, 2, 7], 2, "flat") == 21
    assert batches.computed_tokens([5, 3, 4, 2, 7], 2, "pad") == 5 * 2 + 4 * 2 + 7


def test_token_weights_add_up_under_both_means():
    rows = batches.token_weights([10, 30, 5, 5], 2)
    assert [row["target tokens"] for row in rows] == [40, 10]
    for mean in ("tokens", "micro_batches"):
        assert sum(row["target tokens"] * row[f"weight of a token, {mean}"] for row in rows) == pytest.approx(100)
    assert [row["weight of a token, micro_batches"] for row in rows] == [1.25, 5.0]
