"""Which of a profile's models are still served, and who takes the place of those that are not.

The dates come from `models.toml` and, where a key is at hand, from the provider itself: `GET /models` names the models
that this key may use, and OpenAI's has a `shutdown_date`.
"""

import datetime
import os
from collections.abc import Iterable

from bpo_utils.chat import capabilities
from bpo_utils.chat.calls import Calls
from bpo_utils.chat.errors import CallFailed
from bpo_utils.profile import Model, Profile

LISTED = ("openai", "compatible")  # Zhipu's list of models is not documented


def resolve(run: Profile, calls: Calls, today: datetime.date | None = None) -> tuple[Profile, str]:
    """(the profile with every model that is no longer served replaced by its successor, what was found in a sentence).

    In replay mode nothing is asked for: a model stays if the store has answers of it, and is replaced if it has answers
    of the successor only. Raises ValueError if a model is gone and the profile does not allow successors, or if two
    places would be taken by one model.
    """
    today = today or datetime.datetime.now(datetime.UTC).date()
    models = list(dict.fromkeys((*run.answer_models, *run.judges)))
    remote = [model for model in models if model.provider not in capabilities.IN_PROCESS]
    if not remote:
        return run, "All models run in this process; nothing is sent anywhere."
    if calls.mode == "replay":
        gone = _unrecorded(remote, calls)
        told = [f"{model.name} is not recorded; {_successor(model)} is, and is replayed in its place" for model in gone]
    else:
        dates = {model: _date(model) for model in remote} | live_dates(remote, calls.timeout_s)
        gone = [model for model in remote if dates[model] is not None and dates[model] <= today]
        told = _sentences(remote, dates, gone, today, run.successors)
        if gone and not run.successors:
            raise ValueError(
                f"{'; '.join(told)}. Set `successors: true` in the profile to use them, or replay a record"
            )
    places = {model: _in_place_of(model) for model in gone}
    changed = {part: [places.get(model, model) for model in getattr(run, part)] for part in ("answer_models", "judges")}
    for part, found in changed.items():
        if len({model.name for model in found}) < len(found):
            names = ", ".join(model.name for model in found)
            raise ValueError(f"{part} would be {names}: one model twice; name another `successor` in the profile")
    return run.model_copy(update=changed), "; ".join(told) or "All models of this profile are served."


def resolve_teacher(run: Profile, calls: Calls) -> tuple[Model, str]:
    """(the profile's teacher, or its successor; what was found in a sentence). Raises as `resolve`."""
    if run.teacher.provider == "recorded":
        return run.teacher.as_model, "The replies came with the rows; nobody is asked."
    alone = run.model_copy(update={"answer_models": [run.teacher.as_model], "judges": []})
    found, told = resolve(alone, calls)
    return found.answer_models[0], told


def live_dates(models: Iterable[Model], timeout_s: float) -> dict[Model, datetime.date | None]:
    """Shutdown dates as the providers tell them; a model that is not listed counts as gone since the year 1.

    Only providers with a key at hand are asked; one that does not answer is left out.
    """
    from anyio.from_thread import start_blocking_portal

    from bpo_utils.chat import clients

    async def ask(model: Model) -> dict[str, str]:
        client = clients.connect(model, timeout_s, 1)
        try:
            return await client.served()
        finally:
            await client.close()

    found: dict[Model, datetime.date | None] = {}
    listed: dict[str, dict[str, str]] = {}
    for model in models:
        address = capabilities.address(model)
        if model.provider not in LISTED or not os.environ.get(capabilities.provider(model.provider).key):
            continue
        try:
            if address not in listed:
                with start_blocking_portal() as portal:
                    listed[address] = portal.call(ask, model)
        except CallFailed:
            continue  # the table's dates stand; a wrong key is told when the first call is made
        date = listed[address].get(model.model)
        found[model] = datetime.date.min if date is None else datetime.date.fromisoformat(date) if date else None
    return found


def _date(model: Model) -> datetime.date | None:
    return capabilities.of(model).shutdown


def _successor(model: Model) -> str:
    return model.successor or capabilities.of(model).successor


def _in_place_of(model: Model) -> Model:
    """The successor, under its own name: no table shall name a model that did not answer."""
    name = _successor(model)
    if not name:
        raise ValueError(
            f"{model.name} is no longer served and has no successor; name one in the profile (`successor`)"
        )
    return model.model_copy(update={"name": name, "model": name, "successor": "", "price": None})


def _sentences(
    models: list[Model],
    dates: dict[Model, datetime.date | None],
    gone: list[Model],
    today: datetime.date,
    allowed: bool,
) -> list[str]:
    told = []
    for model in models:
        date, successor = dates[model], _successor(model) or "nobody"
        if model in gone:
            when = "is not among the models of this key" if date == datetime.date.min else f"is shut down since {date}"
            told.append(f"{model.name} {when}: {successor} {'takes its place' if allowed else 'could take its place'}")
        elif date is not None:
            told.append(f"{model.name} is served until {date} (in {(date - today).days} days)")
    return told


def _unrecorded(models: list[Model], calls: Calls) -> list[Model]:
    from bpo_utils.chat.store import Store

    if not calls.store.exists():
        return []
    with Store(calls.store) as store:
        recorded = {name for (name,) in store.db.execute("SELECT DISTINCT model FROM call")}
    return [model for model in models if model.model not in recorded and _successor(model) in recorded]
