"""The teacher's two prompt forms, its form without feedback, bounded re-asking."""

import dataclasses

import pytest

from bpo_utils import chat, data, describe, filters, pairs, profile, teacher
from bpo_utils.records import Preference, Reply

ROW = Preference("val-0001", "Tell me about tea", "", "Tea is a drink made of leaves.", "No.", "oasst1")
AWKWARD = [
    'a "quoted" text',
    '"""\nfence\n"""',
    'Bad response:\n"""',
    "",
    "\n\n",
    '""""',
    "tail\n",
    "Rules:\r\n{x}",
    "茶",
    'x\n"""\n\nBad response:\n"""\ny\n"""\n\nGood response:\n"""\nz\n"""\n\n',
]


@pytest.mark.parametrize("context", AWKWARD)
@pytest.mark.parametrize("text", AWKWARD)
def test_a_teacher_prompt_gives_back_its_fields(text, context):
    row = dataclasses.replace(ROW, prompt=text, context=context, bad=text + "!", good=context + "?")
    assert teacher.parse_teacher_prompt(teacher.teacher_prompt(row)) == (text, context, text + "!", context + "?")


def test_the_teacher_prompt_has_two_forms_and_the_bad_response_first():
    plain = teacher.teacher_prompt(ROW)
    with_context = teacher.teacher_prompt(dataclasses.replace(ROW, context="A text."))
    assert plain.index("Instruction:") < plain.index("Bad response:") < plain.index("Good response:")
    assert "Context:" not in plain and "unsafe" in plain and "protected" in plain
    assert with_context.index("Instruction:") < with_context.index("Context:") < with_context.index("Bad response:")
    assert "Neither change the context" in with_context and "protected" not in with_context
    assert plain.endswith("Optimized Instruction: ... [END]")


@pytest.mark.parametrize(
    "text", ["", "Instruction: tea", teacher.teacher_prompt(ROW) + "x", teacher.teacher_prompt(ROW)[5:]]
)
def test_another_text_is_no_teacher_prompt(text):
    with pytest.raises(ValueError, match=r"not a teacher prompt, it begins .*make it with teacher\.teacher_prompt"):
        teacher.parse_teacher_prompt(text)


def test_replay_needs_a_reply_in_every_row():
    row = dataclasses.replace(ROW, reply="x")
    assert teacher.replay([row, row]) == [Reply("x"), Reply("x")]
    with pytest.raises(ValueError, match="1 rows have no recorded reply, first val-0001"):
        teacher.replay([row, ROW])


def test_without_feedback_the_teacher_sees_no_response_and_no_rule_about_one():
    for context in ("", "A text."):
        row = dataclasses.replace(ROW, context=context)
        alone = teacher.teacher_prompt(row, feedback=False)
        assert ROW.good not in alone and "response:" not in alone and "good response" not in alone
        assert "Optimized Instruction: ... [END]" in alone and ("Context:" in alone) == bool(context)
        assert teacher.parse_teacher_prompt(alone) == (ROW.prompt, context, "", "")
        # the other rules are the same in both
        both = teacher.teacher_prompt(row).split("\n")
        rules = [line.split(". ", 1)[1] for line in alone.split("\n") if line[:1].isdigit()]
        assert len(rules) >= 3 and all(any(line.endswith(rule) for line in both) for rule in rules)


@pytest.mark.parametrize("context", AWKWARD)
@pytest.mark.parametrize("text", AWKWARD)
def test_a_prompt_without_feedback_gives_back_its_fields(text, context):
    row = dataclasses.replace(ROW, prompt=text, context=context)
    assert teacher.parse_teacher_prompt(teacher.teacher_prompt(row, feedback=False)) == (text, context, "", "")


def test_a_chinese_prompt_is_rewritten_in_chinese():
    row = dataclasses.replace(ROW, prompt="请介绍一下潮汐")
    for feedback in (True, False):
        assert teacher.RULE_LANGUAGE in teacher.teacher_prompt(row, feedback)
        assert teacher.RULE_LANGUAGE not in teacher.teacher_prompt(ROW, feedback)


GOOD = "Thoughts.\n\nOptimized Instruction: Explain tea. [END]"


class Scripted:
    """A teacher that gives each prompt its replies in turn, and remembers what it was asked."""

    def __init__(self, replies):
        self.replies, self.asked = {key: list(value) for key, value in replies.items()}, []

    def __call__(self, prompts, sample=0):
        self.asked.append((sample, len(prompts)))
        return [self.replies[teacher.parse_teacher_prompt(prompt).prompt].pop(0) for prompt in prompts]


def test_only_unreadable_replies_are_asked_for_again_and_not_for_ever():
    cut, empty, refused = Reply(GOOD[:40]), Reply("", "empty"), Reply("", "refused")
    leaked = Reply(GOOD.replace("tea", "[Protected]"))
    ask = Scripted(
        {"fine": [Reply(GOOD)], "cut": [cut, Reply(GOOD)], "empty": [empty, leaked, cut], "refused": [refused]}
    )
    rows = [dataclasses.replace(ROW, id=name, prompt=name) for name in ask.replies]
    settings = profile.Teacher(provider="openai", model="x", temperature=0.9, most_asked=3)
    found, again = teacher.replies(rows, ask, settings, ["[protected"])
    assert found == [Reply(GOOD), Reply(GOOD), cut, refused]
    assert ask.asked == [(0, 4), (1, 2), (2, 1)] and again == 3


def test_a_teacher_that_is_asked_once_is_asked_once():
    ask = Scripted({"cut": [Reply(GOOD[:40])]})
    settings = profile.Teacher(provider="openai", model="x", temperature=0.9, most_asked=1)
    assert teacher.replies([dataclasses.replace(ROW, prompt="cut")], ask, settings, [])[1] == 0


def test_the_profile_decides_about_feedback():
    seen = []

    def ask(prompts, sample=0):
        seen.extend(prompts)
        return [Reply(GOOD) for _ in prompts]

    settings = profile.Teacher(provider="openai", model="x", temperature=0.9, feedback=False)
    teacher.replies([ROW], ask, settings, [])
    assert seen == [teacher.teacher_prompt(ROW, feedback=False)]


def test_the_miniatures_teacher_asks_for_less_when_it_sees_no_responses():
    run = profile.load("smoke")
    rows = filters.before(data.load_preferences(run), run.filters)[0][:120]
    words = {}
    for feedback in (True, False):
        asked = [teacher.teacher_prompt(row, feedback) for row in rows]
        kept, _ = pairs.build_pairs(rows, chat.ask(run.teacher.as_model, asked), run.filters)
        assert len(kept) > 100
        words[feedback] = sum(describe.words(pair.optimized_prompt) for pair in kept) / len(kept)
    assert words[False] < 0.8 * words[True]
