"""Rewriting in its modes, what is counted, and the file it goes on from; the controls."""

import json
import os
import signal
import subprocess
import sys

import pytest

from bpo_utils import profile, records, rewrite, rewriters, shard_files
from bpo_utils.chat import local
from bpo_utils.mini import models
from bpo_utils.tokens import ANSWER_FRAME, framed

PROMPTS = [
    records.TestPrompt("a", "dolly", "why maps", "Passage: Maps are old.", ""),
    records.TestPrompt("b", "vicuna", "What is jazz and where does it come from?", "", ""),
]
Reply = records.Reply
GREEDY = profile.Rewriting(temperature=0.0, top_p=1.0, max_new_tokens=24, batch_size=3, seed=1)
CHILD = """
import sys
from bpo_utils import profile, records, rewrite, rewriters, rewrites_file
from bpo_utils.mini import models
from pathlib import Path
append = rewrites_file.Opened.append
def then_wait(file, rows):
    append(file, rows)
    print("written", flush=True)
    sys.stdin.read()  # the first block is as far as this process gets
rewrites_file.Opened.append = then_wait
prompts = [records.TestPrompt(str(n), "dolly", "tea " * (n + 1), "", "") for n in range(4)]
settings = profile.Rewriting(temperature=1.0, top_p=0.9, max_new_tokens=8, batch_size=1, seed=1)
rewrite.rewrite(prompts, models.folder("weak"), settings, cache=Path(sys.argv[1]))
"""


class Scripted:
    """A rewriter that says what it is told to: {text: replies, one for each time it is asked}. Its tokens are words."""

    def __init__(self, **said: list[str | Reply]) -> None:
        self.said = {text.replace("_", " "): list(replies) for text, replies in said.items()}
        self.asked: list[tuple[list[str], int]] = []
        self.length = lambda text: len(text.split())

    def ask(self, texts: list[str], sample: int) -> list[Reply]:
        self.asked.append((texts, sample))
        found = [self.said[text].pop(0) for text in texts]
        return [reply if isinstance(reply, Reply) else Reply(reply) for reply in found]


def through(mode, scripted, *texts, **changes):
    """What becomes of the texts (of all that the script has) in a mode."""
    settings = GREEDY.model_copy(update={"mode": mode, **changes})
    return rewrite.through(scripted, list(texts or scripted.said), settings)


def tea(count):
    return [records.TestPrompt(str(n), "dolly", "tea " * (n + 1), "", "") for n in range(count)]


# Modes


def test_a_prompt_is_rewritten_once_and_what_came_of_it_is_said():
    tags = "a [KEEP] b"
    cut, room = Reply("so on and", finish="length"), Reply("", "too_long")
    scripted = Scripted(plain=["better"], good=["good"], none=[Reply("", "empty")], long=[cut], tag=[tags], huge=[room])
    found = through("stable", scripted, "plain", "good", "none", "", "long", "tag", "huge", "good", "  ")
    assert [(row.optimized_prompt, row.outcome) for row in found] == [
        ("better", ""),
        ("good", "unchanged"),
        ("", "empty"),
        ("", "empty_prompt"),
        ("so on and", "cut"),
        (tags, "leaked"),
        ("", "too_long"),
        ("good", "unchanged"),
        ("", "empty_prompt"),
    ]
    assert scripted.asked == [(["plain", "good", "none", "long", "tag", "huge"], 0)]


def test_only_empty_prompts_ask_nobody():
    scripted = Scripted()
    assert [row.outcome for row in through("iterative", scripted, "", " ")] == ["empty_prompt"] * 2
    assert scripted.asked == []


def test_aggressive_takes_the_first_sample_that_grew_and_draws_only_where_none_did():
    cut = Reply("cut x x x x x", finish="length")
    scripted = Scripted(
        a=["a b c d"], b=["b x", cut, "b then x x"], c=["c x", "c", "c x"], d=[Reply("", "too_long")], e=[cut, cut, cut]
    )
    found = {row.prompt: row for row in through("aggressive", scripted, samples=3, min_growth_tokens=3)}
    assert scripted.asked == [(["a", "b", "c", "d", "e"], 0), (["b", "c", "e"], 1), (["b", "c", "e"], 2)]
    assert [found[text].optimized_prompt for text in "abcde"] == ["a b c d", "b then x x", "c x", "", cut.text]
    assert [found[text].outcome for text in "abcde"] == ["", "", "not_grown", "too_long", "cut"]
    assert found["b"].steps == ("b x", cut.text, "b then x x")


def test_aggressive_cuts_leaked_tags_off_before_it_looks_at_the_length():
    own = "Say [INSTRUCTION] and [INSERT NAME]"
    scripted = Scripted(x=["x [PROTECTED x x x]", "x is so [KEEP THE x", "y"])
    scripted.said[own] = [f"{own} in three long sentences"]
    first, second = through("aggressive", scripted, "x", own, samples=3, min_growth_tokens=2)
    assert (first.optimized_prompt, first.outcome, len(first.steps)) == ("x is so", "leaked", 2)
    assert (second.optimized_prompt, second.outcome) == (f"{own} in three long sentences", "")


def test_iterative_goes_on_until_nothing_changes_and_keeps_every_round():
    scripted = Scripted(
        a=["aa"], aa=["aaa"], aaa=["aaa"], b=["b"], c=["cc"], cc=[Reply("", "empty")], d=[Reply("dd", finish="length")]
    )
    found = through("iterative", scripted, "a", "b", "c", "d", rounds=5)
    assert [row.steps for row in found] == [("aa", "aaa", "aaa"), ("b",), ("cc",), ("dd",)]
    assert [row.optimized_prompt for row in found] == ["aaa", "b", "cc", "dd"]
    assert [row.outcome for row in found] == ["", "unchanged", "", "cut"]
    assert [texts for texts, _ in scripted.asked] == [["a", "b", "c", "d"], ["aa", "cc"], ["aaa"]]
    turns = Scripted(a=["b", "b", "b"], b=["a", "a", "a"])
    assert through("iterative", turns, "a", rounds=5)[0].steps == ("b", "a", "b", "a", "b")


def test_greedy_samples_nothing_whatever_the_temperature():
    model, settings = models.folder("weak"), GREEDY.model_copy(update={"mode": "greedy", "temperature": 2.0})
    assert rewrite.rewrite(PROMPTS, model, settings) == rewrite.rewrite(PROMPTS, model, GREEDY)


def test_a_profile_without_a_model_says_so(tmp_path):
    published = GREEDY.model_copy(update={"mode": "published"})
    for cache in (None, tmp_path / "cache.jsonl"):
        with pytest.raises(ValueError, match="published has no model"):
            rewrite.rewrite(PROMPTS, tmp_path, published, cache=cache)


# What is counted


def test_prompts_of_every_kind_are_counted_and_the_longest_is_refused_by_its_id():
    texts = {
        "empty": "",
        "long": "tea " * 600,
        "chinese": "请解释什么是经济危机，以及它为什么会发生。",
        "plain": "why maps",
    }
    prompts = [records.TestPrompt(name, "dolly", text, "", "") for name, text in texts.items()]
    said = []
    rows = rewrite.rewrite(prompts, models.folder("weak"), GREEDY, tell=said.append)
    assert [row.id for row in rows] == ["empty", "chinese", "plain"] and rewrite.refused(prompts, rows) == ["long"]
    assert said[0].startswith("1 of 4 prompts have no rewrite") and said[0].endswith(": long")
    found = rewrite.counts(prompts, [*rows, *rewrite.identity(prompts)])
    assert [found[name] for name in ("prompts", "rewrites", "refused", "empty_prompt", "not_english")] == [
        4,
        3,
        1,
        1,
        1,
    ]
    assert found["cut"] == sum(row.outcome == "cut" for row in rows)
    assert rows[1].prompt == texts["chinese"] and set(rewrite.MARKS) < found.keys()


# The file it goes on from


def test_what_the_file_has_is_not_made_again(tmp_path, monkeypatch):
    cache, model = tmp_path / "rewrites.cache.jsonl", models.folder("weak")
    first = rewrite.rewrite(tea(4), model, GREEDY, cache=cache)
    assert first == rewrite.rewrite(tea(4), model, GREEDY)
    lines = [json.loads(line) for line in cache.read_text(encoding="utf-8").splitlines()]
    assert len({line["key"] for line in lines}) == 4 and [line["prompt"] for line in lines] == [
        rewrite.text_of(row) for row in tea(4)
    ]
    asked, load = [], rewriters.load
    monkeypatch.setattr(rewriters, "load", lambda *given: asked.append(given) or load(*given))
    other = GREEDY.model_copy(update={"batch_size": 1})
    assert rewrite.rewrite(tea(4)[::-1], model, other, cache=cache) == first[::-1] and not asked
    more = rewrite.rewrite(tea(5), model, GREEDY, cache=cache)
    assert more[:4] == first and cache.read_bytes().count(b"\n") == 5 and len(asked) == 1
    before = cache.read_bytes()
    rewrite.rewrite(tea(2), model, GREEDY.model_copy(update={"seed": 2}), cache=cache)
    rewrite.rewrite(tea(2), models.folder("strong"), GREEDY, cache=cache)
    assert cache.read_bytes().startswith(before) and cache.read_bytes().count(b"\n") == 9


def test_a_killed_run_goes_on_after_its_last_block_and_ends_with_the_same_bytes(tmp_path, capsys):
    cache, settings = tmp_path / "cache.jsonl", GREEDY.model_copy(update={"temperature": 1.0, "top_p": 0.9})
    settings = settings.model_copy(update={"max_new_tokens": 8, "batch_size": 1})
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", CHILD, str(cache)], env=os.environ, **pipes) as child:
        assert child.stdout.readline() == b"written\n"
        with pytest.raises(ValueError, match=r"another process works on .*cache.jsonl"):
            rewrite.rewrite(tea(4), models.folder("weak"), settings, cache=cache)
        child.send_signal(signal.SIGKILL)
    assert cache.read_bytes().count(b"\n") == 1
    shard_files.put(cache, '{"key": "half')
    rewrite.rewrite(tea(4), models.folder("weak"), settings, cache=cache)
    assert "dropped 13 bytes of an unfinished last line" in capsys.readouterr().out
    whole = cache.read_bytes()
    cache.unlink()
    rewrite.rewrite(tea(4), models.folder("weak"), settings, cache=cache)
    assert cache.read_bytes() == whole and whole.count(b"\n") == 4


def test_a_damaged_line_is_named(tmp_path):
    cache = tmp_path / "cache.jsonl"
    rewrite.rewrite(tea(3), models.folder("weak"), GREEDY, cache=cache)
    cache.write_bytes(cache.read_bytes().replace(b'"prompt"', b'"promt"', 1))
    with pytest.raises(ValueError, match=r"cache.jsonl, line 1 is damaged .*; delete it"):
        rewrite.rewrite(tea(3), models.folder("weak"), GREEDY, cache=cache)


# Controls


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


def test_drop_words_takes_characters_from_chinese():
    row = rewrite.drop_words([records.TestPrompt("c", "vicuna", "请解释什么是量子力学", "", "")])[0]
    assert len(row.optimized_prompt) == 5 and " " not in row.optimized_prompt


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


def test_rows_that_finish_leave_the_batch_and_the_others_are_none_the_wiser(monkeypatch):
    model, tokenizer = models.load("strong")
    texts = [framed(ANSWER_FRAME, text) for text in ("why maps", "What is jazz?", "tides", "sleep benefits", "tea")]
    sizes, forward = [], model.forward
    monkeypatch.setattr(model, "forward", lambda *a, **k: sizes.append(len(k["input_ids"])) or forward(*a, **k))
    long = GREEDY.model_copy(update={"max_new_tokens": 60, "batch_size": 5})
    together = local.generate(model, tokenizer, texts, long)
    assert sizes[0] == 5 and sizes == sorted(sizes, reverse=True) and sizes[-1] < 5
    assert together == [local.generate(model, tokenizer, [text], long)[0] for text in texts]


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
