"""`bpo search`: its plan, its question, its cap, what it shows, and what it says when something is missing."""

import hashlib
import json
from pathlib import Path

import asking
import fake_api
import pytest
import test_search_server as talking
import yaml

from bpo_utils import cli, paths
from bpo_utils.chat import wire
from bpo_utils.profile import Model
from bpo_utils.search import cost, methods, real_files
from bpo_utils.search.candidates import LONGEST
from bpo_utils.search.plan import Plan
from bpo_utils.search.task import prompt

SEARCH = ("search", "opro", "--task", "landscape", "--set", "candidates=3")


@pytest.fixture
def bpo(run_folder, monkeypatch, capsys):
    """The command in this process: (exit code, standard output, standard error)."""
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the command's handler is for a process of its own

    def command(*words: str) -> tuple[int, str, str]:
        code = cli.main([str(word) for word in words])
        return code, *capsys.readouterr()

    return command


# The miniature and the landscape: nothing is paid, nothing is asked


def test_a_search_shows_its_plan_and_what_it_found(bpo, run_folder):
    code, out, err = bpo(*SEARCH, "--budget", "400", "--seed", "2")
    assert code == 0, err
    said = [line.split() for line in out.splitlines() if line]
    assert out.startswith("OPRO: planned: at most 400 target calls and 30 optimizer calls (at most 60 if")
    shown = {line[0]: line for line in said if line[0] in ("dev", "test", "gain", "calls")}
    assert set(shown) == {"dev", "test", "gain", "calls"}
    folder = run_folder / "mini" / "09_search" / "runs" / "landscape"
    (found,) = folder.iterdir()
    assert found.name.startswith("opro-400-s2-") and str(found) in out
    result = json.loads((found / "result.json").read_text("utf-8"))
    assert f"\n{result['best']['text']}\n" in out and result["best"]["id"] != "c0"
    assert shown["dev"][1] == f"{result['dev']:.3f}" and shown["test"][1] == f"{result['test']:.3f}"
    gain = result["test"] - sum(result["seed_scores"].values()) / len(result["seed_scores"])
    assert shown["gain"][1] == f"{gain:+.3f}" and float(shown["gain"][4]) <= gain <= float(shown["gain"][6].strip(","))
    used = result["counts"]
    assert f"target {used['target_calls']} of 400 planned, optimizer {used['optimizer_calls']} of 30" in out


def test_the_result_is_one_line_of_json_if_asked_and_loaded_when_run_again(bpo):
    code, out, err = bpo(*SEARCH, "--budget", "100", "--json")
    found = json.loads(out)
    assert code == 0 and out.count("\n") == 1 and "planned: at most 100" in err
    assert found["test_low"] <= found["test"] <= found["test_high"] and found["n"] == 120 == len(found["scores"])
    assert found["difference"] == pytest.approx(found["test"] - found["seed_test"])
    again = bpo(*SEARCH, "--budget", "100", "--json")
    assert again[0] == 0 and json.loads(again[1]) == found and "planned" not in again[2]  # nothing was searched
    other = bpo("search", "opro", "--task", "landscape", "--set", "candidates=2", "--budget", "100", "--json")
    assert json.loads(other[1])["folder"] != found["folder"]


def test_a_dry_run_does_nothing_but_show_the_plan(bpo, run_folder):
    code, out, _ = bpo(*SEARCH, "--budget", "400", "--dry-run")
    assert code == 0 and "opro on landscape: planned: at most 400 target calls" in out and "at most 288 target" in out
    assert not list(run_folder.rglob("state.json"))


def test_the_defaults_are_the_profiles(bpo):
    code, out, err = bpo("search", "paraphrases", "--profile", "smoke", "--dry-run")
    # 24 target calls, 4 dev rows: the first instruction and 5 paraphrases of it
    assert code == 0 and "paraphrases on instruction: planned: at most 24 target calls and 5 optimizer calls" in out, (
        err
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("search", "opr"), "no method 'opr' (did you mean 'opro'?); there are seed, paraphrases, ape"),
        (("search", "opro", "--budget", "99"), "OPRO: a budget of 99 target calls is too small; rounds: 1 can take"),
        (("search", "opro", "--budget", "0"), "--budget 0: at least 1 target call"),
        (("search", "opro", "--profile", "recorded"), "profile recorded has no section `searching`"),
        (("search", "opro", "--profile", "papre"), "no profile 'papre' (did you mean 'paper'?)"),
        (("search", "opro", "--task", "gsm8"), "no task 'gsm8' (did you mean 'gsm8k'?)"),
        (("search", "opro", "--task", "gsm8k"), "the optimizer of this profile is program, which knows the miniature"),
        (("search", "opro", "--set", "candidate=3"), "--set candidate: no such setting (did you mean 'candidates'?)"),
        (("search", "opro", "--set", "candidates"), "--set candidates: write it as --set name=value"),
        (("search", "opro", "--set", "candidates=many"), "candidates"),
        (("search", "opro", "--set", "position=above"), "no position 'above'; there are before"),
        (("search", "opro", "--set", "train=5000"), "rows are asked for"),
    ],
)  # fmt: skip
def test_wrong_use_says_what_is_wrong_and_what_there_is(bpo, words, told):
    code, out, err = bpo(*words)
    assert code == 2 and told in err and out == "" and err.startswith("bpo: ")


def test_missing_data_say_what_to_set(bpo, tmp_path, monkeypatch):
    words = ("search", "opro", "--profile", "paper", "--dry-run", "--budget", "1000")
    monkeypatch.setenv("BPO_TASKS_DIR", str(tmp_path))
    code, _, err = bpo(*words)
    assert code == 1 and "object_counting.json is missing; put it there or unset BPO_TASKS_DIR" in err
    monkeypatch.delenv("BPO_TASKS_DIR")
    monkeypatch.setenv("BPO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("BPO_DATA_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    code, _, err = bpo(*words)
    assert code == 1 and "could not reach" in err and "set BPO_TASKS_DIR to their folder" in err


# Models that are paid for


@pytest.fixture(scope="module")
def server():
    with fake_api.running(reply="text:nothing is known of this") as api:
        yield api


@pytest.fixture
def api(server, bpo, tmp_path, monkeypatch) -> fake_api.FakeApi:
    """The server, a profile `paid` whose models it plays, and a task of made-up boxes in the place of a real one."""
    asking.prepare(server, monkeypatch)
    task, said = talking.bbh_like()
    target, optimizer = talking.models(server)
    server.script(rules=talking.rules(said, target.model, optimizer.model, "Yes"))
    every = [{"input": row.input, "target": row.gold} for row in (*task.train, *task.dev, *task.test)]
    path = tmp_path / "tasks" / "bbh" / "navigate.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"canary": "made up", "examples": every}), encoding="utf-8")
    pin = (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setitem(real_files.BBH, "navigate", pin)
    values = yaml.safe_load((paths.PROFILES / "smoke.yaml").read_text(encoding="utf-8"))
    searching = values["searching"] | {"task": "bbh/navigate", "rows": {"train": 12, "dev": 6, "test": 6}}
    searching |= {"target": target.model_dump(), "optimizer": optimizer.model_dump(), "answer_tokens": 64}
    searching |= {"budgets": [60], "settings": talking.SMALL}
    freely = {"openai": asking.FREELY.model_dump(exclude_none=True)}
    values |= {"name": "paid", "label": "paid", "searching": searching, "limits": freely}
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "paid.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    monkeypatch.setenv("BPO_PROFILES_DIR", str(tmp_path / "profiles"))
    monkeypatch.setenv("BPO_TASKS_DIR", str(tmp_path / "tasks"))
    return server


PAID = ("search", "opro", "--profile", "paid")


def asked(api: fake_api.FakeApi) -> int:
    return api.stats()["endpoints"].get("chat", 0)


def test_the_price_is_shown_and_nothing_is_sent_where_nobody_can_be_asked(api, bpo):
    code, out, _ = bpo(*PAID, "--dry-run")
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line}
    # at most 60 of the search and 2 x (6 + 6) after it; two rounds fit, so four are allowed, of 4 proposals each
    assert code == 0 and rows["target"][1:5] == ["openai", "84", "0", "84"] and rows["optimizer"][2] == "16"
    assert 0 < float(rows["target"][5]) < float(rows["target"][6]) and float(rows["all"][5]) > float(rows["target"][6])
    assert "planned: at most 60 target calls and 16 optimizer calls" in out
    code, out, err = bpo(*PAID)
    assert code == 2 and "nobody is here to be asked; add --yes" in err and asked(api) == 0


def test_a_bill_is_a_bound_and_knows_what_it_does_not_know():
    task, _ = talking.bbh_like()
    priced = Model(name="m", provider="openai", model="m", price=asking.PRICE)
    section = talking.section(task, priced, priced)
    target, optimizer = cost.lines(section, task, Plan(100, 10), 20)
    assert (target.to_pay, optimizer.to_pay) == (120, 10) and target.expected < target.worst
    row = max(task.train, key=lambda row: len(row.input))
    text, _ = prompt(task, "x" * LONGEST, row.input)
    longest = wire.worst_usage(wire.Request(priced, text, max_tokens=task.answer_tokens)).usd(asking.PRICE)
    assert target.worst == pytest.approx(120 * longest)
    once = cost.lines(section.model_copy(update={"tries": 1}), task, Plan(100, 10), 20)[1]
    assert optimizer.worst == pytest.approx(2 * once.worst) and optimizer.expected == once.expected
    unknown = priced.model_copy(update={"price": None})
    assert cost.lines(talking.section(task, unknown, priced), task, Plan(100, 10), 20)[0].worst is None
    own = Model(name="m", provider="huggingface", model="m")
    program = Model(name="p", provider="program", model="facets")
    assert [line.worst for line in cost.lines(talking.section(task, own, program), task, Plan(9, 9), 9)] == [0.0, 0.0]


@pytest.mark.parametrize(("reply", "code"), [("y", 0), ("n", 2)])
def test_a_person_is_asked_before_the_first_call(api, bpo, monkeypatch, reply, code):
    questions = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: questions.append((question, asked(api))) or reply)
    found = bpo("search", "paraphrases", "--profile", "paid", "--budget", "18")
    assert found[0] == code and len(questions) == 1 and "spend at most $" in questions[0][0] and questions[0][1] == 0
    assert (asked(api) > 0) == (code == 0)
    if code == 0:  # what is there is shown without a question
        assert bpo("search", "paraphrases", "--profile", "paid", "--budget", "18")[0] == 0 and len(questions) == 1


def test_the_cap_is_kept_and_the_search_goes_on_from_there(api, bpo, run_folder, tmp_path, monkeypatch):
    worst = float(bpo(*PAID, "--dry-run")[1].split("\nall ")[1].split("\n")[0].split()[-1])
    code, _, err = bpo(*PAID, "--yes", "--max-usd", "0.008")
    assert code == 3 and "run again with a higher --max-usd" in err
    stopped = api.stats()
    assert 0 < stopped["answered"] < 60 and asking.billed(api) <= 0.008
    code, out, err = bpo(*PAID, "--yes", "--max-usd", "5", "--json")
    assert code == 0, err
    found, stats = json.loads(out), api.stats()
    used = found["counts"]
    assert stats["answered"] == talking.in_all(used) and used["cached"] == stopped["answered"]
    assert {one["arrived"] for one in stats["by_key"].values()} == {1}
    assert used["usd"] == pytest.approx(asking.billed(api)) and used["measured"] <= 24
    assert asking.billed(api) <= worst
    assert "spent at most $" in bpo("calls", "status", "--profile", "paid", "--stage", "09")[1]
    monkeypatch.delenv("OPENAI_API_KEY")
    folder = Path(found["folder"])
    for path in folder.iterdir():
        path.unlink()
    code, out, err = bpo(*PAID, "--calls", "replay", "--json")
    replayed = json.loads(out)
    assert code == 0 and replayed["scores"] == found["scores"] and replayed["best"] == found["best"]
    assert asked(api) == stats["endpoints"]["chat"]
    code, _, err = bpo("search", "abo", "--profile", "paid", "--calls", "replay")
    assert code == 1 and "replay:" in err and "bpo calls import" in err
    code, _, err = bpo("search", "abo", "--profile", "paid", "--yes")
    assert code == 2 and "OPENAI_API_KEY" in err
    assert talking.in_files(tmp_path, asking.KEY) == [] and in_store(run_folder)


def in_store(folder: Path) -> bool:
    return (folder / "paid" / "09_search" / "calls.sqlite").is_file()


def test_a_provider_that_cannot_begin_an_answer_is_refused_before_the_question(api, bpo):
    code, _, err = bpo(*PAID, "--set", "position=A_begin", "--yes")
    assert code == 2 and "openai cannot be given the start of an answer" in err and asked(api) == 0


def test_every_method_is_in_the_help_of_its_errors(bpo):
    assert all(name in bpo("search", "nothing")[2] for name in methods.NAMES)
