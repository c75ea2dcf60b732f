"""Searches side by side in lockstep: full batches, the same results, and no lane left waiting."""

import threading
from functools import partial

import pytest

from bpo_utils.chat import Calls, wire
from bpo_utils.profile import Model
from bpo_utils.records import Reply
from bpo_utils.search import together

TARGET = Model(name="t", provider="mini", model="middle")
PROGRAM = Model(name="program", provider="program", model="phrases")
LIMIT_S = 20


def asked(*texts, model=TARGET):
    return [wire.Request(model, text) for text in texts]


def finished(lanes, complete):
    """Run lanes with a `complete` of the test's own; fails if they are still waiting after a while."""
    failed = []

    def work():
        try:
            together.run(lanes)
        except Exception as error:
            failed.append(error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(together.Lockstep.__init__, "__defaults__", (complete,))
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(LIMIT_S)
    assert not thread.is_alive(), "a lane waits for ever"
    return failed


def test_what_all_lanes_wait_for_is_one_batch_in_their_order_and_each_gets_its_own(tmp_path):
    batches, got, calls = [], {}, Calls(tmp_path / "calls.sqlite")

    def complete(requests, _):
        batches.append([one.prompt for one in requests])
        return [Reply(one.prompt.upper()) for one in requests]

    def lane(name, rounds, ask):
        for number in range(rounds):
            replies = ask(asked(f"{name}{number}", f"{name}{number}x"), calls)
            got.setdefault(name, []).extend(reply.text for reply in replies)

    assert not finished([partial(lane, name, rounds) for name, rounds in (("a", 3), ("b", 1), ("c", 2))], complete)
    assert batches == [
        ["a0", "a0x", "b0", "b0x", "c0", "c0x"],
        ["a1", "a1x", "c1", "c1x"],
        ["a2", "a2x"],
    ]
    assert got["a"] == ["A0", "A0X", "A1", "A1X", "A2", "A2X"] and got["b"] == ["B0", "B0X"]


def test_programs_answer_without_waiting_for_others(tmp_path):
    batches, calls = [], Calls(tmp_path / "calls.sqlite")

    def complete(requests, _):
        batches.append(sorted({one.model.name for one in requests}))
        return [Reply("x") for _ in requests]

    def busy(ask):
        for _ in range(3):
            ask(asked("p", model=PROGRAM), calls)
        ask(asked("m"), calls)

    assert not finished([busy, lambda ask: ask(asked("n"), calls)], complete)
    assert batches.count(["program"]) == 3 and batches.count(["t"]) == 1


def test_a_failure_of_one_lane_ends_all_and_is_the_one_that_is_told(tmp_path):
    calls = Calls(tmp_path / "calls.sqlite")

    def breaks(ask):
        raise ValueError("the reason")

    def complete(requests, _):
        raise OSError("no model")

    def asks(ask):
        ask(asked("a"), calls)

    for lanes in ([asks, asks], [asks, lambda ask: None]):
        assert [str(error) for error in finished(lanes, complete)] == ["no model"]
    (error,) = finished([asks, breaks], lambda requests, _: [Reply("x") for _ in requests])
    assert str(error) == "the reason"
