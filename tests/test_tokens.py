"""Where the loss falls, proved on ids: nothing of the frame, all of the optimized prompt and the end mark."""

import pytest

from bpo_utils import records, tokens
from bpo_utils.mini import models


@pytest.fixture(scope="module")
def tokenizer():
    return models.load("base")[1]


def test_loss_falls_on_optimized_prompt_and_end_mark_only(tokenizer):
    framed = tokens.framed(tokens.REWRITER_FRAME, "wats photosynthesis good for")
    example = tokens.encode(tokenizer, framed, "Describe the benefits of photosynthesis.")
    trained = [token for token in example["labels"] if token != tokens.IGNORED]
    assert tokenizer.decode(trained) == "Describe the benefits of photosynthesis.</s>"
    untrained = [i for i, label in zip(example["input_ids"], example["labels"], strict=True) if label == tokens.IGNORED]
    assert untrained == tokens.prompt_ids(tokenizer, framed) and untrained[0] == tokenizer.bos_token_id


def test_frame_takes_a_prompt_with_braces_as_it_is():
    assert "{x} {prompt}" in tokens.framed(tokens.REWRITER_FRAME, "{x} {prompt}")


def test_overlong_pairs_are_left_out_by_name(tokenizer):
    pairs = [
        records.Pair("short", "maps", "Explain maps.", "s"),
        records.Pair("long", "maps " * 300, "Explain maps.", "s"),
    ]
    examples, too_long = tokens.encode_pairs(tokenizer, pairs, 256)
    assert len(examples) == 1 and too_long == ["long"]


@pytest.mark.parametrize("text", ["maps why", "Explain maps.\nPassage: A short one.", 'how 2 do maps "Passage: A b."'])
def test_tokenizer_gives_every_text_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_topic_has_the_same_ids_at_the_start_of_a_line_and_inside(tokenizer):
    inside = tokenizer.encode("why photosynthesis", add_special_tokens=False)
    start = tokenizer.encode("a:\nphotosynthesis why", add_special_tokens=False)
    assert inside[-1] in start


def test_loss_view_marks_trained_tokens_and_escapes(tokenizer):
    view = tokens.loss_view(tokenizer, tokens.encode(tokenizer, "[INST] a < b [/INST]", "maps"))
    assert view.count("background") == 2 and "&lt;" in view
