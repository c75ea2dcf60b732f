"""The plan of notebook 05's calls, against what is then called."""

import math

import pytest

from bpo_utils import bill, chat, judge, profile, records
from bpo_utils.chat import exchange, money, wire
from bpo_utils.chat.store import Store, record
from bpo_utils.profile import Judging, Limits, Model, Price

PAID = Model(name="paid", provider="openai", model="gpt-4o", price=Price(input=1.0, output=2.0))
FREE = Model(name="free", provider="zhipu", model="glm-4-flash")
UNKNOWN = Model(name="unknown", provider="openai", model="gpt-99")


def parts(answer_models=(PAID,), judges=(PAID, FREE), **more):
    decoding = profile.Decoding(temperature=0.7, top_p=1.0, max_new_tokens=100, batch_size=1, seed=1)
    names = {"answer_models": list(answer_models), "judges": list(judges), "answering": decoding}
    run = profile.load("mini").model_copy(update=names | {"judging": Judging(max_new_tokens=50)} | more)
    prompts = [records.TestPrompt(str(n), "vicuna", f"Why {n}?", "", "") for n in range(4)]
    rewrites = [records.Rewrite(row.id, "vicuna", "bpo", row.prompt, f"{row.prompt} In detail.") for row in prompts[:3]]
    rewrites.append(records.Rewrite("3", "vicuna", "bpo", "Why 3?", "Why 3?"))  # unchanged: one answer, no judging
    return run, prompts, rewrites


def store_answers(path, run, rewrites, text):
    with Store(path) as store, store.transaction() as db:
        for prompt in dict.fromkeys(chat.prompts_of(rewrites).values()):
            asked = wire.request(run.answer_models[0], prompt, run.answering)
            call = chat.Call.of(wire.key(asked, wire.body(asked)), asked, wire.body(asked))
            record(db, call.row(), 0.0)
            usage = '"usage": {"prompt_tokens": 10, "completion_tokens": 40}'
            raw = f'{{"choices": [{{"message": {{"content": "{text} {prompt}"}}, "finish_reason": "stop"}}], {usage}}}'
            exchange.save_answer(db, call.key, raw, 0.0, "online")


def test_every_call_is_in_the_plan_and_the_sums_are_right(tmp_path):
    run, prompts, rewrites = parts()
    lines = bill.costs(run, prompts, rewrites, chat.Calls(tmp_path / "calls.sqlite"))
    assert [(line.stage, line.model, line.calls, line.cached, line.to_pay) for line in lines] == [
        ("answers", "paid", 7, 0, 7),
        ("judging", "paid", 6, 0, 6),
        ("judging", "free", 6, 0, 6),
    ]
    asked = [wire.request(PAID, text, run.answering) for text in dict.fromkeys(chat.prompts_of(rewrites).values())]
    worst = sum((len(each.prompt.encode()) + wire.MESSAGE_TOKENS) * 1.0 + 100 * 2.0 for each in asked) / 1e6
    assert lines[0].worst == pytest.approx(worst) and 0 < lines[0].expected < worst
    assert lines[2].worst == 0 and money.total(lines, "worst") == pytest.approx(lines[0].worst + lines[1].worst)
    assert bill.default_cap(lines, 1.5) == pytest.approx(1.5 + money.total(lines, "worst"))
    text = money.table(lines).splitlines()
    assert text[-1].split()[:4] == ["all", "19", "0", "19"] and len(text) == 5


def test_a_batch_costs_half_and_local_models_nothing(tmp_path):
    run, prompts, rewrites = parts()
    online, batch = (
        bill.costs(run, prompts, rewrites, chat.Calls(tmp_path / "calls.sqlite", mode)) for mode in ("online", "batch")
    )
    assert [line.worst for line in batch] == pytest.approx([line.worst / 2 for line in online])
    local = Model(name="l", provider="huggingface", model="folder")
    run, prompts, rewrites = parts(answer_models=(local,), judges=(FREE,))
    assert money.total(bill.costs(run, prompts, rewrites, chat.Calls(tmp_path / "c.sqlite")), "worst") == 0


def test_stored_answers_are_cached_and_make_the_judges_prompts_exact(tmp_path):
    run, prompts, rewrites = parts()
    calls = chat.Calls(tmp_path / "calls.sqlite")
    store_answers(calls.store, run, rewrites, "An answer to")
    lines = bill.costs(run, prompts, rewrites, calls)
    assert (lines[0].cached, lines[0].to_pay, lines[0].worst) == (7, 0, 0)
    answers = [
        records.Answer(id, name, side, "paid", text, f"An answer to {text}")
        for (name, id, side), text in chat.prompts_of(rewrites).items()
    ]
    items = [item for item in judge.matches(prompts, answers) if not item.decided]
    texts = [text for item in items for text in judge.order_prompts(item, run.judging)]
    exact = sum(len(text.encode()) + wire.MESSAGE_TOKENS + 50 * 2.0 for text in texts) / 1e6
    assert lines[1].worst == pytest.approx(exact)


def test_equal_answers_are_no_call_once_they_are_known(tmp_path):
    run, prompts, rewrites = parts()
    calls = chat.Calls(tmp_path / "calls.sqlite")
    with Store(calls.store) as store, store.transaction() as db:
        for prompt in dict.fromkeys(chat.prompts_of(rewrites).values()):
            asked = wire.request(PAID, prompt, run.answering)
            call = chat.Call.of(wire.key(asked, wire.body(asked)), asked, wire.body(asked))
            record(db, call.row(), 0.0)
            if prompt.startswith("Why 0"):
                exchange.save_outcome(db, call.key, "refused", "filter")
            else:
                raw = '{"choices": [{"message": {"content": "the same"}, "finish_reason": "stop"}]}'
                exchange.save_answer(db, call.key, raw, 0.0, "online")
    assert [line.calls for line in bill.costs(run, prompts, rewrites, calls)[1:]] == [0, 0]


def test_a_hardened_run_pays_for_its_plain_sample_too(tmp_path):
    run, prompts, rewrites = parts(judging=Judging(hardened=True))
    stages = [line.stage for line in bill.costs(run, prompts, rewrites, chat.Calls(tmp_path / "c.sqlite"))]
    assert stages == ["answers", "judging", "judging", "plain prompt", "plain prompt"]


def test_an_unknown_price_is_shown_and_forbids_a_cap(tmp_path):
    run, prompts, rewrites = parts(answer_models=(UNKNOWN,))
    calls = chat.Calls(tmp_path / "calls.sqlite", max_usd=5.0)
    lines = bill.costs(run, prompts, rewrites, calls)
    assert lines[0].worst is None and math.isinf(bill.default_cap(lines, 0.0))
    assert "unknown" in money.table(lines)
    with pytest.raises(ValueError, match="no price is known for unknown, so a cap of \\$5"):
        chat.complete([wire.Request(UNKNOWN, "x")], calls)


def test_limits_of_the_profile_win_over_the_table():
    from bpo_utils.chat import capabilities

    table = capabilities.limits(FREE, {})
    assert (table.concurrency_start, table.concurrency_most) == (2, 5)
    own = capabilities.limits(FREE, {"zhipu": Limits(concurrency_most=1, requests_per_minute=7)})
    assert (own.concurrency_start, own.concurrency_most, own.requests_per_minute) == (1, 1, 7)
    assert own.tokens_per_minute == table.tokens_per_minute
