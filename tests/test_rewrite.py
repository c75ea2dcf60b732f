"""Rewriting and the controls; generation in batches equals generation one by one."""

import pytest

from bpo_utils import profile, records, rewrite
from bpo_utils.chat import local
from bpo_utils.mini import models
from bpo_utils.tokens import ANSWER_FRAME, framed

PROMPTS = [
    records.TestPrompt("a", "dolly", "why maps", "Passage: Maps are old.", ""),
    records.TestPrompt("b", "vicuna", "What is jazz and where does it come from?", "", ""),
]
GREEDY = profile.Decoding(temperature=0.0, top_p=1.0, max_new_tokens=24, batch_size=3, seed=1)


def test_identity_changes_nothing():
    assert all(row.prompt == row.optimized_prompt for row in rewrite.identity(PROMPTS))


def test_drop_words_keeps_half_of_the_words_in_order_and_repeats():
    rows = rewrite.drop_words(PROMPTS)
    for row in rows:
        words = row.prompt.split()
        kept = row.optimized_prompt.split()
        assert len(kept) == len(words) // 2
        places = iter(words)
        assert all(word in places for word in kept)
    assert rows == rewrite.drop_words(PROMPTS)


def test_unknown_control_is_named():
    with pytest.raises(ValueError, match="no control 'mirror'"):
        rewrite.controls(["mirror"], PROMPTS)


def test_batches_give_what_single_prompts_give():
    model, tokenizer = models.load("strong")
    texts = [
        framed(ANSWER_FRAME, text) for text in ("why maps", "What is jazz?", "tides", "sleep benefits", "why maps")
    ]
    together = local.generate(model, tokenizer, texts, GREEDY)
    alone = [local.generate(model, tokenizer, [text], GREEDY)[0] for text in texts]
    assert together == alone and together[0] == together[4]


def test_seed_repeats_sampling_and_another_seed_does_not():
    model, tokenizer = models.load("weak")
    texts = [framed(ANSWER_FRAME, f"{topic} explained") for topic in ("maps", "jazz", "tides", "sleep")]
    sampled = GREEDY.model_copy(update={"temperature": 1.5})
    first = local.generate(model, tokenizer, texts, sampled)
    assert first == local.generate(model, tokenizer, texts, sampled)
    assert first != local.generate(model, tokenizer, texts, sampled.model_copy(update={"seed": 2}))


def test_rewrite_feeds_instruction_and_context_and_returns_one_row_per_prompt():
    rows = rewrite.rewrite(PROMPTS, models.folder("base"), GREEDY)
    assert [row.id for row in rows] == ["a", "b"] and rows[0].prompt == "why maps\nPassage: Maps are old."
    assert all(row.rewriter == "bpo" for row in rows)
