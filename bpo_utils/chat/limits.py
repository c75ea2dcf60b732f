"""How fast one model may be asked: requests and tokens per minute, and as many calls at once as the server bears.

All waiting is on the event loop's monotonic clock: a wall clock that jumps changes nothing.
"""

import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterator

from bpo_utils.chat.errors import Failure
from bpo_utils.profile import Limits

BURST = 12  # a twelfth of a minute's worth may go at once; the rest is spread, so that no minute has more than allowed
COOLDOWN_S = 15.0  # after "too many requests", unless the server names a time
SHRINK = 0.7
REPROBE = 50  # rounds without complaint before a size that the server has complained about is tried again
IN_A_ROW = 10  # failures without a success between them


class TokenBucket:
    """Tokens per minute, with refund: a call takes its worst case before and gives back what it did not use.

    aiolimiter cannot refund, so this one is ours.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        self.most, self.clock = per_minute / BURST, clock
        self.rate = (per_minute - self.most) / 60
        self.level, self.at = self.most, clock()

    def take(self, amount: float) -> float:
        """Take tokens and return 0.0, or take none and return the seconds until they are there.

        A call that is larger than the bucket waits for a full one and leaves a debt, which the next call waits out.
        """
        self._fill()
        missing = min(amount, self.most) - self.level
        if missing > 1e-9 * self.most:
            return missing / self.rate
        self.level -= amount
        return 0.0

    def refund(self, amount: float) -> None:
        """Give back what was taken and not used; a negative amount takes more."""
        self._fill()
        self.level = min(self.most, self.level + amount)

    def _fill(self) -> None:
        now = self.clock()
        self.level, self.at = min(self.most, self.level + (now - self.at) * self.rate), now


class Lane:
    """One model at one address: its limits, its pauses, and whether it has been given up."""

    def __init__(
        self, name: str, limits: Limits, pause_s: float, patience_s: float, say: Callable[[str], None]
    ) -> None:
        import anyio
        from aiolimiter import AsyncLimiter

        self.name, self.say, self.pause_s, self.patience_s = name, say, pause_s, patience_s
        at_once = max(1.0, limits.requests_per_minute / BURST)
        self.requests = AsyncLimiter(at_once, 60 * at_once / (limits.requests_per_minute - at_once + 1))
        self.tokens, self.refunded = TokenBucket(limits.tokens_per_minute, anyio.current_time), anyio.Event()
        self.line, self.waits, self.over = anyio.Lock(), set(), False
        self.most = limits.concurrency_most
        self.slots = anyio.CapacityLimiter(limits.concurrency_start)
        self.ready, self.prepared = anyio.CapacityLimiter(_lookahead(limits.concurrency_start)), deque()
        self.growing, self.clean, self.refused_at = True, 0, math.inf
        self.open_at = self.slowed_at = self.paused_at = -math.inf
        self.failures, self.probing, self.before, self.stopped = 0, False, limits.concurrency_start, ""

    async def turn(self, tokens: int) -> None:
        """Wait, first come first served, until one more request and its tokens are within the limits of a minute."""
        import anyio

        async with self.line:
            await self.requests.acquire()
            while wait := self.tokens.take(tokens):
                with anyio.move_on_after(wait):
                    await self.refunded.wait()

    def refund(self, tokens: int) -> None:
        """Give back tokens that a call took and did not use."""
        import anyio

        self.tokens.refund(tokens)
        self.refunded.set()
        self.refunded = anyio.Event()

    async def open(self) -> None:
        """Wait for the end of a pause."""
        import anyio

        while (wait := self.open_at - anyio.current_time()) > 0:
            await anyio.sleep(wait)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around a wait that `wake` is to end, now or later; who has waited must look whether that was why."""
        import anyio

        with anyio.CancelScope() as scope:
            self.waits.add(scope)
            if self.over:
                scope.cancel()
            try:
                yield
            finally:
                self.waits.discard(scope)

    def wake(self) -> None:
        """End every wait: nothing more is going to be sent."""
        self.over = True
        for scope in list(self.waits):
            scope.cancel()

    def succeeded(self) -> None:
        """A reply came: a whole round of them without complaint lets one more call in; before the first complaint,
        twice as many. A size that was complained about is tried again only after many rounds: each try costs a pause.
        """
        self._answered()
        self.clean += 1
        now = int(self.slots.total_tokens)
        if now >= self.refused_at and self.clean >= now:
            self.refused_at = math.inf  # the server bears it by now
        rounds = 1 if self.growing or now + 1 < self.refused_at else REPROBE
        if self.clean >= rounds * now and now < self.most:
            self._resize(now * 2 if self.growing else now + 1)

    def failed(self, failure: Failure, began: float) -> None:
        """Draw the conclusions of a failed call: slow down, pause, or give the lane up (`stopped` then says why).

        `began` is when it was sent, in the event loop's seconds. A call that began before the last step down, or
        before the last pause, tells nothing new.
        """
        import anyio

        now, asked = anyio.current_time(), failure.retry_after or 0.0
        if failure.kind == "item":
            self._answered()
            return
        if failure.kind == "stop":
            self.give_up(failure.sentence())
            return
        if asked > self.patience_s:
            self.give_up(f"the server asks to wait {_minutes(asked)}; run again after that")
            return
        if failure.kind == "slow" and began >= self.slowed_at:
            self.growing, self.slowed_at, self.refused_at = False, now, self.slots.total_tokens
            self._resize(int(self.slots.total_tokens * SHRINK))
            self.open_at = max(self.open_at, now + (COOLDOWN_S if failure.retry_after is None else 0.0))
        self.open_at = max(self.open_at, now + asked)
        if began >= self.paused_at:
            self._count(failure, now)

    def give_up(self, why: str) -> None:
        """Send nothing more to this model in this run."""
        self.stopped = self.stopped or f"{self.name}: {why}"
        self.wake()

    def _count(self, failure: Failure, now: float) -> None:
        """Ten failures in a row make a pause; a failure right after it ends the lane."""
        self.failures += 1
        if self.probing:
            self.give_up(f"still failing after a pause ({failure.sentence()})")
        elif self.failures >= IN_A_ROW:
            self.say(
                f"{self.name}: {self.failures} failures in a row, the last {failure.sentence()}; "
                f"pausing {self.pause_s:g} s, then one call will tell"
            )
            self.paused_at, self.before = now, int(self.slots.total_tokens)
            self.open_at = max(self.open_at, now + self.pause_s)
            self.probing, self.growing = True, False
            self._resize(1)

    def _answered(self) -> None:
        """The server works: if that was in question, go on as before the pause."""
        if self.probing:
            self._resize(self.before)
        self.failures, self.probing = 0, False

    def _resize(self, size: int) -> None:
        size = min(self.most, max(1, size))
        self.slots.total_tokens, self.ready.total_tokens, self.clean = size, _lookahead(size), 0


def _lookahead(concurrency: int) -> int:
    """Calls that may be written down and wait for a slot, so that no slot waits for the disk."""
    return concurrency + max(1, concurrency // 4)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds > 90 else f"{seconds:.0f} s"
