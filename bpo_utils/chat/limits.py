"""How fast one model may be asked: requests and tokens per minute, and as many calls at once as the server bears.

All waiting is on the event loop's monotonic clock: a wall clock that jumps changes nothing.
"""

import math
from collections.abc import Callable

from bpo_utils.chat.errors import Failure
from bpo_utils.profile import Limits

WINDOW_S = 5.0  # aiolimiter lets a whole period's worth through at once, so the period is short
COOLDOWN_S = 15.0  # after "too many requests", unless the server names a time
SHRINK = 0.7
IN_A_ROW = 10  # failures without a success between them


class TokenBucket:
    """Tokens per minute, with refund: a call takes its worst case before and gives back what it did not use.

    aiolimiter cannot refund, so this one is ours.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        self.rate, self.clock = per_minute / 60, clock
        self.most = self.rate * WINDOW_S
        self.level, self.at = self.most, clock()

    def take(self, amount: float) -> float:
        """Take tokens; returns the seconds to wait before they may be used. May go into debt: one call may exceed a
        window's worth, and then waits as long as it takes to pay that back."""
        self._fill()
        self.level -= amount
        return max(0.0, -self.level / self.rate)

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
        per_window = limits.requests_per_minute * WINDOW_S / 60
        self.requests = AsyncLimiter(max(1.0, per_window), WINDOW_S * max(1.0, 1 / per_window))
        self.tokens = TokenBucket(limits.tokens_per_minute, anyio.current_time)
        self.most = limits.concurrency_most
        self.slots = anyio.CapacityLimiter(limits.concurrency_start)
        self.ready = anyio.CapacityLimiter(_lookahead(limits.concurrency_start))
        self.growing, self.clean, self.open_at, self.paused_at = True, 0, -math.inf, -math.inf
        self.failures, self.probing, self.stopped = 0, False, ""

    async def turn(self, tokens: int) -> None:
        """Wait until one more request, and its tokens, are within the limits of a minute."""
        import anyio

        await self.requests.acquire()
        await anyio.sleep(self.tokens.take(tokens))

    async def open(self) -> float:
        """Wait for the end of a pause; returns the time at which the call begins, in the event loop's seconds."""
        import anyio

        while (wait := self.open_at - anyio.current_time()) > 0:
            await anyio.sleep(wait)
        return anyio.current_time()

    def succeeded(self) -> None:
        """A reply came: a whole round of them without complaint lets one more call in; before the first complaint,
        twice as many."""
        self.failures, self.probing = 0, False
        self.clean += 1
        now = int(self.slots.total_tokens)
        if self.clean >= now and now < self.most:
            self._resize(now * 2 if self.growing else now + 1)

    def failed(self, failure: Failure, began: float) -> None:
        """Draw the conclusions of a failed call: slow down, pause, or give the lane up (`stopped` then says why).

        A call that began before the last pause tells nothing new.
        """
        import anyio

        if failure.kind == "item":
            self.failures = 0  # the server answered
            return
        if failure.kind == "stop":
            self.stopped = f"{self.name}: {failure.sentence()}"
            return
        if (failure.retry_after or 0.0) > self.patience_s:
            self.stopped = f"{self.name}: asks to wait {failure.retry_after / 60:.0f} minutes; run again after that"
            return
        if failure.kind == "slow" and anyio.current_time() >= self.open_at:  # one step for one burst of complaints
            self.growing = False
            self._resize(int(self.slots.total_tokens * SHRINK))
            self.open_at = anyio.current_time() + (COOLDOWN_S if failure.retry_after is None else failure.retry_after)
        if began < self.paused_at:
            return
        self.failures += 1
        if self.probing:
            self.stopped = f"{self.name}: still failing after a pause ({failure.sentence()})"
        elif self.failures >= IN_A_ROW:
            self.say(
                f"{self.name}: {self.failures} failures in a row, the last {failure.sentence()}; "
                f"pausing {self.pause_s:g} s, then one call will tell"
            )
            self.paused_at = anyio.current_time()
            self.open_at = max(self.open_at, self.paused_at + self.pause_s)
            self.probing, self.growing = True, False
            self._resize(1)

    def _resize(self, size: int) -> None:
        size = min(self.most, max(1, size))
        self.slots.total_tokens, self.ready.total_tokens, self.clean = size, _lookahead(size), 0


def _lookahead(concurrency: int) -> int:
    """Calls that may be written down and wait for a slot, so that no slot waits for the disk."""
    return concurrency + max(1, concurrency // 4)
