"""From requests to replies: what the store has, what must be asked, and how that went."""

import contextlib
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from bpo_utils import paths
from bpo_utils.chat import capabilities, errors, exchange, money, wire
from bpo_utils.chat.calls import Call, Calls
from bpo_utils.chat.store import Store, Stored, lock, now, record
from bpo_utils.records import Reply

MODES = ("online", "batch", "replay")


def complete(requests: Sequence[wire.Request], calls: Calls) -> list[Reply]:
    """See `chat.complete`."""
    if calls.mode not in MODES:
        raise ValueError(f"calls {calls.mode!r}: there are {', '.join(MODES)}")
    bodies = [wire.body(asked) for asked in requests]
    keys = [wire.key(asked, sent) for asked, sent in zip(requests, bodies, strict=True)]
    wanted = {key: (asked, sent) for key, asked, sent in zip(keys, requests, bodies, strict=True)}
    if calls.mode == "replay" and not calls.store.exists():
        raise errors.Missing(f"replay: {paths.shown(calls.store)} does not exist; import a record first: {IMPORT}")
    with Store(calls.store) as store:
        known = store.known(wanted)
        if len(known) < len(wanted):
            if calls.mode == "replay":
                raise errors.Missing(
                    _missing(calls, [wanted[key][0] for key in wanted if key not in known], keys, known)
                )
            with _held(calls):
                known = store.known(wanted)  # another process may have answered while we waited
                _ask([Call.of(key, *wanted[key]) for key in wanted if key not in known], store, calls, len(known))
                known = store.known(wanted)
    return [_reply(known[key]) for key in keys]


def stored(requests: Sequence[wire.Request], calls: Calls) -> list[Reply | None]:
    """What the store has for each request, None where it has nothing; nobody is asked."""
    if not calls.store.exists():
        return [None] * len(requests)
    keys = [wire.key(asked, wire.body(asked)) for asked in requests]
    with Store(calls.store) as store:
        known = store.known(keys)
    return [_reply(known[key]) if key in known else None for key in keys]


def used(replies: Sequence[Reply], calls: Calls) -> dict[str, tuple[int | None, int | None, float, float]]:
    """(tokens read, tokens written, US dollars, when it came) of each stored reply, by its key; None where nobody
    counted tokens. A reply without text (refused, empty) has no entry."""
    if not calls.store.exists():
        return {}
    with Store(calls.store, check=False) as store:
        return store.used(reply.key for reply in replies)


IMPORT = "bpo calls import FILE.jsonl --store STORE"


def _ask(todo: list[Call], store: Store, calls: Calls, cached: int) -> None:
    """Have calls answered and stored. Raises if any is left."""
    if not todo:
        return
    money.refuse_unknown([call.asked.model for call in todo], calls.max_usd)
    local = [call for call in todo if call.asked.model.provider in capabilities.IN_PROCESS]
    if local:
        _in_process(local, store)
    remote = [call for call in todo if call.asked.model.provider not in capabilities.IN_PROCESS]
    if remote and calls.mode == "batch":
        from bpo_utils.chat import batch

        batch.answer(remote, store, calls)
    elif remote:
        waiting = store.unsettled({call.key for call in remote}, batched=True)
        if waiting:
            tell(f"{len(waiting)} of these calls wait in a batch; now they are asked, and paid, once more")
        _online(remote, store, calls, cached)


def _online(todo: list[Call], store: Store, calls: Calls, cached: int) -> None:
    from anyio.from_thread import start_blocking_portal

    from bpo_utils.chat.engine import Engine

    with _progress(len(todo)) as bar, start_blocking_portal() as portal:

        def moved(engine: Engine) -> None:
            bar.n = engine.done + len(engine.failed)
            cap = "" if math.isinf(calls.max_usd) else f" of {calls.max_usd:g}"
            told = {"cached": cached, "failed": len(engine.failed), "running": engine.running}
            bar.set_postfix(told | {"$": f"{engine.budget.spent:.4f}{cap}"}, refresh=False)
            bar.update(0)

        async def make() -> Engine:
            return Engine(store, calls, tell, moved)

        engine = portal.call(make)
        future = portal.start_task_soon(engine.run, todo)
        try:
            future.result()
        except KeyboardInterrupt:
            tell(
                f"stopping: {engine.running} running calls are waited for, no new ones sent; Ctrl-C again gives them up"
            )
            portal.call(engine.stop, KeyboardInterrupt())
            try:
                future.result()
            except KeyboardInterrupt:
                future.cancel()
                raise
            raise
    _conclude(engine, todo)


def _conclude(engine: Any, todo: list[Call]) -> None:
    """Raise what says why calls are left, if some are."""
    if isinstance(engine.halt, errors.BudgetReached):
        raise errors.BudgetReached(f"{engine.done} of {len(todo)} calls are answered now. {engine.halt}")
    if engine.halt:
        raise engine.halt
    if engine.done < len(todo):
        stopped = [lane.stopped for lane in engine.lanes.values() if lane.stopped]
        reasons = stopped or sorted({failure.sentence() for failure in engine.failed.values()})[:3]
        raise errors.Unfinished(
            f"{len(todo) - engine.done} of {len(todo)} calls have no answer: {'; '.join(reasons)}. The others are "
            "stored: run again to go on"
        )


def _in_process(todo: list[Call], store: Store) -> None:
    """Models in this process: batch by batch, each batch one transaction."""
    from bpo_utils.chat import local

    for batch, replies in local.answer_in_batches([call.asked for call in todo]):
        with store.transaction() as db:
            for place, said in zip(batch, replies, strict=True):
                record(db, todo[place].row(), now())
                if said.text.strip():
                    exchange.save_answer(
                        db, todo[place].key, local.as_completion(todo[place].asked, said), 0.0, "local"
                    )
                else:
                    exchange.save_outcome(db, todo[place].key, "empty", "the model said nothing")


@contextlib.contextmanager
def _held(calls: Calls) -> Iterator[None]:
    """The store's lock, after saying so if another process has it."""
    from filelock import Timeout

    held = lock(calls.store)
    try:
        held.acquire(timeout=0)
    except Timeout:
        tell(f"another process is sending calls through {paths.shown(calls.store)}; waiting until it is done")
        held.acquire()
    try:
        yield
    finally:
        held.release()


def _reply(found: Stored) -> Reply:
    return Reply(found.text, found.outcome, found.finish, found.model, found.key)


def _missing(calls: Calls, missing: list[wire.Request], keys: list[str], known: dict[str, Stored]) -> str:
    absent = [key for key in dict.fromkeys(keys) if key not in known]
    models = ", ".join(sorted({asked.model.name for asked in missing}))
    shown = "\n".join(f"  {key[:16]}  {asked.prompt[:60]!r}" for key, asked in zip(absent[:10], missing, strict=False))
    more = f"\n  and {len(absent) - 10} more" if len(absent) > 10 else ""
    return (
        f"replay: {len(absent)} of {len(known) + len(absent)} calls ({models}) are not in {paths.shown(calls.store)}; "
        f"import a record that has them ({IMPORT}), or make the calls with calls=online:\n{shown}{more}"
    )


def _progress(total: int) -> Any:
    """The live line: done, cached, failed, running, dollars, time left. In a log file a line every ten seconds."""
    from tqdm import tqdm

    live = sys.stderr.isatty()
    return tqdm(total=total, unit="call", mininterval=0.5 if live else 10.0, ascii=not live, file=sys.stderr)


def tell(text: str) -> None:
    """Say something while calls are running, without tearing the live line."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)
