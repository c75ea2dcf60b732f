"""What calls write down, one transaction for as many as can share it: the disk is what they wait for.

Transactions are made on the event loop's own thread. sqlite3 lets go of the interpreter for every statement, and a
thread beside a busy loop waits 5 ms to get it back, many times what the disk takes.
"""

from collections.abc import Callable
from typing import Any

from bpo_utils.chat.store import DiskFull, Store

PATIENCE_S = 0.01


class Journal:
    """Collects changes and writes them together."""

    def __init__(self, store: Store) -> None:
        import anyio

        self.store, self.waiting, self.some, self.hurry = store, [], anyio.Event(), anyio.Event()
        self.full = ""  # once the disk is full: why nothing more may be sent

    async def write(self, change: Callable[[Any], None], hurry: bool = True) -> None:
        """Have a change written; returns when it is on the disk. Raises what kept it from being.

        It shares a transaction with the other changes of this step of the event loop; without `hurry` it waits for the
        next one that is made, or PATIENCE_S.
        """
        import anyio

        entry = [change, anyio.Event(), None]
        self.waiting.append(entry)
        self.some.set()
        if hurry:
            self.hurry.set()
        await entry[1].wait()
        if entry[2]:
            raise entry[2]

    async def run(self) -> None:
        """Write until cancelled."""
        import anyio

        while True:
            await self.some.wait()
            with anyio.move_on_after(PATIENCE_S):
                await self.hurry.wait()
            self.some, self.hurry, entries, self.waiting = anyio.Event(), anyio.Event(), self.waiting, []
            self._write(entries)
            for entry in entries:
                entry[1].set()

    def _write(self, entries: list[Any]) -> None:
        """Write all in one transaction; if one of them cannot be written at all, the others without it."""
        try:
            self._apply([change for change, *_ in entries])
        except Exception as error:
            if len(entries) == 1 or isinstance(error, OSError):
                for entry in entries:
                    entry[2] = error
            else:
                for entry in entries:
                    self._write([entry])

    def _apply(self, changes: list[Callable[[Any], None]]) -> None:
        try:
            self._commit(changes)
        except DiskFull as error:
            self.full = str(error)
            self.store.make_room()  # replies in flight have been paid for
            self._commit(changes)

    def _commit(self, changes: list[Callable[[Any], None]]) -> None:
        with self.store.transaction() as db:
            for change in changes:
                change(db)
