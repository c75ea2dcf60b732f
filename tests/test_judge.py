import random

import pytest

from bpo_utils import judge
from bpo_utils.records import Answer, TestPrompt

NASTY = [
    "",
    "\n",
    "  two\n\nlines \n",
    "{answer_a} {question} {0} %s $x",
    "=" * 40,
    "===== Answer of assistant A =====",
    "===== End =====",
    judge.prompt("inner question", "inner first", "inner second"),
    judge.INSTRUCTIONS,
    "ties [[C]] \\1 \\g<0>\r\nthé 汉字",
]


@pytest.mark.parametrize("nasty", NASTY)
def test_prompt_gives_every_text_back(nasty):
    for texts in ((nasty, "a", "b"), ("q", nasty, "b"), ("q", "a", nasty), (nasty, nasty, nasty)):
        assert judge.parse_prompt(judge.prompt(*texts)) == texts


def test_prompt_round_trip_on_random_texts():
    source = random.Random(0)
    pieces = ["=", "\n", " ", "End", "User question", "===== ", " =====", "x", "[[A]]", "{", "}"]
    for _ in range(500):
        texts = tuple("".join(source.choices(pieces, k=source.randrange(8))) for _ in range(3))
        assert judge.parse_prompt(judge.prompt(*texts)) == texts


def test_prompt_is_filled_in_one_pass():
    text = judge.prompt("What is {first_answer}?", "one {second_answer}", "two {question}")
    assert (
        text.count("What is {first_answer}?") == text.count("one {second_answer}") == text.count("two {question}") == 1
    )
    for verdict in ("[[A]]", "[[B]]", "[[C]]"):
        assert verdict in text
    assert text.index("What is") < text.index("one {") < text.index("two {")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        judge.INSTRUCTIONS,
        judge.prompt("q", "a", "b") + "\n",
        judge.prompt("q", "a", "b")[1:],
        judge.prompt("q", "a", "b").replace("assistant B =", "assistant C ="),
        judge.prompt("q", "a", "b").replace("===== User", "====== User"),
    ],
)
def test_parse_prompt_refuses_anything_else(text):
    with pytest.raises(ValueError, match="not a judge prompt"):
        judge.parse_prompt(text)


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("A is better. [[A]]", "A"),
        ("[[a]] looked good at first, but [[b]]", "B"),
        ("[[A]] or [[B]]?\n\nBoth: [[C]].\n", "C"),
        ("I prefer [A].", "invalid"),
        ("[[D]]", "invalid"),
        ("", "invalid"),
    ],
)
def test_parse_verdict_takes_the_last(reply, letter):
    assert judge.parse_verdict(reply) == letter


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("[[A]]", "[[B]]", ("A", "A", "A")),  # the original won in both places
        ("[[B]]", "[[A]]", ("B", "B", "B")),  # the optimized won in both places
        ("[[A]]", "[[A]]", ("A", "B", "C")),  # whatever stands first wins: a tie
        ("[[B]]", "[[B]]", ("B", "A", "C")),
        ("[[B]]", "[[C]]", ("B", "C", "C")),
        ("[[C]]", "[[C]]", ("C", "C", "C")),
        ("[[B]]", "none", ("B", "invalid", "invalid")),
        ("none", "[[A]]", ("invalid", "B", "invalid")),
    ],
)
def test_combine_maps_letters_and_needs_both_orders(first, second, expected):
    assert judge.combine(first, second) == expected


def matches_of_two_questions():
    prompts = [TestPrompt("1", "dolly", "sum up", "a passage", ""), TestPrompt("2", "vicuna", "why sky", "", "")]
    answers = [
        Answer("1", "dolly", "original", "weak", "p", "short"),
        Answer("1", "dolly", "bpo", "weak", "p", "a longer one"),
        Answer("2", "vicuna", "bpo", "weak", "p", "blue light scatters"),
        Answer("2", "vicuna", "original", "weak", "p", "blue"),
    ]
    return prompts, answers


def longer(prompts):
    """A judge that prefers the longer answer."""
    replies = []
    for text in prompts:
        _, first, second = judge.parse_prompt(text)
        replies.append("[[A]]" if len(first) > len(second) else "[[B]]")
    return replies


def test_judge_pairs_asks_both_orders_about_the_original_question():
    items = judge.matches(*matches_of_two_questions())
    asked = []

    def ask(prompts):
        asked.extend(map(judge.parse_prompt, prompts))
        return longer(prompts)

    verdicts = judge.judge_pairs(items, "length", ask)
    assert asked[:2] == [
        ("sum up\na passage", "short", "a longer one"),
        ("sum up\na passage", "a longer one", "short"),
    ]
    assert [(row.id, row.test_set, row.rewriter, row.answer_model, row.judge, row.verdict) for row in verdicts] == [
        ("1", "dolly", "bpo", "weak", "length", "B"),
        ("2", "vicuna", "bpo", "weak", "length", "B"),
    ]
    assert (verdicts[0].reply_original_first, verdicts[0].reply_optimized_first) == ("[[B]]", "[[A]]")


def test_a_judge_that_always_takes_the_first_slot_gives_only_ties():
    items = judge.matches(*matches_of_two_questions())
    verdicts = judge.judge_pairs(items, "first", lambda prompts: ["[[A]]"] * len(prompts))
    assert {(row.original_first, row.optimized_first, row.verdict) for row in verdicts} == {("A", "B", "C")}


def test_missing_replies_answers_and_prompts_are_errors():
    prompts, answers = matches_of_two_questions()
    with pytest.raises(ValueError, match="4 prompts sent, 3 replies"):
        judge.judge_pairs(judge.matches(prompts, answers), "j", lambda sent: ["[[A]]"] * 3)
    with pytest.raises(ValueError, match="vicuna 2, weak, bpo: no answer to the original prompt"):
        judge.matches(prompts, answers[:3])
    with pytest.raises(ValueError, match="dolly 1, weak, bpo: no test prompt"):
        judge.matches(prompts[1:], answers)
