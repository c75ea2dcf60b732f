"""Models that are no longer served: who takes their place, and the one sentence about it."""

import datetime

import fake_api
import pytest

from bpo_utils import chat, profile
from bpo_utils.chat import capabilities, exchange, served, wire
from bpo_utils.chat.store import Store, record
from bpo_utils.profile import Model

BEFORE, AFTER = datetime.date(2026, 10, 22), datetime.date(2026, 10, 23)
OLD = {"name": "gpt-3.5-turbo", "provider": "openai", "model": "gpt-3.5-turbo", "stands_for": "gpt-3.5-turbo"}
REPLY = '{"choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}]}'


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    for provider in capabilities.table()[0].values():
        monkeypatch.delenv(provider.key, raising=False)


def run_with(*models, successors=True):
    mini = profile.load("mini")
    return mini.model_copy(update={"answer_models": list(models), "judges": [], "successors": successors})


def calls(tmp_path, mode="online"):
    return chat.Calls(tmp_path / "calls.sqlite", mode)


def test_a_model_is_replaced_on_the_day_of_its_shutdown_and_answers_under_its_own_name(tmp_path):
    run, told = served.resolve(run_with(Model(**OLD)), calls(tmp_path), BEFORE)
    assert run.answer_models == [Model(**OLD)]
    assert told == "gpt-3.5-turbo is served until 2026-10-23 (in 1 days)"
    run, told = served.resolve(run_with(Model(**OLD)), calls(tmp_path), AFTER)
    assert [(model.name, model.model, model.stands_for) for model in run.answer_models] == [
        ("gpt-5.6-terra", "gpt-5.6-terra", "gpt-3.5-turbo")
    ]
    assert told == "gpt-3.5-turbo is shut down since 2026-10-23: gpt-5.6-terra takes its place"


def test_the_profile_may_name_another_successor_or_forbid_them(tmp_path):
    own = Model(**OLD, successor="gpt-6-luna")
    assert served.resolve(run_with(own), calls(tmp_path), AFTER)[0].answer_models[0].name == "gpt-6-luna"
    with pytest.raises(ValueError, match="gpt-5.6-terra could take its place. Set `successors: true`"):
        served.resolve(run_with(Model(**OLD), successors=False), calls(tmp_path), AFTER)


def test_one_model_in_two_places_and_no_successor_are_errors(tmp_path):
    luna = Model(name="gpt-6-luna", provider="openai", model="gpt-6-luna")
    with pytest.raises(ValueError, match="one model twice"):
        served.resolve(run_with(Model(**OLD, successor="gpt-6-luna"), luna), calls(tmp_path), AFTER)
    with fake_api.running(models={}) as api, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "sk-any")
        nobody = Model(name="x", provider="openai", model="x", base_url=api.url)
        with pytest.raises(ValueError, match="x is no longer served and has no successor"):
            served.resolve(run_with(nobody), calls(tmp_path), AFTER)


def test_the_provider_s_own_list_wins_over_the_table(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-any")
    with fake_api.running(models={"gpt-3.5-turbo": {"shutdown_date": "2999-01-01"}, "gpt-4o": {}}) as api:
        here = {"base_url": api.url, "provider": "openai"}
        models = [
            Model(**OLD | here),
            Model(name="gpt-4o", model="gpt-4o", **here),
            Model(name="g", model="gpt-4", **here),
        ]
        run, told = served.resolve(run_with(*models), calls(tmp_path), AFTER)
        api.script(rules=[{"match": {"on": "models"}, "do": "server_error"}])
        _, without = served.resolve(run_with(models[0]), calls(tmp_path), AFTER)
    assert [model.name for model in run.answer_models] == ["gpt-3.5-turbo", "gpt-4o", "gpt-5.6-sol"]
    assert "gpt-3.5-turbo is served until 2999-01-01" in told
    assert "g is not among the models of this key: gpt-5.6-sol takes its place" in told
    assert without.startswith("gpt-3.5-turbo is shut down")  # a list that cannot be had leaves the table's date


def test_replay_keeps_the_model_that_was_recorded_whatever_the_day(tmp_path):
    old, settings = Model(**OLD), calls(tmp_path, "replay")
    assert served.resolve(run_with(old), settings, AFTER)[0].answer_models == [old]
    successor = old.model_copy(update={"name": "gpt-5.6-terra", "model": "gpt-5.6-terra"})
    asked = wire.Request(successor, "question")
    with Store(settings.store) as store, store.transaction() as db:
        call = chat.Call.of(wire.key(asked, wire.body(asked)), asked, wire.body(asked))
        record(db, call.row(), 0.0)
        exchange.save_answer(db, call.key, REPLY, 0.0, "imported")
    run, told = served.resolve(run_with(old), settings, BEFORE)
    assert run.answer_models[0].name == "gpt-5.6-terra" and "is not recorded; gpt-5.6-terra is" in told


def test_models_in_this_process_are_never_gone(tmp_path):
    mini = profile.load("mini")
    assert served.resolve(mini, calls(tmp_path), AFTER) == (
        mini,
        "All models run in this process; nothing is sent anywhere.",
    )


def test_the_table_says_where_every_price_and_date_comes_from():
    providers, models = capabilities.table()
    for name, model in models.items():
        assert model.provider in providers, name
        assert model.price is None or (model.price.source and model.price.read.year >= 2026), name
        assert model.shutdown is None or (model.shutdown_source and model.successor), name
    assert {"gpt-3.5-turbo", "gpt-4", "gpt-4o", "glm-4-flash"} <= models.keys()


def test_the_paper_profile_s_models_have_prices_and_successors():
    for model in (*profile.load("paper").answer_models, *profile.load("paper").judges):
        assert capabilities.price(model) is not None, model.name
        if model.provider != "huggingface":
            assert model.successor and capabilities.price(served._in_place_of(model)) is not None, model.name
