"""Several searches side by side in one process, in lockstep: what they wait for goes to the model as one batch.

A batch of a small model takes nearly as long with 20 prompts as with 120, and a single search seldom asks for more than
its dev rows. So each search runs in a thread of its own, and the model answers once all of them wait for it. What is in
a batch depends on the searches alone and not on which thread was faster.
"""

import threading
from collections.abc import Callable, Sequence
from functools import partial

from bpo_utils.chat import Calls, wire
from bpo_utils.records import Reply
from bpo_utils.search import programs

Complete = Callable[[Sequence[wire.Request], Calls], list[Reply]]


class Lockstep:
    """Collects the requests of `lanes` threads; whoever comes last has all of them answered."""

    def __init__(self, lanes: int, complete: Complete = programs.complete) -> None:
        self.active, self.answer = lanes, complete
        self.waiting: dict[int, tuple[list[wire.Request], Calls]] = {}
        self.replies: dict[int, list[Reply]] = {}
        self.failed: BaseException | None = None
        self.turn = threading.Condition()

    def complete(self, lane: int, requests: Sequence[wire.Request], calls: Calls) -> list[Reply]:
        """As `programs.complete`, for one lane; programs answer at once, models when all lanes wait."""
        if all(asked.model.provider in programs.PROGRAMS for asked in requests):
            return self.answer(requests, calls)
        with self.turn:
            self.waiting[lane] = (list(requests), calls)
            self._go()
            self.turn.wait_for(lambda: lane in self.replies or self.failed)
            if lane not in self.replies:
                raise Interrupted("another search beside this one failed") from self.failed
            return self.replies.pop(lane)

    def leave(self) -> None:
        """One lane has nothing more to ask."""
        with self.turn:
            self.active -= 1
            self._go()

    def _go(self) -> None:
        if not self.waiting or len(self.waiting) < self.active or self.failed:
            return
        lanes = sorted(self.waiting)
        kinds = dict.fromkeys(type(self.waiting[lane][0][0]) for lane in lanes)  # log-probabilities apart from answers
        try:
            for kind in kinds:
                self._answer([lane for lane in lanes if type(self.waiting[lane][0][0]) is kind])
        except BaseException as error:  # also an interruption: the others wait, and must be told
            self.failed = error
            raise
        finally:
            self.waiting.clear()
            self.turn.notify_all()

    def _answer(self, lanes: list[int]) -> None:
        everything = [asked for lane in lanes for asked in self.waiting[lane][0]]
        replies = iter(self.answer(everything, self.waiting[lanes[0]][1]))
        for lane in lanes:
            self.replies[lane] = [next(replies) for _ in self.waiting[lane][0]]


class Interrupted(RuntimeError):
    """A search that ended because of another one's failure."""


def run(lanes: Sequence[Callable[[Complete], None]]) -> None:
    """Run every lane, each in a thread; a lane is given the `complete` that it must call its models with.

    Raises what the first lane in order raised that did not end because of another.
    """
    step, failed = Lockstep(len(lanes)), {}

    def walk(number: int) -> None:
        try:
            lanes[number](partial(step.complete, number))
        except BaseException as error:  # told by the thread that waits for this one
            failed[number] = error
        finally:
            try:
                step.leave()
            except BaseException as error:
                failed.setdefault(number, error)

    # daemons: an interrupted process does not wait for them
    threads = [threading.Thread(target=walk, args=(number,), daemon=True) for number in range(len(lanes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    own = [error for _, error in sorted(failed.items()) if not isinstance(error, Interrupted)]
    if own:
        raise own[0]
