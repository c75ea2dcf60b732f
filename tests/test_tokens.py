"""Where the loss falls, proved on ids: nothing of the frame, all of the optimized prompt and the end mark."""

import os
import shutil

import llama_tokenizer
import pytest

from bpo_utils import data, records, tokens
from bpo_utils.mini import models
from bpo_utils.training import setup


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


PAIRS = [
    records.Pair("short", "maps", "Explain maps.", "s"),
    records.Pair("long", "sleep " + "maps " * 300 + "tides", "Explain maps.", "s"),
    records.Pair("long-target", "maps", "Explain maps. " * 100, "s"),
]


def test_overlong_prompts_lose_their_middle_and_keep_the_frame(tokenizer):
    encoded = tokens.encode_pairs(tokenizer, PAIRS, 256, "keep_frame")
    assert (encoded.ids, encoded.cut, encoded.left_out) == (["short", "long"], ["long"], ["long-target"])
    cut = encoded.examples[1]
    whole = tokens.encode(tokenizer, tokens.framed(tokens.REWRITER_FRAME, PAIRS[1].prompt), "")
    assert len(cut["input_ids"]) == 256
    text = tokenizer.decode(cut["input_ids"])
    before, after = tokens.REWRITER_FRAME.split("{prompt}")
    assert text.startswith(f"<s> {before}sleep maps") and f"maps tides{after}" in text
    assert text.endswith("Explain maps.</s>")
    assert cut["input_ids"][:100] == whole["input_ids"][:100]


def test_overlong_pairs_are_left_out_by_name_if_the_profile_says_so(tokenizer):
    encoded = tokens.encode_pairs(tokenizer, PAIRS, 256, "leave_out")
    assert (encoded.ids, encoded.cut, encoded.left_out) == (["short"], [], ["long", "long-target"])
    assert encoded.said() == "too long: 0 cut (none), 2 left out (long, long-target)"


def test_upstreams_rule_cuts_the_longer_part_and_with_it_the_frame(tokenizer):
    encoded = tokens.encode_pairs(tokenizer, PAIRS, 256, "upstream")
    assert encoded.cut == ["long", "long-target"] and not encoded.left_out
    assert all(len(example["input_ids"]) == 256 for example in encoded.examples[1:])
    assert "[INST]" not in tokenizer.decode(encoded.examples[1]["input_ids"])
    taught = [label for label in encoded.examples[2]["labels"] if label != tokens.IGNORED]
    assert tokenizer.decode(taught).endswith("</s>") and len(taught) < 401


@pytest.mark.parametrize("parts", [((9, 3), (5, 3)), ((3, 9), (3, 5)), ((6, 6), (4, 4)), ((2, 2), (2, 2))])
def test_upstreams_rule_takes_one_id_at_a_time(parts):
    (prompt, target), (prompt_left, target_left) = parts
    left = tokens.cut_like_upstream(list(range(prompt)), list(range(target)), 8)
    assert left == (list(range(prompt - prompt_left, prompt)), list(range(target_left)))


def test_an_unknown_rule_is_refused(tokenizer):
    with pytest.raises(ValueError, match="too_long 'drop': there are leave_out, keep_frame and upstream"):
        tokens.encode_pairs(tokenizer, PAIRS, 256, "drop")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return setup.load_tokenizer(str(llama_tokenizer.build(tmp_path_factory.mktemp("llama"))))


def real_pairs():
    """The 300 validation rows as upstream trained on them; skipped where its files are not at hand."""
    if "BPO_DATA_DIR" not in os.environ:
        pytest.skip("BPO_DATA_DIR is not set: upstream's recorded files are not at hand")
    published = data.load_published()
    return [records.Pair(id, row.final_input, row.final_output, "val") for id, row in published.items()]


def test_real_rows_get_upstreams_ids_and_labels(llama):
    # The oracle is SentencePiece itself, which upstream's slow tokenizer calls.
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(llama_tokenizer.model_file()))
    pairs = real_pairs()
    assert len(pairs) == 300
    for pair in pairs:
        example = tokens.encode(llama, tokens.framed(tokens.REWRITER_FRAME, pair.prompt), pair.optimized_prompt)
        framed = tokens.REWRITER_FRAME.replace("{prompt}", pair.prompt)
        prompt, target = pieces.encode(framed), pieces.encode(pair.optimized_prompt)
        assert example["input_ids"] == [1, *prompt, *target, 2]
        assert example["labels"] == [tokens.IGNORED] * (1 + len(prompt)) + [*target, 2]


def test_labels_of_real_rows_decode_to_the_optimized_prompt(llama):
    for pair in real_pairs()[:20]:
        example = tokens.encode(llama, tokens.framed(tokens.REWRITER_FRAME, pair.prompt), pair.optimized_prompt)
        taught = [label for label in example["labels"] if label != tokens.IGNORED]
        assert taught[-1] == llama.eos_token_id
        assert llama.decode(taught[:-1]) == pair.optimized_prompt


def test_a_llama_tokenizer_that_joins_spaces_is_refused(tmp_path):
    shutil.copy(llama_tokenizer.model_file(), tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"reads 'a  b' as .* lacks Llama's tokenizer.json"):
        setup.load_tokenizer(str(tmp_path))


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
