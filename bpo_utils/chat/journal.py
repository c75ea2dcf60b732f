"""Many writers, one transaction: the disk is waited for once, not once per call."""

from collections.abc import Callable
from typing import Any

from bpo_utils.chat.store import DiskFull, Store


class Journal:
    """Collects what calls write while the last transaction was on its way, and puts it into the next one."""

    def __init__(self, store: Store) -> None:
        import anyio

        self.store, self.waiting, self.wake = store, [], anyio.Event()
        self.full = ""  # once the disk is full: why nothing more may be sent

    async def write(self, change: Callable[[Any], None]) -> None:
        """Have a change written; returns when it is on the disk. Raises OSError if it could not be."""
        import anyio

        entry = [change, anyio.Event(), None]
        self.waiting.append(entry)
        self.wake.set()
        await entry[1].wait()
        if entry[2]:
            raise entry[2]

    async def run(self) -> None:
        """Write until cancelled."""
        import anyio

        while True:
            await self.wake.wait()
            self.wake, entries, self.waiting = anyio.Event(), self.waiting, []
            try:
                await anyio.to_thread.run_sync(self._apply, [entry[0] for entry in entries])
            except OSError as error:
                for entry in entries:
                    entry[2] = error
            for entry in entries:
                entry[1].set()

    def _apply(self, changes: list[Callable[[Any], None]]) -> None:
        try:
            self._commit(changes)
        except DiskFull:
            self.store.drop_reserve()  # replies in flight have been paid for: make room for them
            self._commit(changes)
            self.full = (
                f"{self.store.path}: the disk is full; everything answered is stored. Free some space, run again"
            )

    def _commit(self, changes: list[Callable[[Any], None]]) -> None:
        with self.store.transaction() as db:
            for change in changes:
                change(db)
