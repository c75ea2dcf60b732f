"""What one call is: its body, its key, and how a reply is read."""

import json

import asking
import pytest

from bpo_utils.chat import clients, wire
from bpo_utils.profile import Decoding, Model, Price

GPT = Model(name="GPT-4o", provider="openai", model="gpt-4o")
LUNA = Model(name="Luna", provider="openai", model="gpt-6-luna")
GLM = Model(name="GLM", provider="zhipu", model="glm-4-flash")
OWN = Model(name="own", provider="compatible", model="llama", base_url="http://127.0.0.1:8000/v1")


def key(asked: wire.Request) -> str:
    return wire.key(asked, wire.body(asked))


def test_the_body_has_what_the_model_takes_and_nothing_that_it_refuses():
    asked = wire.Request(GPT, "hello", temperature=0.7, top_p=0.9, max_tokens=5, seed=3, system="be brief", sample=2)
    assert wire.body(asked) == {
        "model": "gpt-4o",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}],
        "max_tokens": 5,
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 5,  # another draw needs another seed
    }
    assert wire.body(wire.Request(LUNA, "hello", max_tokens=5, seed=3)) == {
        "model": "gpt-6-luna",
        "messages": [{"role": "user", "content": "hello"}],
        "max_completion_tokens": 5,
        "temperature": 0.0,
        "reasoning_effort": "none",
    }


def test_a_profile_decides_how_a_question_is_decoded():
    decoding = Decoding(temperature=0.9, top_p=0.8, max_new_tokens=33, batch_size=1, seed=4)
    asked = wire.request(GPT, "hello", decoding, sample=1)
    assert (asked.temperature, asked.top_p, asked.max_tokens, asked.seed, asked.sample) == (0.9, 0.8, 33, 4, 1)


def test_the_key_is_that_of_everything_that_was_sent():
    first = wire.Request(GPT, "hello")
    others = [
        wire.Request(GPT, "hello "),
        wire.Request(GPT, "hello", temperature=0.5),
        wire.Request(GPT, "hello", temperature=0.5, top_p=0.5),
        wire.Request(GPT, "hello", max_tokens=7),
        wire.Request(GPT, "hello", seed=0),
        wire.Request(GPT, "hello", system="be brief"),
        wire.Request(GPT, "hello", sample=1),
        wire.Request(GLM, "hello"),
        wire.Request(GLM.model_copy(update={"provider": "zhipuai"}), "hello"),
        wire.Request(GPT.model_copy(update={"model": "gpt-4"}), "hello"),
        wire.Request(GPT.model_copy(update={"base_url": "http://127.0.0.1/v1"}), "hello"),
    ]
    assert len({key(each) for each in (first, *others)}) == len(others) + 1


def test_the_key_does_not_depend_on_what_the_model_is_called_here_or_on_its_price():
    other = GPT.model_copy(update={"name": "the judge", "stands_for": "GPT-4", "price": Price(input=1.0, output=2.0)})
    assert key(wire.Request(GPT, "hello")) == key(wire.Request(other, "hello"))
    slash = OWN.model_copy(update={"base_url": "https://127.0.0.1:8000/v1/"})
    assert key(wire.Request(OWN, "hello")) == key(wire.Request(slash, "hello"))


def test_a_key_stays_what_it_is():
    """A store outlives this program's versions: should this fail, stored answers are no longer found."""
    assert key(wire.Request(GPT, "你好")) == "16620d198fa64ef196aba88ef6b64bd60489838518fe1a2cfb5017a13f3d0bb9"


def test_one_value_has_one_text():
    assert wire.canonical({"b": [1, 0.5], "a": "é你"}) == '{"a":"é你","b":[1,0.5]}'
    with pytest.raises(ValueError, match="Out of range"):
        wire.canonical(float("nan"))


def test_the_worst_case_is_more_than_any_tokenizer_makes_of_a_text():
    asked = wire.Request(GPT, "你好 😀", max_tokens=10, system="é")
    assert wire.worst_usage(asked) == wire.Usage(11 + 2 + 2 * wire.MESSAGE_TOKENS, 10)


def test_cached_tokens_have_their_own_price():
    used = wire.Usage(input=1000, output=100, cached=400)
    assert used.usd(Price(input=2.0, output=10.0, cached=1.0)) == pytest.approx((600 * 2 + 400 * 1 + 100 * 10) / 1e6)
    assert used.usd(Price(input=2.0, output=10.0)) == pytest.approx((1000 * 2 + 100 * 10) / 1e6)


def test_a_reply_is_read():
    read = wire.parse(asking.completion("hello"))
    assert (read.text, read.finish, read.outcome, read.model, read.fingerprint) == (
        "hello",
        "stop",
        "answered",
        "gpt-4o",
        "fp",
    )
    assert read.usage == wire.Usage(11, 7)


@pytest.mark.parametrize(
    "raw, outcome, detail",
    [
        (asking.completion("cut off", "length"), "answered", ""),
        (asking.completion(""), "empty", ""),
        (asking.completion(None), "empty", ""),
        (asking.completion(" \n"), "empty", ""),
        (asking.completion("half of it", "content_filter"), "refused", "content_filter"),
        (asking.completion(None, "sensitive"), "refused", "sensitive"),
        (asking.completion(None, refusal="I can't"), "refused", "I can't"),
        (asking.completion("but here it is", refusal="I can't"), "answered", "I can't"),
    ],
)
def test_a_reply_has_one_of_three_outcomes(raw: str, outcome: str, detail: str):
    assert (wire.parse(raw).outcome, wire.parse(raw).detail) == (outcome, detail)


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "null",
        "[]",
        '{"choices": []}',
        '{"choices": [{}]}',
        '{"error": {"message": "x"}}',
        "<html>",
        asking.completion()[:80],
    ]
    + [asking.completion([{"type": "text"}]), asking.completion("x", finish=3)],
)
def test_what_is_no_chat_completion_is_said_to_be_none(raw: str):
    with pytest.raises(ValueError, match="^not a chat completion"):
        wire.parse(raw)


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": 3}, "many", {"prompt_tokens": "x", "completion_tokens": 1}]
)
def test_an_answer_without_a_readable_count_of_tokens_is_an_answer(usage: object):
    read = wire.parse(json.dumps(json.loads(asking.completion()) | {"usage": usage}))
    assert (read.outcome, read.usage) == ("answered", None)


def test_half_an_emoji_can_be_stored():
    raw = json.dumps(json.loads(asking.completion("\ud83d")))  # as a token limit cuts it
    assert wire.parse(raw).text.encode() == b"?"


@pytest.mark.parametrize(
    "asked, served, right",
    [
        ("gpt-4o", "gpt-4o", True),
        ("gpt-4o", "gpt-4o-2024-08-06", True),
        ("glm-4-flash", "GLM-4-Flash-250414", True),
        ("gpt-4-preview", "gpt-4-0125-preview", True),
        ("gpt-4o", "", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4", "gpt-4o", False),
        ("gpt-4o-2024-08-06", "gpt-4o", False),
    ],
)
def test_an_alias_may_answer_as_its_dated_model_and_as_no_other(asked: str, served: str, right: bool):
    read = wire.parse(asking.completion(model=served))
    failure = clients.unusable(GPT.model_copy(update={"model": asked}), read, "")
    assert (failure is None) == right
    assert right or (failure.kind, failure.code) == ("stop", "wrong_model")
    assert clients.unusable(OWN, read, "") is None  # one's own server names its models as it likes


TURNS = (("user", "Hello"), ("assistant", "Good day"))


def test_earlier_turns_stand_between_the_system_text_and_the_prompt():
    asked = wire.Request(GPT, "and now?", system="be brief", earlier=TURNS)
    roles = ["system", "user", "assistant", "user"]
    assert [one["role"] for one in wire.body(asked)["messages"]] == roles
    assert [one["content"] for one in wire.body(asked)["messages"]] == ["be brief", "Hello", "Good day", "and now?"]
    assert asked.texts == ["be brief", "Hello", "Good day", "and now?"]
    assert (
        len({key(asked), key(wire.Request(GPT, "and now?", system="be brief")), key(wire.Request(GPT, "Hello"))}) == 3
    )


def test_earlier_turns_and_the_start_of_an_answer_are_paid_for():
    plain, more = wire.Request(OWN, "你好", max_tokens=10), wire.Request(OWN, "你好", max_tokens=10, earlier=TURNS)
    begun = wire.Request(OWN, "你好", max_tokens=10, answer_start="So: ")
    assert (
        wire.worst_usage(more).input == wire.worst_usage(plain).input + len("HelloGood day") + 2 * wire.MESSAGE_TOKENS
    )
    assert wire.worst_usage(begun).input == wire.worst_usage(plain).input + 4 + wire.MESSAGE_TOKENS
    assert wire.expected_input(plain) < wire.expected_input(begun) < wire.expected_input(more)


def test_a_server_is_told_to_go_on_with_the_start_of_the_answer():
    body = wire.body(wire.Request(OWN, "Q: 2 + 2\nA:", answer_start="Let's think."))
    assert body["messages"][-1] == {"role": "assistant", "content": "Let's think."}
    assert body["continue_final_message"] is True and body["add_generation_prompt"] is False  # vLLM's two switches
    plain = wire.body(wire.Request(OWN, "Q: 2 + 2\nA:"))
    assert len(plain["messages"]) == 1 and not {"continue_final_message", "add_generation_prompt"} & plain.keys()


@pytest.mark.parametrize("provider", ["mini", "huggingface"])
def test_a_model_in_this_process_needs_no_switch(provider: str):
    body = wire.body(wire.Request(Model(name="m", provider=provider, model="m"), "x", answer_start="So"))
    assert body["messages"][-1]["content"] == "So" and "continue_final_message" not in body


@pytest.mark.parametrize("model", [GPT, GLM])
def test_a_provider_without_a_way_to_begin_an_answer_is_refused_before_anything_is_sent(model: Model):
    with pytest.raises(ValueError, match="cannot be given the start of an answer.*vLLM"):
        wire.body(wire.Request(model, "x", answer_start="So"))
    assert wire.body(wire.Request(model, "x", earlier=TURNS))["messages"][1]["content"] == "Good day"


def test_a_local_model_goes_on_from_the_start_of_the_answer():
    from types import SimpleNamespace

    from bpo_utils.chat import local

    def template(messages, tokenize, add_generation_prompt):
        assert not tokenize and add_generation_prompt
        return "<s>" + "".join(f"<{one['role']}>{one['content']}" for one in messages) + "<assistant>"

    chat = SimpleNamespace(chat_template="x", bos_token="<s>", apply_chat_template=template)
    asked = wire.Request(OWN, "and now?", earlier=TURNS, answer_start="It is")
    text = local._framed(chat, "", asked.prompt, asked.earlier, asked.answer_start)
    assert text == "<user>Hello<assistant>Good day<user>and now?<assistant>It is"
    plain = SimpleNamespace(chat_template=None)
    assert local._framed(plain, "", "and now?", (), "It is").endswith("and now? [/INST] It is")
    with pytest.raises(ValueError, match="several turns"):
        local._framed(plain, "", "and now?", TURNS)
