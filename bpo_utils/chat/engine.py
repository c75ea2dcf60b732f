"""The life of a call: wait for its turn, reserve its worst cost, write the attempt down, send it, store the answer.

Everything runs on one event loop in a thread of its own, so that it works in a notebook, whose loop is already running.
Killed before the attempt is written, nothing was sent; killed after the answer is stored, nothing is sent again; in
between at most as many calls are in flight as there are slots, and no client can do better on a plain endpoint.
"""

import random
from collections import deque
from collections.abc import Callable
from typing import Any

from bpo_utils.chat import capabilities, clients, errors, exchange, money, recover, wire
from bpo_utils.chat.calls import Call, Calls
from bpo_utils.chat.errors import CallFailed, Failure
from bpo_utils.chat.journal import Journal
from bpo_utils.chat.limits import Lane
from bpo_utils.chat.store import Store, end_attempt, now, record
from bpo_utils.profile import Model

ALIAS_PROVIDERS = ("openai", "zhipu", "zhipuai")  # an alias answers under its own name or a longer, dated one


class Halted(Exception):
    """Raised inside the engine: this call is not sent because the run is being stopped."""


class Engine:
    """One run over calls that have no answer. Make it and use it on the event loop."""

    def __init__(
        self, store: Store, calls: Calls, say: Callable[[str], None], moved: Callable[["Engine"], None]
    ) -> None:
        import anyio

        self.store, self.calls, self.say, self.moved = store, calls, say, moved
        self.journal, self.budget = Journal(store), money.Budget(calls.max_usd, store.spent())
        self.lanes: dict[tuple[str, str, str], Lane] = {}
        self.clients: dict[tuple[str, str], Any] = {}
        self.halting, self.halt = anyio.Event(), None
        self.failed: dict[str, Failure] = {}
        self.done = self.running = 0
        self.next_attempt = 1 + (store.db.execute("SELECT max(id) FROM attempt").fetchone()[0] or 0)

    async def run(self, todo: list[Call]) -> None:
        """Answer the calls as far as possible. What could not be answered is in `failed`, `halt` and the lanes."""
        import anyio

        self.store.keep_reserve()
        try:
            for call in todo:
                self._open(call.asked.model)
            await recover.lost_replies(self.store, self.clients, self.calls.recover, self.say)
            known = self.store.known(call.key for call in todo)
            self.budget.spent = self.store.spent()
            async with anyio.create_task_group() as writing:
                writing.start_soon(self.journal.run)
                async with anyio.create_task_group() as tasks:
                    for place, lane in self.lanes.items():
                        queue = deque(c for c in todo if c.key not in known and _place(c.asked.model) == place)
                        for _ in range(min(len(queue), 2 * lane.most)):
                            tasks.start_soon(self._work, lane, queue)
                writing.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                for client in self.clients.values():
                    await client.close()

    def stop(self, reason: BaseException) -> None:
        """Start nothing new; what is in flight is waited for."""
        self.halt = self.halt or reason
        self.halting.set()

    def _open(self, model: Model) -> None:
        """A lane for the model and a client for its address, if they are not there yet."""
        place = _place(model)
        if place in self.lanes:
            return
        limits = capabilities.limits(model, self.calls.limits)
        name = f"{model.provider} {model.model}"
        self.lanes[place] = Lane(name, limits, self.calls.pause_s, self.calls.patience_s, self.say)
        if place[:2] not in self.clients:
            self.clients[place[:2]] = clients.connect(model, self.calls.timeout_s, limits.concurrency_most)

    async def _work(self, lane: Lane, queue: deque[Call]) -> None:
        while queue and not self.halting.is_set() and not lane.stopped:
            call = queue.popleft()
            try:
                await self._retry(call, lane)
                self.done += 1
            except CallFailed as error:
                self.failed[call.key] = error.failure
            except Halted:
                pass
            except (errors.BudgetReached, OSError) as error:
                self.stop(error)
            self.moved(self)

    async def _retry(self, call: Call, lane: Lane) -> None:
        """Try a call until it is answered, has an outcome, or is given up."""
        import tenacity

        def wait(state: tenacity.RetryCallState) -> float:
            asked = state.outcome.exception().failure.retry_after or 0.0
            return max(asked, random.uniform(0, min(60.0, 2.0**state.attempt_number)) * self.jitter)

        def again(error: BaseException) -> bool:
            retryable = isinstance(error, CallFailed) and error.failure.kind in ("retry", "slow")
            return retryable and call.unheard < 2 and not lane.stopped

        stop = tenacity.stop_after_attempt(self.calls.tries) | tenacity.stop_after_delay(self.calls.patience_s)
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(again), wait=wait, stop=stop, sleep=self._sleep, reraise=True
        )
        try:
            await retrying(self._attempt, call, lane)
        except CallFailed as error:
            failure = error.failure
            if failure.outcome is None:
                raise
            await self.journal.write(lambda db: exchange.save_outcome(db, call.key, failure.outcome, failure.message))

    jitter = 1.0  # tests make it small

    async def _sleep(self, seconds: float) -> None:
        """Wait, unless the run is stopped meanwhile."""
        import anyio

        with anyio.move_on_after(seconds):
            await self.halting.wait()

    def _check(self, lane: Lane) -> None:
        if self.halting.is_set() or lane.stopped:
            raise Halted

    async def _attempt(self, call: Call, lane: Lane) -> None:
        self._check(lane)
        await lane.turn(call.tokens)
        async with lane.ready:
            self._check(lane)
            await self.budget.reserve(call.worst_usd)
            number, usd, failure = self.next_attempt, call.worst_usd, None
            self.next_attempt += 1
            try:
                await self.journal.write(lambda db: self._begin(db, number, call))
                async with lane.slots:
                    began = await lane.open()
                    if self.journal.full:
                        self.stop(OSError(self.journal.full))
                    if self.halting.is_set() or lane.stopped:
                        usd = 0.0
                        await self.journal.write(lambda db: end_attempt(db, number, "not sent", 0.0))
                        raise Halted
                    usd, failure = await self._send(call, lane, number, began)
            finally:
                await self.budget.settle(call.worst_usd, usd)
        if failure:
            raise CallFailed(failure)

    def _begin(self, db: Any, number: int, call: Call) -> None:
        record(db, call.row(), now())
        values = (number, call.key, now(), "sent", call.worst_usd)
        db.execute("INSERT INTO attempt(id, key, started, state, usd) VALUES (?, ?, ?, ?, ?)", values)

    async def _send(self, call: Call, lane: Lane, number: int, began: float) -> tuple[float, Failure | None]:
        """Send one attempt and store what became of it; returns what it cost, and why it failed."""
        model, raw, read = call.asked.model, "", None
        label = call.key if self.calls.recover and capabilities.provider(model.provider).stored_completions else ""
        self.running += 1
        try:
            raw, request_id = await self.clients[_place(model)[:2]].send(call.sent, label)
            read = clients.parsed(raw)
            usd, failure = self._usd(call, read), _unusable(call, read, request_id)
        except CallFailed as error:
            failure, usd = error.failure, call.worst_usd if error.failure.maybe_paid else 0.0
        finally:
            self.running -= 1
        used = read.usage.input + read.usage.output if read and read.usage else 0
        lane.tokens.refund(call.tokens - (used or call.tokens if read else 0))
        if failure is None:
            await self.journal.write(lambda db: self._answer(db, number, call, raw, usd, request_id))
            lane.succeeded()
            return usd, None
        call.unheard += failure.maybe_paid or failure.code == "empty"
        state = "maybe paid" if failure.maybe_paid else "failed"
        await self.journal.write(lambda db: end_attempt(db, number, state, usd, failure))
        lane.failed(failure, began)
        return usd, failure

    def _answer(self, db: Any, number: int, call: Call, raw: str, usd: float, request_id: str) -> None:
        exchange.save_answer(db, call.key, raw, usd, "online")
        end_attempt(db, number, "answered", usd, Failure("", "", "", 200, request_id=request_id))

    def _usd(self, call: Call, read: wire.Parsed) -> float:
        """What a reply cost; its worst case if the provider did not count the tokens."""
        price = capabilities.price(call.asked.model)
        return 0.0 if price is None else read.usage.usd(price) if read.usage else call.worst_usd


def _place(model: Model) -> tuple[str, str, str]:
    """Provider, address and model: what has limits of its own."""
    return model.provider, wire.place(model), model.model


def _unusable(call: Call, read: wire.Parsed, request_id: str) -> Failure | None:
    """Why a reply that came, and was paid for, is no answer; None if it is one."""
    model = call.asked.model
    if model.provider in ALIAS_PROVIDERS and read.model and not read.model.startswith(model.model):
        told = f"asked for {model.model}, {read.model} answered; nothing of it is stored"
        return Failure("stop", "wrong_model", told, 200, request_id=request_id)
    if read.outcome == "refused":
        return Failure("item", "content_filter", read.detail, 200, request_id=request_id)
    if read.outcome == "empty":
        return Failure("retry", "empty", f"a reply without text (finish {read.finish!r})", 200, request_id=request_id)
    return None
