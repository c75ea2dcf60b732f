"""The life of a call: wait for its turn, reserve its worst cost, write the attempt down, send it, store the answer.

Everything runs on one event loop in a thread of its own, so that it works in a notebook, whose loop is already running.
Killed before the attempt is written, nothing was sent; killed after the answer is stored, nothing is sent again; in
between at most as many calls are in flight as there are slots, and no client can do better on a plain endpoint.
"""

import gc
import random
from collections import deque
from collections.abc import Callable
from typing import Any

from bpo_utils.chat import capabilities, clients, exchange, money, recover, wire
from bpo_utils.chat.calls import Call, Calls
from bpo_utils.chat.errors import CallFailed, Failure
from bpo_utils.chat.journal import Journal
from bpo_utils.chat.limits import Lane
from bpo_utils.chat.store import DiskFull, Store, end_attempt, now, record
from bpo_utils.profile import Model

TWICE = 2  # a call that may have been paid for this often is given up; so often an empty reply is an outcome


class Halted(Exception):
    """Raised inside the engine: this call is not sent because the run is being stopped."""


class Attempt:
    """One attempt at a call, written down and waiting for a slot; `done` once it is known what it cost and brought."""

    def __init__(self, call: Call, number: int) -> None:
        import anyio

        self.call, self.number, self.done = call, number, anyio.Event()
        self.usd, self.error = 0.0, None


class Engine:
    """One run over calls that have no answer. Make it and use it on the event loop."""

    def __init__(
        self, store: Store, calls: Calls, say: Callable[[str], None], moved: Callable[["Engine"], None]
    ) -> None:
        self.store, self.calls, self.say, self.moved = store, calls, say, moved
        self.journal, self.budget = Journal(store), money.Budget(calls.max_usd, store.spent())
        self.lanes: dict[tuple[str, str, str], Lane] = {}
        self.clients: dict[tuple[str, str], Any] = {}
        self.halt: BaseException | None = None  # why nothing more is sent
        self.failed: dict[str, Failure] = {}
        self.done = self.running = 0
        self.next_attempt = 1 + (store.db.execute("SELECT max(id) FROM attempt").fetchone()[0] or 0)

    async def run(self, todo: list[Call]) -> None:
        """Answer the calls as far as possible. What could not be answered is in `failed`, `halt` and the lanes."""
        import anyio

        self.store.keep_reserve()
        gc.freeze()  # all that a notebook has imported so far need not be looked through at every collection
        try:
            for call in todo:
                self._open(call.asked.model)
            lost = {call.key: call for call in todo}
            await recover.lost_replies(self.store, lost, self._client, self.calls.recover, self.say)
            known = self.store.known(lost)
            self.done, self.budget.spent = len(known), self.store.spent()
            async with anyio.create_task_group() as writing:
                writing.start_soon(self.journal.run)
                async with anyio.create_task_group() as self.tasks:
                    for place, lane in self.lanes.items():
                        queue = deque(c for c in todo if c.key not in known and _place(c.asked.model) == place)
                        for _ in range(min(len(queue), 2 * lane.most)):
                            self.tasks.start_soon(self._work, lane, queue)
                writing.cancel_scope.cancel()
        finally:
            gc.unfreeze()
            with anyio.CancelScope(shield=True):
                for client in self.clients.values():
                    await client.close()

    def stop(self, reason: BaseException) -> None:
        """Start nothing new; what is in flight is waited for."""
        self.halt = self.halt or reason
        for lane in self.lanes.values():
            lane.wake()

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

    def _client(self, model: Model) -> Any:
        return self.clients[_place(model)[:2]]

    async def _work(self, lane: Lane, queue: deque[Call]) -> None:
        while queue and not self.halt and not lane.stopped:
            call = queue.popleft()
            try:
                await self._retry(call, lane)
                self.done += 1
            except CallFailed as error:
                self.failed[call.key] = error.failure
            except Halted:
                pass
            except Exception as error:  # the cap, the disk, a fault of ours: what is in flight comes home first
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
            return retryable and call.unheard < TWICE and not lane.stopped

        async def pause(seconds: float) -> None:
            import anyio

            with lane.waiting():
                await anyio.sleep(seconds)

        stop = tenacity.stop_after_attempt(self.calls.tries) | tenacity.stop_after_delay(self.calls.patience_s)
        await tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(again), wait=wait, stop=stop, sleep=pause, reraise=True
        )(self._attempt, call, lane)

    jitter = 1.0  # tests make it small

    def _check(self, lane: Lane) -> None:
        if self.halt or lane.stopped:
            raise Halted

    async def _attempt(self, call: Call, lane: Lane) -> None:
        self._check(lane)
        with lane.waiting():
            await lane.turn(call.tokens)
        async with lane.ready:
            self._check(lane)
            reserved = False
            with lane.waiting():
                await self.budget.reserve(call.worst_usd)
                reserved = True
            if not reserved:
                raise Halted
            attempt = Attempt(call, self.next_attempt)
            try:
                self._check(lane)
                self.next_attempt, attempt.usd = self.next_attempt + 1, call.worst_usd
                idle = lane.slots.available_tokens > 0
                await self.journal.write(lambda db: self._begin(db, attempt.number, call), hurry=idle)
                lane.prepared.append(attempt)
                if lane.slots.available_tokens > 0:
                    lane.slots.acquire_on_behalf_of_nowait(attempt)
                    self.tasks.start_soon(self._use_slot, lane, attempt)
                await attempt.done.wait()
            finally:
                await self.budget.settle(call.worst_usd, attempt.usd)
        if attempt.error:
            raise attempt.error

    async def _use_slot(self, lane: Lane, holder: "Attempt") -> None:
        """Send what is prepared, one attempt after the other, on one slot.

        The next one goes out in the same step in which a reply came in. Were the slot handed to another task, all
        replies of a burst would be dealt with before the first new call went out, and the bursts would stay.
        """
        try:
            while lane.prepared and lane.slots.borrowed_tokens <= lane.slots.total_tokens:
                attempt = lane.prepared.popleft()
                try:
                    await self._send(attempt, lane)
                except Exception as error:  # for the task that waits for this attempt
                    attempt.error = error
                finally:
                    attempt.done.set()
        finally:
            lane.slots.release_on_behalf_of(holder)

    def _begin(self, db: Any, number: int, call: Call) -> None:
        record(db, call.row(), now())
        values = (number, call.key, now(), "sent", call.worst_usd)
        db.execute("INSERT INTO attempt(id, key, started, state, usd) VALUES (?, ?, ?, ?, ?)", values)

    async def _may_send(self, lane: Lane, number: int) -> bool:
        """Wait for the end of a pause; False if the run was stopped while the call waited, which is then written."""
        with lane.waiting():
            await lane.open()
        if self.journal.full:
            self.stop(DiskFull(self.journal.full))
        if self.halt or lane.stopped:
            await self.journal.write(lambda db: end_attempt(db, number, "not sent", 0.0))
            return False
        return True

    async def _send(self, attempt: "Attempt", lane: Lane) -> None:
        """Send one attempt and store what became of it: what it cost. Raises CallFailed if the call is still open."""
        import anyio

        call, number = attempt.call, attempt.number
        if not await self._may_send(lane, number):
            attempt.usd = 0.0
            raise Halted
        began, read = anyio.current_time(), None
        self.running += 1
        try:
            raw, request_id = await self._client(call.asked.model).send(call.sent, self._label(call))
            read = clients.parsed(raw)
            attempt.usd, failure = self._usd(call, read), clients.unusable(call.asked.model, read, request_id)
        except CallFailed as error:
            failure, attempt.usd = error.failure, call.worst_usd if error.failure.maybe_paid else 0.0
        finally:
            self.running -= 1
        used = read.usage.input + read.usage.output if read and read.usage else call.tokens if read else 0
        lane.refund(call.tokens - used)
        if failure is None:
            await self.journal.write(lambda db: self._answer(db, number, call, raw, attempt.usd, request_id))
            lane.succeeded()
            return
        call.unheard += failure.maybe_paid or failure.code == "empty"
        over = failure.outcome if failure.kind == "item" or call.unheard >= TWICE else None
        await self.journal.write(lambda db: self._failed(db, number, call, failure, attempt.usd, over))
        lane.failed(failure, began)
        if not over:
            raise CallFailed(failure)

    def _label(self, call: Call) -> str:
        kept = capabilities.provider(call.asked.model.provider).stored_completions
        return call.key if self.calls.recover and kept else ""

    def _answer(self, db: Any, number: int, call: Call, raw: str, usd: float, request_id: str) -> None:
        exchange.save_answer(db, call.key, raw, usd, "online")
        end_attempt(db, number, "answered", usd, Failure("", "", "", 200, request_id=request_id))

    def _failed(self, db: Any, number: int, call: Call, failure: Failure, usd: float, over: str | None) -> None:
        end_attempt(db, number, "maybe paid" if failure.maybe_paid else "failed", usd, failure)
        if over:
            exchange.save_outcome(db, call.key, over, failure.message)

    def _usd(self, call: Call, read: wire.Parsed) -> float:
        """What a reply cost; its worst case if the provider did not count the tokens."""
        price = capabilities.price(call.asked.model)
        return 0.0 if price is None else read.usage.usd(price) if read.usage else call.worst_usd


def _place(model: Model) -> tuple[str, str, str]:
    """Provider, address and model: what has limits of its own."""
    return model.provider, wire.place(model), model.model
