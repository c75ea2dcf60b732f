import dataclasses
import random
from collections import Counter

import pytest

from bpo_utils import filters, pairs, profile, published, teacher
from bpo_utils.records import Pair, Preference, Reply

ROW = Preference("val-0001", "Tell me about tea", "", "Tea is a drink made of leaves.", "No.", "oasst1")


def reply(text: str, end: str = " [END]") -> str:
    return f"Comparison: the good one says more.\n\nOptimized Instruction: {text}{end}"


def test_a_reply_gives_back_its_instruction():
    assert pairs.parse_reply(teacher.teacher_reply("The good one is longer.\n", "Explain tea.\n\nBriefly.")) == (
        "Explain tea.\n\nBriefly."
    )


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('"Explain tea."', "Explain tea."),
        ('"Explain \\"green\\" tea.\\nBriefly."', 'Explain "green" tea.\nBriefly.'),
        ('"Explain \\"tea\\".\nBriefly."', 'Explain "tea".\nBriefly.'),
        ("'Explain tea.'", "Explain tea."),
        ("“Explain tea.”", "Explain tea."),
        ('"List games like "Chess"."', 'List games like "Chess".'),
        ('"Ann" and "Bob" drink tea', '"Ann" and "Bob" drink tea'),
        ('Who says "tea"', 'Who says "tea"'),
        ('"Ann" or "Bob"', '"Ann" or "Bob"'),
        ('"Explain tea, and never close', "Explain tea, and never close"),
        ("'Tis tea, isn't it?", "'Tis tea, isn't it?"),
        ("'Don't explain tea.'", "Don't explain tea."),
        ('"Explain \\frac{a}{b}."', "Explain \\frac{a}{b}."),
        ("__import__('os').getcwd()", "__import__('os').getcwd()"),
        ('"a" + "b"', '"a" + "b"'),
        ("['a']", "['a']"),
        ("*Explain* tea", "*Explain* tea"),
        ('I suggest the following optimized instruction:\n\n"Explain tea."\n\nIt is clearer.', "Explain tea."),
    ],
)
def test_quotes_are_taken_off_without_running_anything(written, read):
    assert pairs.parse_reply(reply(written)) == read


@pytest.mark.parametrize(
    "marker",
    ["Optimized Instruction:", "**Optimized Instruction:**", "**Optimized instruction**:", "## Optimised prompt:"],
)
def test_markers_that_teachers_write(marker):
    assert pairs.parse_reply(f"Comparison: x\n\n{marker} Explain tea. [END] Bye.") == "Explain tea."


def test_a_marker_inside_a_line_counts_only_in_its_exact_form():
    assert pairs.parse_reply("All is well. Optimized Instruction: Explain tea. [END]") == "Explain tea."
    with pytest.raises(pairs.MalformedReply):
        pairs.parse_reply("My optimized instruction: Explain tea. [END]")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("The good one is better. [END]", "no marker"),
        ("", "no marker"),
        (reply("Explain te", end=""), "no end mark"),
        ("[END]\nOptimized Instruction: Explain", "no end mark"),
        (reply(""), "empty instruction"),
        (reply('""'), "empty instruction"),
        (reply("Explain [PROTECTED_1] tea"), "leaked marker"),
    ],
)
def test_a_malformed_reply_says_why(text, reason):
    with pytest.raises(pairs.MalformedReply, match=f"^{reason} in the teacher's reply") as caught:
        pairs.parse_reply(text)
    assert caught.value.reason == reason and isinstance(caught.value, ValueError)


def forms(instruction: str, optimized: str, context: str, draws: int = 1) -> Counter:
    rng = random.Random(1)
    return Counter(pairs.put_context_back(instruction, optimized, context, rng) for _ in range(draws))


def test_without_context_nothing_changes():
    assert set(forms("Tea?", "Explain tea.", "")) == {("Tea?", "Explain tea.")}


def test_a_rewrite_that_holds_the_context_stays_as_it_is():
    assert set(forms("Translate", "Translate Green Tea.", "green tea", 50)) == {
        ("Translate\ngreen tea", "Translate Green Tea.")
    }


@pytest.mark.parametrize(
    ("before", "after"), [("Sum up:", "Sum up well"), ("Do this", "Do the following"), ("As follows", "So")]
)
def test_follow_or_a_colon_puts_the_context_below(before, after):
    assert set(forms(before, after, "A text.", 50)) == {(f"{before}\nA text.", f"{after}\nA text.")}


def test_else_the_six_forms_come_with_upstreams_probabilities():
    counts = forms("I", "O", "C", 16000)
    share = {form: count / 16000 for form, count in counts.items()}
    assert share == {
        ("I\nC", "O\nC"): pytest.approx(0.25, abs=0.02),
        ("C\nI", "C\nO"): pytest.approx(0.25, abs=0.02),
        ("I C", "O C"): pytest.approx(0.0625, abs=0.02),
        ("C I", "C O"): pytest.approx(0.0625, abs=0.02),
        ('I "C"', 'O "C"'): pytest.approx(0.1875, abs=0.02),
        ('"C" I', '"C" O'): pytest.approx(0.1875, abs=0.02),
    }


def recorded(**filters) -> profile.Profile:
    loaded = profile.load("recorded")
    return loaded.model_copy(update={"filters": loaded.filters.model_copy(update=filters)})


def built(rows, replies, **changes):
    """(pairs, rejected, waterfall): the filters before the teacher and after it, with the profile's limits changed."""
    limits = recorded(**changes).filters
    passed, dropped = filters.before(rows, limits)
    answered = dict(zip([row.id for row in rows], replies, strict=True))
    kept, refused = pairs.build_pairs(passed, [Reply(answered[row.id]) for row in passed], limits)
    names = (*filters.BEFORE, *pairs.AFTER)
    return kept, dropped + refused, filters.waterfall(len(rows), dropped + refused, limits, names)


LOST = {"prompt": "Draw this", "context": "art"}  # "art" is in "start": upstream's rule takes it for the context


@pytest.mark.parametrize(
    ("change", "answer", "reason", "text"),
    [
        ({"prompt": " \n"}, reply("Explain tea."), "empty prompt", " \n"),
        ({"prompt": "tea"}, reply("Explain tea."), "too short", "tea"),
        ({"prompt": "TELL me  about tea "}, reply("Explain tea."), "duplicate prompt", "TELL me  about tea "),
        ({"prompt": "Same answers", "good": "No. "}, reply("Explain tea."), "good equals bad", "No. "),
        ({"prompt": "Reply is odd"}, "I am sorry.", "no marker", "I am sorry."),
        ({"prompt": "Reply is cut"}, reply("Exp", end=""), "no end mark", reply("Exp", end="")),
        ({"prompt": "Reply is empty"}, reply(""), "empty instruction", reply("")),
        ({"prompt": "Reply leaks it"}, reply("Do [Protected] it"), "leaked marker", reply("Do [Protected] it")),
        ({"prompt": "one two three four five"}, reply("Count numbers"), "shrinks too much", "Count numbers"),
        ({"prompt": "one two"}, reply("w " * 13), "grows too much", ("w " * 13).strip()),
        (LOST, reply("Draw the start"), "context lost", "Draw the start"),
    ],
)
def test_each_filter_removes_its_row_and_says_so(change, answer, reason, text):
    bad = dataclasses.replace(ROW, id="val-0002", **change)
    kept, rejected, waterfall = built([ROW, bad], [reply("Explain tea to a child."), answer])
    assert kept == [Pair("val-0001", ROW.prompt, "Explain tea to a child.", "oasst1")]
    assert [(row.id, row.reason, row.text) for row in rejected] == [("val-0002", reason, text)]
    assert waterfall[0] == {"filter": "all rows", "limit": "", "removed": 0, "kept": 2}
    assert [step["removed"] for step in waterfall if step["filter"] == reason] == [1]
    assert [step["filter"] for step in waterfall[1:]] == [*filters.BEFORE, *pairs.AFTER]
    kept_after = [step["kept"] for step in waterfall]
    assert kept_after == sorted(kept_after, reverse=True) and kept_after[-1] == 1


def test_the_limits_themselves_pass():
    rows = [dataclasses.replace(ROW, id=i, prompt=p) for i, p in [("a", "one two three four"), ("b", "one two")]]
    kept, rejected, _ = built(rows, [reply("two words"), reply("w " * 12)])
    assert len(kept) == 2 and not rejected


def test_length_rules_leave_rows_with_context_alone():
    row = dataclasses.replace(ROW, prompt="Sum up:", context="A long text about tea.")
    kept, _, _ = built([row], [reply("w " * 60)])
    assert kept[0].prompt == "Sum up:\nA long text about tea."
    assert kept[0].optimized_prompt == ("w " * 60).strip() + "\nA long text about tea."


def test_the_profile_sets_the_limits():
    kept, _, _ = built(
        [dataclasses.replace(ROW, prompt="tea")], [reply("w " * 20)], min_prompt_words=1, max_growth=20.0
    )
    assert len(kept) == 1
    _, rejected, _ = built([ROW], [reply("Explain {{tea}} leaves")], leaked_markers=["{{TEA"])
    assert rejected[0].reason == "leaked marker"


def test_chinese_contexts_are_put_back_and_found():
    row = dataclasses.replace(ROW, prompt="请总结下面的内容：", context="地图是古老的图画。")
    kept, rejected, _ = built([row], [reply("请用两句话总结下面的内容：")], min_prompt_words=2)
    assert kept[0].optimized_prompt == "请用两句话总结下面的内容：\n地图是古老的图画。" and not rejected
    held = reply("请用两句话总结这段话地图是古老的图画。并说明原因")  # the teacher put it into its sentence
    assert built([row], [held])[0][0].optimized_prompt.count("地图是古老的图画。") == 1


def test_the_form_of_a_row_does_not_depend_on_the_other_rows():
    rows = [dataclasses.replace(ROW, id=f"val-{n}", prompt=f"Sum up {n}", context="A text.") for n in range(30)]
    replies = [reply("Sum up well")] * 30
    forward = {pair.id: pair for pair in built(rows, replies)[0]}
    backward = {pair.id: pair for pair in built(rows[::-1], replies)[0]}
    assert forward == backward and len({pair.optimized_prompt for pair in forward.values()}) > 2


def test_rows_and_replies_must_match():
    with pytest.raises(ValueError, match="1 rows but 0 replies"):
        pairs.build_pairs([ROW], [], recorded().filters)


@pytest.mark.parametrize("outcome", ["refused", "empty", "too_long"])
def test_a_teacher_that_did_not_answer_gives_no_pair(outcome):
    kept, refused = pairs.build_pairs([ROW], [Reply("", outcome)], recorded().filters)
    assert not kept and [(row.reason, row.detail) for row in refused] == [("no reply", outcome)]


def test_agreement_counts_and_lists_what_differs():
    texts = {"a": "Explain tea.", "b": '"Explain "tea"."', "c": "Explain tea. ", "d": "Explain tea."}
    rows = [dataclasses.replace(ROW, id=i, reply=reply(text)) for i, text in texts.items()]
    rows.append(dataclasses.replace(ROW, id="e", prompt="Sum up", context="A text.", reply=reply("Sum up well")))
    rows.append(dataclasses.replace(ROW, id="f", reply="nothing"))
    theirs = {i: (text, ROW.prompt, text) for i, text in texts.items()}
    theirs["d"] = ("Explain tea.", ROW.prompt, "Explain coffee.")
    theirs["e"] = ("Sum up well", 'A text. "Sum up"', 'A text. "Sum up well"')  # the form of the first release
    theirs["f"] = ("Explain tea.", ROW.prompt, "Explain tea.")
    result = published.agreement(rows, theirs)
    assert [(d["id"], d["kind"]) for d in result.pop("differences")] == [
        ("b", "quotes"),
        ("c", "white space"),
        ("d", "pair"),
        ("f", "malformed"),
    ]
    assert result == {
        "rows": 6,
        "parsed": 5,
        "with_context": 1,
        "optimized_exact": 3,
        "optimized_same": 5,
        "upstream_exact": 5,  # all but the reply without a marker
        "pair_exact": 1,
        "pair_same_pieces": 2,
        "rule_same_pieces": 5,
    }
