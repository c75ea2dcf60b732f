"""Every method of prompt search against models that talk: a local server in the place of OpenAI, Zhipu and vLLM.

The replies are written as models write them: chatty, sometimes wrong, and in one half of the tests malformed. In
between the server limits the rate, drops connections and is overloaded. What the server counts must be what the search
says it used.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import asking
import fake_api
import pytest

from bpo_utils import paths, records
from bpo_utils.chat import Calls
from bpo_utils.profile import Model, Searching
from bpo_utils.search import methods, metrics, run
from bpo_utils.search.candidates import LONGEST
from bpo_utils.search.plan import Sizes
from bpo_utils.search.state import Roles
from bpo_utils.search.task import Row, Task

SIZES = (12, 6, 6)
LIMIT_S = 60
SMALL = {  # fewer calls than in the papers, so that the tests are quick
    "ape": {"subsamples": 2, "completions": 4},
    "iterative_ape": {"subsamples": 2, "completions": 4, "first": 3},
    "protegi": {"minibatch": 6, "n_gradients": 2, "samples_per_eval": 3, "eval_rounds": 2, "max_expansion_factor": 4},
    "curriculum": {"minibatch": 6, "n_gradients": 2, "samples_per_eval": 3, "eval_rounds": 2, "max_expansion_factor": 4,
                   "k": 2, "extra_rows": 4},
    "opro": {"candidates": 4},
    "pe2": {"proposals": 3},
    "promptagent": {"width": 2, "batch": 3},
    "abo": {"batch": 8},
}  # fmt: skip
STEPS = ["1. Write down the numbers.", "2. Work with them.", "3. Give the result."]
FINER = [STEPS[0], "2. Take the first number, then the second; say what has to be done with both; do it.", STEPS[2]]


def bbh_like() -> tuple[Task, dict[str, str]]:
    """Yes or no, with what the target answers by a part of the input: one in three wrong, one in six not readable."""
    rows, said = [], {}
    for n in range(100, 100 + sum(SIZES)):
        red, blue = (n * 7) % 9 + 4, (n * 5) % 9
        gold = "Yes" if red > blue else "No"
        told = {0: ("Yes", "No")[gold == "Yes"], 3: "It depends on how one counts."}.get(n % 6, gold)
        said[f"box-{n} "] = f"Let's see: {red} red ones, {blue} blue ones.\n<answer>{told}</answer>"
        text = f"In box-{n} there are {red} red and {blue} blue balls. Are most of them red?\nOptions:\n- Yes\n- No"
        rows.append(Row(f"box-{n}", text, gold))
    return made("bbh/boxes", "The model gets a question about boxes.", rows), said


def gsm8k_like() -> tuple[Task, dict[str, str]]:
    """Word problems, all with the answer 12."""
    rows, said = [], {}
    for n in range(100, 100 + sum(SIZES)):
        count = (1, 2, 3, 4, 6, 12)[n % 6]
        answer = {0: "13", 3: "I cannot work that out."}.get(n % 6, "$12.00")
        said[f"shop-{n} "] = f"{count} pens, {12 // count} dollars each.\nSo the answer is: {answer}"
        text = f"In shop-{n} Ann buys {count} pens for {12 // count} dollars each. What does she pay?"
        rows.append(Row(f"shop-{n}", text, "12"))
    return made("gsm8k-like", "The model gets a word problem.", rows), said


def made(name: str, about: str, rows: list[Row]) -> Task:
    parts = rows[: SIZES[0]], rows[SIZES[0] : SIZES[0] + SIZES[1]], rows[SIZES[0] + SIZES[1] :]
    metric = metrics.of([row.gold for row in rows])
    return Task(name, about, "Solve it.", *map(tuple, parts), metric, "before", metrics.FORM)


def lines(words: list[str]) -> str:
    return "\n".join(words)


def instructions(*texts: str) -> str:
    listed = [f"{n}. <instruction>\n{text}\n</instruction>" for n, text in enumerate(texts, 1)]
    return "Certainly! Here is what I suggest:\n\n" + "\n\n".join(listed)


IDEAS = (
    "Work through the question step by step, then answer.", "First list what is given, then decide.",
    "Count twice: 数两遍，然后回答。", "Use only what the text says; do not guess.", "Check the answer, then give it.",
    "Answer briefly, but show the numbers you used.", "Think about what is asked for before you begin.",
)  # fmt: skip
REPLIES = {  # by heading, the later of a conversation first; most have several, for variety
    "# Infer the instruction": [f'Instruction: "{idea}"' for idea in IDEAS],
    "# Vary the instruction": list(IDEAS),
    "# Paraphrase the instruction": [instructions(idea.lower()) for idea in IDEAS],
    "# Give reasons for the errors": [
        lines(
            [f"<reason>{part} {n}: the instruction does not say how to count.</reason>" for part in ("First", "Second")]
        )
        for n in range(4)
    ],
    "# Improve the instruction": [instructions(f"{idea} Count them.", f"{idea} Say why.") for idea in IDEAS],
    "# Continue the list": [f"The best ones are explicit, so:\n<instruction>{idea}</instruction>" for idea in IDEAS],
    "# Summarize the change": ["It did not say how to count. The new one does."],
    "# Refine the instruction": [instructions(f"{idea} Be exact.") for idea in IDEAS],
    "# Examine the examples": [f"Example 1. Output right: no. Edit needed: yes, add: {idea}" for idea in IDEAS[:3]],
    "# Criticize the instruction": [f"Most outputs miscount. It should say: {idea}" for idea in IDEAS[:3]],
    "# Praise the instruction": ["It is short and asks for the answer."],
    "# Rewrite the instruction": [instructions(f"{idea} Mind the form of the answer.") for idea in IDEAS],
    "# Write the steps": [f"<instruction>\n{lines(STEPS)}\n</instruction>"],
    "# Find the failing step": ["<step>2</step>\n<correction>It should have counted again.</correction>"],
    "# Decompose the step": [f"<instruction>\n{lines(FINER)}\n</instruction>"],
    "# Rate the difficulty": ["I would say <rating>3</rating>.", "<rating>1</rating>", "<rating>5</rating>"],
}
APOLOGY = "I'm sorry, but I can't help with that request."
MALFORMED = [  # replies that hold nothing to use, but for one that is known already
    {"content": "Sure, I would make it clearer."}, {"content": "Here you are: <instruction>Half a tag, and then"},
    {"do": "empty"}, {"do": "refusal"}, {"do": "content_filter"},
    {"content": "<instruction>Cut in the mid", "finish_reason": "length"}, {"content": APOLOGY},
    {"content": '{"instruction": "Use JSON.", "score": 99}'}, {"content": "<instruction>Solve it.</instruction>"},
    {"content": "<instruction>" + "word " * 2000 + "</instruction>"}, {"content": "抱歉，我无法完成这个任务。"},
    {"content": "<instruction></instruction><reason></reason><rating>many</rating><step>first</step>"},
]  # fmt: skip
TROUBLE = [
    {"match": {"nth": 2}, "do": "rate_limit", "retry_after_ms": 1},
    {"match": {"nth": 4}, "do": "drop"},
    {"match": {"nth": 7}, "do": "overload", "retry_after_ms": 1},
    {"match": {"nth": 40}, "do": "reset"},  # far from the first: what may have been paid twice is given up
    {"match": {"every": 31}, "do": "rate_limit", "retry_after_ms": 1},
]


def demonstrations(gold: str) -> dict[str, list[str]]:
    worked = [f"Step {n}: Done as it says." for n in range(1, 4)]
    reply = f"<demonstration>\n{lines([*worked, f'Answer: {gold}'])}\n</demonstration>"
    return {"# Demonstrate the steps": [reply], "# Renew the demonstration": [reply]}


def rules(said: dict[str, str], target: str, optimizer: str, gold: str) -> list[dict]:
    """What the two models reply: the target by the row, the optimizer by the heading, in turns."""
    found = [
        {"match": {"model": target, "contains": part}, "do": "reply", "content": text} for part, text in said.items()
    ]
    for heading, replies in (REPLIES | demonstrations(gold)).items():
        for every, text in zip((7, 6, 5, 4, 3, 2, 1)[-len(replies) :], replies, strict=True):
            match = {"model": optimizer, "contains": heading, "every": every}
            found.append({"match": match, "do": "reply", "content": text})
    return found


@pytest.fixture(scope="module")
def server():
    with fake_api.running(reply="text:nothing is known of this") as api:
        yield api


@pytest.fixture
def api(server, monkeypatch):
    return asking.prepare(server, monkeypatch)


def models(api: fake_api.FakeApi, provider: str = "openai") -> tuple[Model, Model]:
    names = ("gpt-4o-mini", "gpt-4o") if provider == "openai" else ("glm-4-flash", "glm-4-air")
    return tuple(asking.model(api, provider, name=name) for name in names)


def section(task: Task, target: Model, optimizer: Model) -> Searching:
    rows = {"train": SIZES[0], "dev": SIZES[1], "test": SIZES[2]}
    values = {"task": task.name, "rows": rows, "target": target.model_dump(), "optimizer": optimizer.model_dump()}
    values |= {"budgets": [1], "seeds": [1], "methods": list(methods.NAMES), "settings": SMALL}
    return Searching.model_validate(values)


def budget_of(name: str) -> int:
    """Enough for a round, or six candidates."""
    module = methods.find(name)
    settings = module.Settings(**SMALL.get(name, {}))
    most = min(getattr(settings, module.KNOB), 1 if module.KNOB in ("rounds", "expansions") else 6)
    return module.plan(settings.model_copy(update={module.KNOB: most}), Sizes(*SIZES[:2])).target


def searched(name: str, task: Task, pair: tuple[Model, Model], calls: Calls, folder: Path, **more) -> dict:
    return run.search(section(task, *pair), task, Roles(*pair, calls), name, budget_of(name), 1, folder, **more)


def in_all(counts: dict) -> int:
    return counts["target_calls"] + counts["optimizer_calls"] + counts["measured"]


def in_files(folder: Path, word: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and word.encode() in path.read_bytes()]


@pytest.mark.parametrize("name", methods.NAMES)
def test_a_method_with_talking_models(api, tmp_path, name):
    task, said = bbh_like()
    pair = models(api)
    gold = "Yes" if sum(row.gold == "Yes" for row in task.train) * 2 > SIZES[0] else "No"
    api.script(rules=TROUBLE + rules(said, pair[0].model, pair[1].model, gold))
    calls = asking.calls(tmp_path)
    result = searched(name, task, pair, calls, tmp_path / "search")
    used, stats = result["counts"], api.stats()
    assert used["target_calls"] <= budget_of(name) and used["unreadable"] > 0 and used["cached"] == 0
    assert stats["answered"] == in_all(used) and stats["faults"]["rate_limit"] >= 1 and stats["faults"]["drop"] == 1
    assert {one["answered"] for one in stats["by_key"].values()} == {1}
    assert used["estimated"] == 0 and used["usd"] == pytest.approx(in_all(used) * asking.USED.usd(asking.PRICE))
    tokens = asking.USED.input + asking.USED.output
    assert used["target_tokens"] == used["target_calls"] * tokens
    assert used["optimizer_tokens"] == used["optimizer_calls"] * tokens
    born = [json.loads(line) for line in (tmp_path / "search" / "candidates.jsonl").read_text("utf-8").splitlines()]
    if name != "seed":
        assert len(born) > 2 and used["optimizer_calls"] > 0, name
    if name == "abo":
        assert any("Step 2: Done" in one["demo"] for one in born)
    assert all(one["reply"] and one["meta"] and one["operator"] for one in born[1:])
    shutil.rmtree(tmp_path / "search")
    keyless = asking.calls(tmp_path, mode="replay")
    again = searched(name, task, pair, keyless, tmp_path / "search")
    assert again["counts"] == used | {"cached": in_all(used)} and api.stats()["arrived"] == stats["arrived"]
    assert again | {"counts": 0} == result | {"counts": 0} and in_files(tmp_path, asking.KEY) == []


@pytest.mark.parametrize("name", [name for name in methods.NAMES if name != "seed"])
def test_a_method_with_models_that_break_the_form(api, tmp_path, name):
    task, said = gsm8k_like()
    pair = models(api)
    broken = [
        {"match": {"model": pair[1].model, "nth": 2 * n + 1}, "do": "reply"} | shape
        for n, shape in enumerate(MALFORMED)
    ]
    rest = [{"match": {"model": pair[0].model, "nth": 3}, "do": "content_filter"}]
    api.script(rules=TROUBLE + broken + rest + rules(said, pair[0].model, pair[1].model, "12"))
    result = searched(name, task, pair, asking.calls(tmp_path), tmp_path / "search")
    used, stats = result["counts"], api.stats()
    most = result["planned"]
    assert used["target_calls"] <= most["target"] and used["optimizer_calls"] <= 2 * most["optimizer"]
    assert used["bad_replies"] > 0 and used["unreadable"] > 0
    assert stats["answered"] - stats["faults"].get("empty", 0) == in_all(used)  # an empty reply is asked for once more
    born = [json.loads(line) for line in (tmp_path / "search" / "candidates.jsonl").read_text("utf-8").splitlines()]
    for one in born:
        assert len(one["text"]) <= LONGEST and "sorry" not in one["text"] and "无法" not in one["text"], one
        assert '"score": 99' not in one["text"] and "mid" not in one["text"].split(), one
        assert one["demo"] == "" or one["demo"].endswith("12")
    assert len({one["text"] for one in born if not one["demo"]}) == len([one for one in born if not one["demo"]])


@pytest.mark.parametrize(("provider", "name"), [("zhipu", "opro"), ("zhipu", "protegi"), ("zhipuai", "promptagent")])
def test_zhipu_answers_too(api, tmp_path, provider, name):
    task, said = bbh_like()
    pair = models(api, provider)
    api.script(rules=rules(said, pair[0].model, pair[1].model, "Yes"))
    result = searched(name, task, pair, asking.calls(tmp_path), tmp_path / "search")
    assert api.stats()["answered"] == in_all(result["counts"]) and result["counts"]["unreadable"] > 0


def test_the_start_of_an_answer_goes_to_vllm(api, tmp_path):
    import dataclasses

    task, said = bbh_like()
    task = dataclasses.replace(task, position="A_begin", seed="Let's count.")
    own = Model(name="own", provider="compatible", model="llama", base_url=api.url, price=asking.PRICE)
    optimizer = models(api)[1]
    api.script(rules=rules(said, "llama", optimizer.model, "Yes"))
    searched("opro", task, (own, optimizer), asking.calls(tmp_path), tmp_path / "search")
    begun = [body for body in api.stats()["bodies"] if body["model"] == "llama"]
    assert begun and all(body["continue_final_message"] and not body["add_generation_prompt"] for body in begun)
    assert begun[0]["messages"][-1] == {"role": "assistant", "content": "Let's count."}
    assert begun[0]["messages"][0]["content"].startswith("Q: In box-") and metrics.FORM in str(begun[0]["messages"])
    asked = [body for body in api.stats()["bodies"] if body["model"] == optimizer.model]
    assert "start of the answer" in asked[0]["messages"][0]["content"]


def test_a_local_model_answers_too_and_is_not_asked_twice(tmp_path):
    import dataclasses

    from bpo_utils.mini import models

    own = Model(name="local", provider="huggingface", model=str(models.folder("middle")))
    task = dataclasses.replace(bbh_like()[0], position="A_begin", answer_tokens=4)
    found = []
    for mode in ("online", "replay"):
        calls = Calls(tmp_path / "calls.sqlite", mode)
        found.append(run.search(section(task, own, own), task, Roles(own, own, calls), "seed", 6, 1, tmp_path / mode))
    used = found[0]["counts"]
    assert (used["target_calls"], used["measured"], used["cached"], used["estimated"]) == (6, 6, 0, 0)
    assert used["target_tokens"] > 6 * 20 and used["usd"] == 0.0
    assert found[1]["counts"] == used | {"cached": 12} and found[1]["scores"] == found[0]["scores"]


CHILD = """
import json, os, signal, ssl, sys
sys.path.insert(0, "tests")
from pathlib import Path
import test_search_server as t
from bpo_utils.search import state
told = json.loads(sys.argv[1])
ssl.SSLContext.load_verify_locations = lambda *_, **__: None  # nothing is encrypted here
kept, left = state.save, [told["stop"]]
def save(search, step):
    kept(search, step)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
state.save = save
task = t.bbh_like()[0]
pair = tuple(t.Model.model_validate(one) for one in told["models"])
folder = Path(told["folder"])
result = t.searched(told["name"], task, pair, t.asking.calls(folder), folder / "search")
print(json.dumps(result["counts"]))
"""


def test_a_killed_search_goes_on_and_asks_for_nothing_twice(api, tmp_path):
    task, said = bbh_like()
    pair = models(api)
    api.script(rules=rules(said, pair[0].model, pair[1].model, "Yes"))
    told = {"name": "opro", "folder": str(tmp_path), "models": [one.model_dump() for one in pair]}

    def child(stop: int) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", CHILD, json.dumps(told | {"stop": stop})]
        return subprocess.run(command, cwd=paths.ROOT, env=os.environ, capture_output=True, text=True, timeout=LIMIT_S)

    assert child(1).returncode == -signal.SIGKILL
    state = records.read_json(tmp_path / "search" / "state.json")
    asked = api.stats()["answered"]
    assert state["step"] == 1 and asked == state["counts"]["target_calls"] + state["counts"]["optimizer_calls"]
    assert not (tmp_path / "search" / "result.json").exists()
    done = child(0)
    assert done.returncode == 0, done.stderr
    used = json.loads(done.stdout)
    stats = api.stats()
    assert stats["answered"] == stats["paid"] == in_all(used) and used["cached"] == asked
    assert {one["arrived"] for one in stats["by_key"].values()} == {1}
    whole = searched("opro", task, pair, asking.calls(tmp_path, mode="replay"), tmp_path / "other")
    digests = [records.read_json(tmp_path / name / "state.json")["digests"] for name in ("search", "other")]
    assert digests[0] == digests[1] and whole["counts"] == used | {"cached": in_all(used)}
    store = tmp_path / "calls.sqlite"
    store.unlink()
    (tmp_path / "search" / "result.json").unlink()
    wrong = {part: text.replace("<answer>", "<answer>No, ") for part, text in said.items()}
    api.script(rules=rules(wrong, pair[0].model, pair[1].model, "Yes"))  # the models answer otherwise now
    with pytest.raises(ValueError, match="step 1 came out differently from the run that is saved there"):
        searched("opro", task, pair, asking.calls(tmp_path), tmp_path / "search")
