"""Requests and tokens per minute, adaptive concurrency and pauses, on a clock that jumps instead of waiting."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import pytest

from bpo_utils.chat import limits
from bpo_utils.chat.errors import BudgetReached, Failure
from bpo_utils.chat.limits import Lane, TokenBucket
from bpo_utils.chat.money import Budget
from bpo_utils.profile import Limits

SLOW, BROKEN = Failure("slow", "1302", "too often", 429), Failure("retry", "", "oops", 500)
STOP, ITEM = Failure("stop", "1113", "", 429), Failure("item", "1261", "", 400)


NEARLY = partial(pytest.approx, abs=1e-6)  # each turn of the loop takes a nanosecond


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self.now, select = 0.0, self._selector.select

        def jump(timeout: float | None) -> list:
            self.now += (timeout or 0.0) + 1e-9  # working takes time too
            return select(0)

        self._selector.select = jump

    def time(self) -> float:
        return self.now


def on_the_clock(main: Callable[[], Awaitable]) -> object:
    """Run `main` on such a loop."""
    return anyio.run(main, backend_options={"loop_factory": JumpingLoop})


def lane(said: list[str] | None = None, **given: int) -> Lane:
    chosen = {"requests_per_minute": 60_000, "tokens_per_minute": 10**9, "concurrency_start": 8, "concurrency_most": 32}
    say = (said if said is not None else []).append
    return Lane("openai gpt-4o", Limits(**chosen | given), 60.0, 900.0, say)


def most_in_a_minute(times: list[float], weights: list[float]) -> float:
    return max(sum(w for t, w in zip(times, weights, strict=True) if start <= t < start + 60 - 1e-6) for start in times)


@pytest.mark.parametrize("per_minute", [1, 2, 7, 12, 60, 500])
def test_no_minute_has_more_requests_than_allowed_and_few_less(per_minute: int):
    times = []

    async def main() -> None:
        made = lane(requests_per_minute=per_minute)

        async def ask() -> None:
            await made.turn(1)
            times.append(anyio.current_time())

        async with anyio.create_task_group() as tasks:
            for _ in range(4 * per_minute):
                tasks.start_soon(ask)

    on_the_clock(main)
    assert len(times) == 4 * per_minute
    assert most_in_a_minute(times, [1] * len(times)) <= per_minute
    assert times[-1] <= 60 * 4 * 12 / 11 + 1


def test_no_minute_has_more_tokens_than_allowed():
    draw, sent = random.Random(1), []

    async def main() -> None:
        made = lane(tokens_per_minute=30_000)

        async def ask(tokens: int) -> None:
            await made.turn(tokens)
            sent.append((anyio.current_time(), tokens))

        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(ask, draw.randint(1, 2000))

    on_the_clock(main)
    times, tokens = zip(*sent, strict=True)
    assert most_in_a_minute(times, tokens) <= 30_000 + 2000  # the last one may overdraw; the next waits that out
    assert sum(tokens) / times[-1] > 30_000 / 60 * 0.9


def test_a_call_larger_than_the_limit_waits_for_a_full_bucket_and_the_next_pays_it_off():
    times = []

    async def main() -> None:
        made = lane(tokens_per_minute=1200)  # 100 at once, 1100 a minute
        for _ in range(3):
            await made.turn(5500)
            times.append(anyio.current_time())

    on_the_clock(main)
    assert times == [NEARLY(0.0), NEARLY(300.0), NEARLY(600.0)]


def test_tokens_that_a_reply_did_not_use_let_waiting_calls_go_at_once():
    times = []

    async def main() -> None:
        made = lane(tokens_per_minute=12_000)  # 1000 at once
        await made.turn(1000)
        async with anyio.create_task_group() as tasks:

            async def ask() -> None:
                await made.turn(1000)
                times.append(anyio.current_time())

            tasks.start_soon(ask)
            await anyio.sleep(1.0)
            made.refund(900)

    on_the_clock(main)
    assert times == [NEARLY(1.0)]


def test_a_bucket_never_holds_more_than_its_burst():
    bucket = TokenBucket(1200, lambda: 0.0)
    bucket.refund(10_000)
    assert bucket.take(100) == 0.0 and bucket.take(1) > 0


def test_concurrency_doubles_until_the_first_complaint_then_grows_by_one():
    async def main() -> None:
        made, sizes = lane(), []
        for _ in range(8 + 16):
            made.succeeded()
            sizes.append(made.slots.total_tokens)
        assert sizes == [8] * 7 + [16] * 16 + [32]
        made.failed(SLOW, anyio.current_time())
        assert made.slots.total_tokens == 22
        assert made.open_at == NEARLY(limits.COOLDOWN_S)
        for _ in range(22):
            made.succeeded()
        assert made.slots.total_tokens == 23

    on_the_clock(main)


def test_a_burst_of_complaints_is_one_step_down():
    async def main() -> None:
        made, began = lane(), 0.0
        await anyio.sleep(1.0)
        for _ in range(8):
            made.failed(SLOW, began)
        assert made.slots.total_tokens == 5
        await made.open()
        made.failed(SLOW, anyio.current_time())
        assert made.slots.total_tokens == 3

    on_the_clock(main)


def test_a_size_that_was_complained_about_is_tried_again_only_after_long():
    """A server that bears one call at a time must not cost a pause for every second call."""

    async def main() -> None:
        made = lane(concurrency_start=2, concurrency_most=5)
        made.failed(SLOW, 0.0)
        for _ in range(limits.REPROBE - 1):
            made.succeeded()
        assert made.slots.total_tokens == 1
        made.succeeded()
        assert made.slots.total_tokens == 2
        for _ in range(2 + 3 + 4):  # no complaint this time: the server bears it now
            made.succeeded()
        assert made.slots.total_tokens == 5

    on_the_clock(main)


@pytest.mark.parametrize("kind", ["slow", "retry"])
def test_everyone_waits_as_long_as_the_server_asked_one_to(kind: str):
    async def main() -> None:
        made = lane()
        made.failed(Failure(kind, "", "", 503, retry_after=2.0), 0.0)
        made.failed(Failure(kind, "", "", 503, retry_after=30.0), 0.0)  # the lane is paused already, but not so long
        made.failed(Failure(kind, "", "", 503, retry_after=1.0), 0.0)
        await made.open()
        assert anyio.current_time() == NEARLY(30.0)

    on_the_clock(main)


def test_server_errors_do_not_shrink():
    async def main() -> None:
        made = lane()
        for _ in range(limits.IN_A_ROW - 1):
            made.failed(BROKEN, 0.0)
        await made.open()
        assert (made.slots.total_tokens, anyio.current_time()) == (8, NEARLY(0.0))

    on_the_clock(main)


def test_ten_failures_in_a_row_pause_and_one_call_tells():
    said: list[str] = []

    async def main() -> None:
        made = lane(said)
        for _ in range(limits.IN_A_ROW - 1):
            made.failed(BROKEN, 0.0)
        made.succeeded()  # not in a row
        for _ in range(limits.IN_A_ROW):
            assert said == []
            made.failed(BROKEN, 0.0)
        assert (made.slots.total_tokens, made.open_at, made.stopped) == (1, NEARLY(60.0), "")
        await anyio.sleep(1)
        made.failed(BROKEN, 0.0)  # was in flight before the pause: nothing new
        assert not made.stopped
        await made.open()
        made.succeeded()
        assert made.slots.total_tokens == 8  # as before: errors of a server say nothing about how much it bears
        made.failed(BROKEN, anyio.current_time())
        assert not made.stopped

    on_the_clock(main)
    assert said == [
        "openai gpt-4o: 10 failures in a row, the last HTTP 500: oops; pausing 60 s, then one call will tell"
    ]


def test_a_failure_after_the_pause_ends_the_lane():
    async def main() -> None:
        made = lane()
        for _ in range(limits.IN_A_ROW):
            made.failed(BROKEN, 0.0)
        await made.open()
        made.failed(BROKEN, anyio.current_time())
        assert made.stopped == "openai gpt-4o: still failing after a pause (HTTP 500: oops)"

    on_the_clock(main)


def test_a_faulty_question_proves_that_the_server_works():
    async def main() -> None:
        made = lane()
        for _ in range(limits.IN_A_ROW):
            made.failed(BROKEN, 0.0)
        await made.open()
        made.failed(ITEM, anyio.current_time())
        made.failed(BROKEN, anyio.current_time())
        assert not made.stopped and made.slots.total_tokens == 8

    on_the_clock(main)


@pytest.mark.parametrize(
    "failure, why",
    [
        (STOP, "openai gpt-4o: HTTP 429, 1113: the account is in arrears, top it up"),
        (
            Failure("slow", "1302", "", 429, retry_after=1200.0),
            "openai gpt-4o: the server asks to wait 20 minutes; run again after that",
        ),
    ],
)
def test_a_lane_that_is_given_up_wakes_all_who_wait(failure: Failure, why: str):
    async def main() -> None:
        made = lane(requests_per_minute=1)
        await made.turn(1)
        woken = []

        async def ask(wait: Callable[[], Awaitable]) -> None:
            with made.waiting():
                await wait()
            woken.append(anyio.current_time())

        async with anyio.create_task_group() as tasks:
            made.open_at = 500.0
            for wait in (lambda: made.turn(1), lambda: made.turn(1), made.open, lambda: anyio.sleep(700)):
                tasks.start_soon(ask, wait)
            await anyio.sleep(1.0)
            made.failed(failure, 0.0)
            tasks.start_soon(ask, lambda: anyio.sleep(900))  # began to wait after that
        assert woken == [NEARLY(1.0)] * 5
        assert made.stopped == why and not made.waits

    on_the_clock(main)


def test_a_budget_waits_for_running_calls_before_it_says_no():
    async def main() -> None:
        budget, order = Budget(cap=1.0, spent=0.0), []

        async def first() -> None:
            await anyio.sleep(1.0)
            await budget.settle(0.7, 0.1)
            order.append("settled")

        await budget.reserve(0.7)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first)
            await budget.reserve(0.7)
            order.append("reserved")
        assert order == ["settled", "reserved"]
        await budget.settle(0.7, 0.7)
        assert (budget.reserved, budget.spent) == (0.0, pytest.approx(0.8))
        with pytest.raises(
            BudgetReached, match=r"\$0.8000 of \$1.0000 are spent or may have been; the next call could"
        ):
            await budget.reserve(0.3)
        await budget.reserve(0.0)  # what is free is never refused

    on_the_clock(main)
