"""How the course asks models: answers that share equal prompts, models in this process, the miniature."""

import pytest

from bpo_utils import chat, paths, records
from bpo_utils.chat import wire
from bpo_utils.chat.store import Store
from bpo_utils.profile import Decoding, Model

GREEDY = Decoding(temperature=0.0, top_p=1.0, max_new_tokens=24, batch_size=4, seed=1)
STRONG = Model(name="strong", provider="huggingface", model=str(paths.MINI_MODELS / "strong"))
PROMPTS = ["What are tides?", "Explain soil erosion.", "What are tides?"]


def test_a_model_of_transformers_answers_in_this_process_and_is_stored(tmp_path):
    calls = chat.Calls(tmp_path / "calls.sqlite")
    first = chat.ask(STRONG, PROMPTS, GREEDY, calls)
    assert first[0] == first[2] and first[0].text.startswith("Tides") and first[0].outcome == "answered"
    mini = chat.ask(Model(name="s", provider="mini", model="strong"), PROMPTS, GREEDY)
    assert [reply.text for reply in first] == [reply.text for reply in mini]  # the same model, framed the same way
    with Store(calls.store) as store:
        assert store.db.execute("SELECT count(*), sum(usd) FROM answer").fetchone() == (2, 0.0)
    assert chat.ask(STRONG, PROMPTS, GREEDY, chat.Calls(calls.store, "replay")) == first


def test_a_model_of_the_miniature_can_be_kept_in_a_store_too_with_its_tokens(tmp_path):
    from bpo_utils.chat import session

    calls, mini = chat.Calls(tmp_path / "calls.sqlite"), Model(name="s", provider="mini", model="strong")
    requests = [wire.Request(mini, prompt, max_tokens=24) for prompt in PROMPTS]
    replies = chat.complete(requests, calls)
    direct = chat.ask(mini, PROMPTS, GREEDY)
    assert [reply.text for reply in replies] == [reply.text for reply in direct]
    assert chat.complete(requests, chat.Calls(calls.store, "replay")) == replies
    used = session.used(replies, calls)
    read, written, usd, came = used[replies[0].key]
    assert len(used) == 2 and read > len(PROMPTS[0].split()) and 0 < written <= 24 and (usd, came > 0) == (0.0, True)
    assert session.used(replies, chat.Calls(tmp_path / "other.sqlite")) == {}


def test_the_start_of_an_answer_is_gone_on_from():
    from bpo_utils.chat import local

    mini = Model(name="s", provider="mini", model="strong")
    requests = [wire.Request(mini, "What are tides?", max_tokens=24, answer_start=start) for start in ("", "The risk")]
    ((_, said),) = local.answer_in_batches(requests)
    assert said[0].text.startswith("Tides") and said[0].text != said[1].text and said[1].read == said[0].read + 2


def test_a_conversation_needs_a_chat_template():
    from bpo_utils.chat import local

    class Tokenizer:
        chat_template, bos_token = None, "<s>"

    with pytest.raises(ValueError, match="no chat template|without a chat template"):
        local._framed(Tokenizer(), "", "and now?", (("user", "hello"), ("assistant", "hi")))
    assert local._framed(Tokenizer(), "", "hello", answer_start="Well") == "[INST] hello [/INST] Well"


def test_what_a_killed_run_had_answered_is_not_asked_again(tmp_path, monkeypatch):
    from bpo_utils.chat import local

    calls = chat.Calls(tmp_path / "calls.sqlite")
    monkeypatch.setattr(local, "BATCH", 1)
    real, asked = local.generate, []

    def dies(network, tokenizer, texts, decoding):
        asked.extend(texts)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(network, tokenizer, texts, decoding)

    monkeypatch.setattr(local, "generate", dies)
    with pytest.raises(KeyboardInterrupt):
        chat.ask(STRONG, PROMPTS, GREEDY, calls)
    chat.ask(STRONG, PROMPTS, GREEDY, calls)
    assert len(asked) == 3 and asked[1] == asked[2]


def test_a_chat_template_is_used_where_there_is_one():
    from bpo_utils.chat import local

    class Tokenizer:
        chat_template, bos_token = "yes", "<s>"

        def apply_chat_template(self, messages, tokenize, add_generation_prompt):
            assert (tokenize, add_generation_prompt) == (False, True)
            return "<s>" + "|".join(f"{message['role']}:{message['content']}" for message in messages)

    assert local._framed(Tokenizer(), "be kind", "hello") == "system:be kind|user:hello"
    Tokenizer.chat_template = None
    assert local._framed(Tokenizer(), "", "hello") == "[INST] hello [/INST]"


def test_equal_prompts_share_one_answer_of_the_miniature():
    rewrites = [
        records.Rewrite("1", "dolly", "bpo", "What are tides?", "What are tides?"),
        records.Rewrite("2", "dolly", "bpo", "What are tides?", "Explain soil erosion."),
    ]
    answers = chat.answers(Model(name="s", provider="mini", model="strong"), rewrites, GREEDY)
    assert [(row.id, row.side) for row in answers] == [("1", "original"), ("2", "original"), ("1", "bpo"), ("2", "bpo")]
    assert len({row.text for row in answers}) == 2 and {row.outcome for row in answers} == {"answered"}


def test_calls_without_a_store_or_decoding_and_replies_without_text_are_errors():
    model = Model(name="m", provider="openai", model="gpt-4o")
    with pytest.raises(ValueError, match="calls to openai need"):
        chat.ask(model, ["x"], GREEDY)
    with pytest.raises(ValueError, match="teacher: 1 of 2 replies are no answer \\(refused\\)"):
        chat.texts([records.Reply("x"), records.Reply("", "refused")], "teacher")


def test_an_unknown_provider_and_a_missing_key_are_told_before_anything_is_sent(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    calls = chat.Calls(tmp_path / "calls.sqlite")
    with pytest.raises(ValueError, match="no provider 'opnai'; there are openai, zhipu"):
        chat.complete([wire.Request(Model(name="m", provider="opnai", model="x"), "x")], calls)
    with pytest.raises(ValueError, match="set OPENAI_API_KEY to your key of openai"):
        chat.complete([wire.Request(Model(name="m", provider="openai", model="gpt-4o"), "x")], calls)
    with pytest.raises(ValueError, match="needs `base_url`"):
        chat.complete([wire.Request(Model(name="m", provider="compatible", model="x"), "x")], calls)
    with pytest.raises(ValueError, match="there are online, batch, replay"):
        chat.complete([], chat.Calls(tmp_path / "calls.sqlite", "offline"))
