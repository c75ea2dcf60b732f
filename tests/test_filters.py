"""What is removed before the teacher is asked, and that every removal is told."""

import json
import os
import random
from pathlib import Path

import pytest

from bpo_utils import data, filters, language, profile, segment
from bpo_utils.records import Preference, Rejected

FOLDER = os.environ.get("BPO_DATA_DIR")
PREFERENCES = os.environ.get("BPO_PREFERENCES_DIR")
OFF = profile.Filters(min_prompt_words=1, max_growth=6.0, max_shrink=2.0, leaked_markers=[])


def row(id: str, prompt: str, context: str = "", good: str = "good", bad: str = "bad") -> Preference:
    return Preference(id, prompt, context, good, bad, "own")


def removed(rows, **changes):
    """(ids that pass, {id: (reason, detail)})."""
    passed, dropped = filters.before(rows, OFF.model_copy(update=changes))
    return [each.id for each in passed], {each.id: (each.reason, each.detail) for each in dropped}


def test_a_long_prompt_is_dropped_with_its_length():
    rows = [row("a", "one two three"), row("b", "one two three four")]
    assert removed(rows, max_prompt_words=3) == (["a"], {"b": ("too long", "4 words")})


def test_lengths_of_chinese_are_in_characters():
    assert removed([row("a", "请解释量子力学"), row("b", "茶")], min_prompt_words=2) == (
        ["a"],
        {"b": ("too short", "1 words")},
    )
    assert segment.words("请解释 tea 吗？") == ["请", "解", "释", "tea", "吗", "？"]
    assert segment.words("a b\n c") == ["a", "b", "c"]


def test_only_what_is_surely_another_language_is_dropped():
    rows = [
        row("en", "How do I bake bread at home without an oven?"),
        row("fr", "Comment puis-je apprendre à jouer du piano tout seul à la maison ?"),
        row("zh", "请用简单的语言解释一下什么是机器学习。"),
        row("short", "hello world"),
        row("none", "1 + 1 = ?"),
    ]
    passed, dropped = removed(rows, languages=["en"])
    assert passed == ["en", "short", "none"]
    assert {id: (reason, detail[:2]) for id, (reason, detail) in dropped.items()} == {
        "fr": ("other language", "fr"),
        "zh": ("other language", "zh"),
    }
    assert removed(rows, languages=["en", "zh", "fr"])[0] == [each.id for each in rows]
    with pytest.raises(ValueError, match=r"languages \['xx'\] are not told apart here"):
        removed(rows, languages=["xx"])


@pytest.mark.skipif(not FOLDER, reason="BPO_DATA_DIR is not set")
def test_real_english_prompts_are_rarely_called_something_else():
    texts = [each["instruction"] for each in json.loads((Path(FOLDER) / "val.json").read_text(encoding="utf-8"))]
    texts += [each["prompt"] for each in json.loads((Path(FOLDER) / "bpo_test.json").read_text(encoding="utf-8"))]
    assert len([text for text in texts if language.surely_other(text, ["en"])]) == 1  # which is Spanish


def test_near_duplicates_are_dropped_and_their_twin_is_named():
    text = "Write a short story about a lighthouse keeper who finds a message in a bottle."
    rows = [row("a", text), row("b", text.replace("short", "brief")), row("c", "Write a poem about the sea.")]
    passed, dropped = removed(rows, near_duplicates=0.75)
    assert passed == ["a", "c"] and dropped["b"][0] == "near duplicate" and dropped["b"][1].endswith(" to a")
    assert removed(rows, near_duplicates=0.95)[0] == ["a", "b", "c"]
    assert removed(
        [row("a", "请解释什么是机器学习，并举例说明。"), row("b", "请解释什么是机器学习，并举例说明！")],
        near_duplicates=0.75,
    )[0] == ["a"]


def test_a_near_duplicate_of_a_dropped_row_may_stay():
    text = "Write a short story about a lighthouse keeper who finds a message in a bottle."
    rows = [row("a", text), row("b", f"{text} Make it long"), row("c", f"{text} Make it long, sad and true to life")]
    assert removed(rows, near_duplicates=0.75) == (["a", "c"], {"b": ("near duplicate", "0.85 to a")})


@pytest.mark.skipif(not PREFERENCES, reason="BPO_PREFERENCES_DIR is not set")
def test_the_index_finds_what_comparing_all_with_all_finds():
    files = [Path(PREFERENCES) / f"llamafactory_dpo_{name}_demo.json" for name in ("en", "zh")]
    rows = [each for file in files for each in json.loads(file.read_text(encoding="utf-8"))]
    texts = list(dict.fromkeys(each["conversations"][-1]["value"] for each in rows))
    rng = random.Random(1)
    for text in rng.sample(texts, 150):  # real texts with some words lost: similar to any degree
        words = text.split(" ") if " " in text else list(text)
        texts.append(
            ("" if words and len(words[0]) == 1 else " ").join(
                w for w in words if rng.random() > rng.choice([0.02, 0.1])
            )
        )
    parts = [filters.shingles(text) for text in texts]
    for threshold in (0.6, 0.8, 0.9):
        near, missed, found = filters.NearDuplicates(threshold), 0, 0
        for number, text in enumerate(texts):
            best = max(
                (len(parts[number] & other) / len(parts[number] | other) for other in parts[:number]), default=0.0
            )
            similarity = near.nearest(text)[1]
            assert similarity == 0.0 or similarity <= best + 1e-12
            found += similarity > 0
            missed += best >= threshold and similarity == 0.0
            near.add(str(number), text)
        assert found > 30 and missed == 0


def test_rows_that_say_what_the_others_say_are_dropped_by_their_bleu():
    rows = [
        row("a", "Explain how a steam engine works to a child."),
        row("b", "Explain how a petrol engine works to a child."),
        row("c", "What is the capital of France?"),
    ]
    passed, dropped = removed(rows, max_self_bleu=50.0)
    assert passed == ["a", "c"] and dropped["b"][0] == "too similar (self-BLEU)"
    assert removed(rows)[0] == ["a", "b", "c"]


def test_the_context_tells_two_equal_instructions_apart():
    rows = [
        row("a", "Summarize this.", "Maps are old drawings."),
        row("b", "Summarize this.", "Jazz began in the south."),
    ]
    assert removed(rows, near_duplicates=0.8, max_self_bleu=60.0)[0] == ["a", "b"]


def test_the_waterfall_counts_every_reason_and_refuses_one_it_does_not_know():
    steps = filters.waterfall(3, [Rejected("a", "too short", "x")], OFF, filters.BEFORE)
    assert [step["kept"] for step in steps] == [3, 3, 2, 2, 2, 2, 2, 2, 2]
    assert {step["filter"]: step["limit"] for step in steps}["too long"] == "off"
    with pytest.raises(ValueError, match=r"rejected for \['odd'\], which the waterfall does not name"):
        filters.waterfall(3, [Rejected("a", "odd", "x")], OFF, filters.BEFORE)


def test_every_filter_that_can_be_off_says_so_or_its_number():
    on = OFF.model_copy(
        update={"max_prompt_words": 300, "languages": ["en", "zh"], "near_duplicates": 0.9, "max_self_bleu": 70.0}
    )
    off = {name for name, told in filters.limits(OFF).items() if told == "off"}
    assert off == {"too long", "other language", "near duplicate", "too similar (self-BLEU)", "leaked marker"}
    told = filters.limits(on)
    assert (told["too long"], told["other language"]) == ("over 300 words", "surely not en or zh")
    assert (told["near duplicate"], told["too similar (self-BLEU)"]) == ("Jaccard 0.9 or more", "BLEU 70 or more")


def test_rows_and_kept_are_counted_by_source():
    rows = [row("a", "x"), row("b", "y"), Preference("c", "z", "", "g", "b", "other")]
    assert list(filters.by_source(rows, ["b", "c"])) == [
        {"dataset": "other", "rows": 1, "kept": 1},
        {"dataset": "own", "rows": 2, "kept": 1},
    ]


@pytest.mark.skipif(not PREFERENCES, reason="BPO_PREFERENCES_DIR is not set")
def test_the_filters_on_real_chinese_pairs():
    source = profile.Source(name="sharegpt", turn="last", files=["llamafactory_dpo_zh_demo.json"])
    rebuild = profile.load("rebuild")
    chosen = rebuild.data.model_copy(update={"preferences": [source], "validation_rows": 0})
    rows = data.load(rebuild.model_copy(update={"data": chosen})).rows
    passed, dropped = filters.before(rows, rebuild.filters.model_copy(update={"languages": ["zh"]}))
    reasons = {reason: sum(each.reason == reason for each in dropped) for reason in filters.BEFORE}
    assert {reason: count for reason, count in reasons.items() if count} == {
        "too long": 46,  # in characters
        "other language": 3,  # translation tasks that are mostly in the other language
        "duplicate prompt": 10,
        "too similar (self-BLEU)": 1,
    }
    assert len(passed) == 240
