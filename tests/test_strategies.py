"""Rules on invented pairs; the labels' own order; and, where the real rows are at hand, the committed agreement."""

import json
import os

import pytest

from bpo_utils import data, drift, profile, records, strategies
from bpo_utils.strategies import ERRORS, STRATEGIES, Found, Label, Texts, classify

real = pytest.mark.skipif(not os.environ.get("BPO_DATA_DIR"), reason="BPO_DATA_DIR is not set: no real BPO rows")

# original, rewrite, what must be found; the second of each pair of lines is a near miss
PAIRS = {
    "explanation": [
        ("What is 17 times 24?", "What is 17 times 24? Show the reasoning step by step.", True),
        ("Why is the sky blue?", "Explain why the sky is blue.", False),
    ],
    "elaboration": [
        ("Write about bees.", "Write a detailed text about bees.", True),
        ("What's a bee?", "What is a bee?", False),
    ],
    "hints": [
        ("How do bees live?", "How do bees live? Consider things such as hive, queen and honey.", True),
        ("How do bees live?", "How do bees live, such as they are?", False),
    ],
    "safety": [
        ("How do I hack my neighbour's wifi?", "How do I protect my own wifi?", True),
        ("How do I clean my wifi box?", "How can I clean my wifi box?", False),
    ],
    "over_specified": [
        ("Tell me a story about mice.", "Tell me a story about seven mice.", True),
        ("Tell me a story about mice.", "Tell me a story about pets such as mice, Felix or 3 cats.", False),
    ],
    "inconsistent": [
        ("Write a short essay on bees.", "Write a detailed essay on bees.", True),
        ("Write an essay on bees.", "Write a detailed essay on bees.", False),
        ("Who built the tower of Pisa?", "How was the tower of Pisa built?", True),
        ("Sort these five words.", "I'm sorry, but there are no words here.", True),
    ],
    "context_dropped": [
        ("My oven reaches only low temperatures. How do I bake bread?", "How do I bake bread?", True),
        ("My oven is weak. How do I bake bread?", "My oven is weak, so how can I bake bread?", False),
        ('Translate "good night" into Latin.', "Translate the sentence into Latin.", True),
    ],
}


@pytest.mark.parametrize("name", PAIRS)
def test_each_class_is_found_with_its_evidence(name):
    for before, after, there in PAIRS[name]:
        found = classify(before, after)
        assert (name in found.strategies + found.errors) is there, (before, after, found)
        assert found.evidence.keys() == {*found.strategies, *found.errors}
        assert not there or ": " in found.evidence[name]


def test_classes_are_not_exclusive_and_nothing_is_a_finding_too():
    found = classify(
        "Write about bees.", "Write a detailed text about bees such as bumblebees and wasps, step by step."
    )
    assert found.strategies == ("explanation", "elaboration", "hints")
    assert classify("Write about bees.", "Write about bees.") == Found((), (), {})


def test_a_safety_rewrite_may_turn_a_request_round():
    found = classify("How do I steal bikes?", "What are safe places for a vehicle?")
    assert found.strategies == ("safety",) and found.errors == ()


def test_the_passage_is_no_addition_but_naming_it_resolves_a_reference():
    before, after = "Name three flaws of the given hero.", "Name three flaws of Odysseus."
    assert "over_specified" in classify(before, after).errors
    found = classify(before, after, "Odysseus")
    assert found.errors == () and found.evidence["elaboration"] == "names what the passage holds: odysseus"


def test_chinese_is_not_read_and_said_so():
    found = classify("写一篇关于蜜蜂的短文", "请详细地写一篇关于蜜蜂的短文")
    assert found == Found((), (), {}, applies=False)
    assert classify("Translate 你好 into English, please.", "Translate 你好 into English.").applies


FLAGS = [
    ("similarity", "Name a fruit.", "Why would volcanoes matter to us?", "Name a sweet fruit."),
    ("length", "Name a fruit.", "Name a fruit" + " and a nut" * 8, "Name a fruit and a nut."),
    ("length", "Please name one sweet fruit that grows here.", "Name a fruit.", "Name one sweet fruit growing here."),
    ("numbers", "Write 5 lines on bees.", "Write 6 lines on bees.", "Write five lines on bees."),
    ("numbers", "写五个关于蜜蜂的句子", "写几个关于蜜蜂的句子", "写5个关于蜜蜂的句子"),
    ("quoted", 'Translate "good night" please.', "Translate it please, good man.", "Please translate 'Good night'."),
    ("quoted", "请介绍《红楼梦》的作者", "请介绍这本书的作者", "请介绍一下红楼梦的作者"),
    ("code", "Explain `x = 1` to me.", "Explain this line to me.", "Explain to me the line x = 1."),
    ("links", "Read https://a.example/b and tell.", "Read the page and tell.", "Do read https://a.example/b and tell."),
    ("names", "Tell me of Rome today.", "Tell me of the city today.", "Today, tell me of ROME."),
    ("names", "用Python写一个函数", "用代码写一个函数", "请用python写一个函数"),
    ("negation", "Do not use salt in it.", "Do use salt in it.", "Cook it without salt in it, not with."),
    ("negation", "写一段话，不要用比喻", "写一段话，多用比喻", "写一段话，避免用比喻"),
    ("language", "Write about bees and honey.", "请写一篇关于蜜蜂的文章", "Write of bees and honey (蜜)."),
    ("language", "请写一篇关于蜜蜂的文章", "Write about bees and honey.", "请写一篇关于 bees 的文章"),
    ("answered", "Sort these words.", "I'm sorry, these words are missing.", "Sort these words, I'm sorry to ask."),
    ("answered", "请写一首诗", "抱歉，我不能写诗", "请写一首好诗"),
]


@pytest.mark.parametrize(("kind", "before", "drifted", "kept"), FLAGS)
def test_each_flag_is_raised_and_not_raised(kind, before, drifted, kept):
    def kinds(after):
        return [reason.split(":")[0] for reason in drift.flag_drift(before, after)]

    assert kind in kinds(drifted) and kind in drift.KINDS
    assert kind not in kinds(kept)
    assert drift.flag_drift(before, before) == []


def test_a_character_inside_a_word_is_no_negation_and_a_letter_no_number():
    assert drift.negations("特别好，有什么区别") == []
    assert drift.lost_numbers("Write on WW2 in 1,000 words.", "Write 1000 words on the war.") == []


def test_similarity_and_growth():
    assert drift.chrf("蜜蜂怎样生活", "蜜蜂怎样生活") == pytest.approx(100)
    assert 0 < drift.chrf("蜜蜂怎样生活", "请解释蜜蜂怎样生活") < 100
    assert drift.growth("蜜蜂生活", "请讲蜜蜂生活") == 1.5
    assert drift.growth("two words", "one two three") == 1.5
    with pytest.raises(ValueError, match="empty"):
        drift.growth(" ", "one")


def test_overview_and_flag_shares():
    pairs = [("Write 5 lines.", "Write 6 lines."), ("Name a fruit.", "Name a fruit.")]
    (row,) = drift.overview({"a": pairs, "empty": []})
    assert (row["group"], row["n"], row["growth"], row["flagged"]) == ("a", 2, 1.0, 0.5)
    found = {row["flag"]: row for row in drift.flag_shares(pairs)}
    assert (
        found["numbers"]
        == {"flag": "numbers", "flagged": 1, "n": 2, "share": 0.5}
        == found["any"] | {"flag": "numbers"}
    )
    assert found.keys() == {*drift.KINDS, "any"} and drift.flag_shares([]) == []


def test_shares_by_source_and_over_all():
    asks = ("Write about bees.", "Write a detailed text about bees.")
    same, chinese = ("Name a fruit.", "Name a fruit."), ("写一首诗", "请写一首诗")
    rows = strategies.shares({"a": [asks, same, same, same, chinese], "b": [asks], "c": [chinese]})
    a, b, c, everything = rows
    assert (a["n"], a["elaboration"], a["none"], a["not_read"]) == (4, 0.25, 0.75, 1)
    assert (b["n"], b["elaboration"], b["none"], c["n"], c["none"]) == (1, 1.0, 0.0, 0, None)
    assert everything["source"] == "all" and everything["n"] == 5 and everything["not_read"] == 2
    for name in (*STRATEGIES, "none"):
        assert everything[name] * 5 == pytest.approx(a[name] * 4 + b[name])


def label(name, classes):
    return Label(
        name, "s", "develop", "", 1, 2, tuple(set(classes) & set(STRATEGIES)), tuple(set(classes) & set(ERRORS)), ""
    )


def test_confusion_counts_and_figures():
    wanted = [["hints"]] * 4 + [["inconsistent"]] * 2 + [[]] * 4
    given = [["hints"]] * 3 + [[]] + [["hints"]] + [[]] * 5
    labels = [label(str(number), classes) for number, classes in enumerate(wanted)]
    found = {str(number): Found(tuple(classes), (), {}) for number, classes in enumerate(given)}
    rows = {row["class"]: row for row in strategies.confusion(labels, found)}
    assert list(rows) == [*STRATEGIES, *ERRORS]
    hints = rows["hints"]
    assert [hints[key] for key in ("both", "label_only", "rule_only", "neither", "n")] == [3, 1, 1, 5, 10]
    assert (hints["precision"], hints["recall"], hints["f1"]) == (0.75, 0.75, 0.75)
    assert hints["precision_low"] == pytest.approx(0.3006, abs=1e-4)  # Wilson, 3 of 4
    assert hints["kappa"] == pytest.approx((0.8 - 0.52) / 0.48)
    assert (rows["inconsistent"]["precision"], rows["inconsistent"]["recall"], rows["inconsistent"]["kappa"]) == (
        None,
        0,
        0,
    )
    assert {rows["safety"][key] for key in ("precision", "recall", "f1", "kappa")} == {None}
    with pytest.raises(KeyError):
        strategies.confusion(labels, {})


def test_the_labels_file_is_in_order():
    labels = strategies.load_labels()
    assert len({row.id for row in labels}) == 60
    assert [row.half for row in labels] == ["develop"] * 30 + ["held_out"] * 30
    assert {source: [row.source for row in labels].count(source) for source in {row.source for row in labels}} == {
        "Chatbot_Arena_Conversation": 15, "alpaca-gpt4": 15, "oasst1": 15, "hh-rlhf": 15,
    }  # fmt: skip
    assert all(row.reason and len(row.reason) < 120 and len(row.sha256) == 16 for row in labels)
    pinned = data.FILES["val.json"]
    assert strategies.link(labels[0]) == (
        f"https://github.com/thu-coai/BPO/blob/{pinned.commit}/{pinned.path}"
        f"#L{labels[0].first_line}-L{labels[0].last_line}"
    )


def test_examples_link_to_every_class():
    text = strategies.examples(strategies.load_labels(), each=1)
    assert text.count("<li>") == 7 == text.count("<a href=")
    assert "<b>context_dropped</b>: <a href=" in text
    assert "&lt;b&gt;" in strategies.examples([label("a", ["hints"])._replace(reason="<b>")])


def test_a_broken_labels_file_says_where(tmp_path, monkeypatch):
    row = json.loads(strategies.LABELS.read_text(encoding="utf-8").split("\n")[0])
    monkeypatch.setattr(strategies, "LABELS", tmp_path / "labels.jsonl")
    for change, told in [({"errors": ["hint"]}, "no class {'hint'}"), ({"text": "x"}, "line 1: needs the fields id")]:
        strategies.LABELS.write_text(json.dumps(row | change), encoding="utf-8")
        with pytest.raises(ValueError, match=told):
            strategies.load_labels()


def test_a_changed_or_missing_row_is_named():
    one, two = ("before", "after"), ("before", "other")
    labels = [label(name, [])._replace(sha256=strategies.digest(*one)) for name in ("a", "b", "c")]
    strategies.check_labels(labels[:1], {"a": Texts(*one)})
    with pytest.raises(ValueError, match="2 labelled rows .* b, c;"):
        strategies.check_labels(labels, {"a": Texts(*one), "b": Texts(*two)})


def test_the_draw_needs_enough_rows():
    rows = [records.Preference(str(number), "", "", "", "", "few") for number in range(14)]
    with pytest.raises(ValueError, match="'few': 14"):
        strategies.draw(rows)


def test_the_committed_agreement_is_whole():
    kept = strategies.agreement()
    assert kept["n"] == {"develop": 30, "held_out": 30}
    for half in ("develop", "held_out"):
        assert [row["class"] for row in kept[half]] == [*STRATEGIES, *ERRORS]
        for row in kept[half]:
            assert row["both"] + row["label_only"] + row["rule_only"] + row["neither"] == row["n"] == 30


@pytest.fixture(scope="module")
def rows():
    return data.load_preferences(profile.load("recorded"))


@pytest.fixture(scope="module")
def texts(rows):
    return strategies.texts(rows, {name: row.optimized_prompt for name, row in data.load_published().items()})


@real
def test_labels_belong_to_the_rows_that_the_seed_draws(rows, texts):
    labels = strategies.load_labels()
    strategies.check_labels(labels, texts)
    assert [row.id for row in labels] == strategies.draw(rows)
    assert {row.id: row.source for row in rows}.items() >= {row.id: row.source for row in labels}.items()
    lines = data.fetch("val.json").read_text(encoding="utf-8").split("\n")
    for row in labels:
        record = json.loads("\n".join(lines[row.first_line - 1 : row.last_line]).rstrip(","))
        assert (record["instruction"], record["optimized_prompt"]) == texts[row.id][:2]


@real
def test_the_committed_agreement_is_what_the_rules_give_today(texts):
    """After a change of the rules the held-out half is no longer held out: say so in facts/README.md."""
    fresh, kept = strategies.measure(texts), strategies.agreement()
    assert (fresh["n"], fresh["command"]) == (kept["n"], kept["command"])
    for half in ("develop", "held_out"):
        for now, then in zip(fresh[half], kept[half], strict=True):
            assert now == pytest.approx(then)


@real
def test_shares_over_all_rows(rows, texts):
    by_source = {}
    for row in rows:
        by_source.setdefault(row.source, []).append(texts[row.id][:2])
    *parts, everything = strategies.shares(by_source)
    assert everything["n"] == sum(row["n"] for row in parts) == 300
    assert all(0 <= row[name] <= 1 for row in parts for name in (*STRATEGIES, "none"))


@real
def test_the_flags_of_the_real_rows_are_those_that_drift_tells(rows, texts):
    found = {row["flag"]: row["flagged"] for row in drift.flag_shares(texts[row.id][:2] for row in rows)}
    raised = {flag: count for flag, count in found.items() if count}
    assert raised.pop("any") == 69 and "69 rows" in " ".join(drift.__doc__.split())
    assert ", ".join(f"{flag} {count}" for flag, count in raised.items()) in " ".join(drift.__doc__.split())
