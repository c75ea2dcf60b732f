"""benchmarks/prompt_search.py: that calls are counted, budgets kept and requests read; not who is best."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest

from bpo_utils import paths, profile, records
from bpo_utils.chat import Calls
from bpo_utils.profile import Model, SearchRows
from bpo_utils.search import methods, program_replies, prompts, run, tasks, vocabulary
from bpo_utils.search.state import Roles, Search
from bpo_utils.search.task import prompt

ROWS = (12, 4, 8, 1)
PEERS = os.environ.get("BPO_PEERS_PYTHON", sys.executable)  # an interpreter with dspy and promptolution


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(paths.ROOT / "benchmarks")
        import prompt_search
        import prompt_search_readers

        yield SimpleNamespace(main=prompt_search, readers=prompt_search_readers, server=prompt_search.server)


@pytest.fixture(scope="module")
def url(benchmark):
    with benchmark.server.running("landscape") as address:
        yield address


@pytest.fixture(scope="module")
def task():
    return tasks.load("landscape", SearchRows(train=12, dev=4, test=8))


def post(url, name, model, messages, **more):
    """(status, body) of one request."""
    body = {"model": model, "messages": [{"role": role, "content": text} for role, text in messages], **more}
    asked = urllib.request.Request(f"{url}/{name}/v1/chat/completions", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(asked, timeout=30) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


OURS = "# Vary the instruction\n\n<instruction>\nState the limit, be brief, show the sum.\n</instruction>"
GREEDY = {"temperature": 0, "max_tokens": 128}


def test_the_server_counts_each_run_and_each_model_by_itself(benchmark, url):
    for text in ("item 7\nBe brief.", "item 7\nBe brief.", "item 8\nBe brief."):
        status, body = post(url, "a-1", "target", [("user", text)], **GREEDY)
        assert status == 200 and body["choices"][0]["message"]["content"].startswith("did: ")
        assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]
    status, body = post(url, "a-1", "optimizer", [("user", OURS)], n=5)
    texts = [one["message"]["content"] for one in body["choices"]]
    assert len(texts) == 5 and len(set(texts)) > 1 and [one["index"] for one in body["choices"]] == [0, 1, 2, 3, 4]
    expected = {"target_calls": 3, "target_repeated": 1, "optimizer_calls": 5, "optimizer_requests": 1, "refused": []}
    assert benchmark.server.counts(url, "a-1") == expected
    assert benchmark.server.counts(url, "a-2")["target_calls"] == 0


def test_asking_again_is_another_draw_and_a_seed_names_it(url):
    first, second = (post(url, "b-1", "optimizer", [("user", OURS)], n=4)[1]["choices"] for _ in range(2))
    assert first != second
    again = post(url, "b-2", "optimizer", [("user", OURS)], n=4)[1]["choices"]
    assert again != first  # another run draws others
    one, same = (post(url, "b-3", "optimizer", [("user", OURS)], seed=5)[1]["choices"] for _ in range(2))
    assert one == same


@pytest.mark.parametrize(
    ("messages", "more"),
    [
        ([("system", "Your input fields are: text"), ("user", "item 7")], GREEDY),
        ([("user", "item 6"), ("assistant", "did: x"), ("user", "item 7")], GREEDY),
        ([("user", "item 7")], GREEDY | {"temperature": 0.7}),
        ([("user", "item 7")], GREEDY | {"max_tokens": 4096}),
        ([("user", "item 7")], {"max_tokens": 128}),
    ],
)
def test_the_target_refuses_another_form_than_the_tasks(benchmark, url, messages, more):
    name = f"c-{abs(hash(str(messages) + str(more)))}"
    status, body = post(url, name, "target", messages, **more)
    assert status == 400 and "the target" in body["error"]["message"]
    counts = benchmark.server.counts(url, name)
    assert counts["target_calls"] == 0 and len(counts["refused"]) == 1


def test_a_request_that_nobody_can_read_is_refused_and_told(benchmark, url):
    status, body = post(url, "d-1", "optimizer", [("user", "Write a poem.")])
    assert status == 400 and "Write a poem" in body["error"]["message"]
    assert benchmark.server.counts(url, "d-1")["optimizer_calls"] == 0


def test_every_method_of_ours_is_counted_as_it_counts_itself_and_keeps_its_plan(benchmark, url, task):
    searching, arguments = profile.load("smoke").searching, SimpleNamespace(budget=24)
    fit = [name for name in methods.NAMES if not benchmark.main.left_out(name, arguments, task, searching, {})]
    assert len(fit) >= 3
    for name in fit:
        made = benchmark.main.ours(name, task, searching, 24, 3, url)
        counts = benchmark.server.counts(url, f"{name}-3")
        assert counts["target_calls"] == made["own_count"] <= made["planned_calls"] <= 24, name
        assert counts["refused"] == [] and counts["target_repeated"] == 0, name


def test_through_the_server_a_search_takes_the_same_way_as_in_this_process(benchmark, url, task, tmp_path):
    searching = profile.load("smoke").searching
    served = benchmark.main.ours("opro", task, searching, 48, 4, url)
    target = Model(name="landscape", provider="landscape", model="l")
    optimizer = Model(name="program", provider="program", model="phrases")
    state = Search(task, Roles(target, optimizer, Calls(tmp_path / "calls.sqlite")), 4, 48, tries=searching.tries)
    found = methods.find("opro").run(state, run.settings_of(searching, "opro", task, 48))
    assert (served["instruction"], served["own_count"]) == (found.text, state.counts.target_calls)
    assert found.text != task.seed  # the comparison would be empty


KNOBS = {  # train 60, dev 24: by hand from the rules
    ("dspy_copro", 240): {"breadth": 3, "depth": 3, "planned": 216},
    ("dspy_copro", 480): {"breadth": 6, "depth": 3, "planned": 432},
    ("dspy_copro", 960): {"breadth": 10, "depth": 4, "planned": 960},
    ("dspy_miprov2", 240): {"num_candidates": 7, "planned": 228},
    ("dspy_miprov2", 960): {"num_candidates": 37, "planned": 948},
    ("promptolution_opro", 240): {"num_instructions_per_step": 3, "steps": 6, "planned": 240},
    ("promptolution_opro", 960): {"num_instructions_per_step": 8, "steps": 8, "planned": 960},
    ("promptolution_evoprompt_ga", 480): {"population": 6, "steps": 4, "planned": 480},
    ("promptolution_evoprompt_ga", 960): {"population": 10, "steps": 6, "planned": 960},
    ("promptolution_evoprompt_de", 240): {"population": 4, "steps": 2, "planned": 240},
}


@pytest.mark.parametrize(("name", "budget"), KNOBS)
def test_a_budget_sets_a_peers_own_knobs(benchmark, name, budget):
    assert benchmark.main.peers.knobs(name, budget, 60, 24) == KNOBS[name, budget]


def test_no_plan_passes_its_budget_and_a_small_one_is_refused(benchmark):
    peers = benchmark.main.peers
    for name in peers.PEERS:
        for budget in range(200, 2000, 7):
            assert 0 < peers.knobs(name, budget, 60, 24)["planned"] <= budget
        with pytest.raises(ValueError, match="too small"):
            peers.knobs(name, 30, 60, 24)


@pytest.fixture
def shown(monkeypatch):
    """What `continue_list` or `infer` of the program is shown, as it comes to them."""
    seen = []

    def caught(given):
        seen.append(given.text)
        return "<instruction>State the limit.</instruction>" if "<scored>" in given.text else "State the limit."

    monkeypatch.setattr(program_replies, "continue_list", caught)
    monkeypatch.setattr(program_replies, "infer", caught)
    return seen


def parts(text):
    """The scored instructions and the examples of a text in the program's form."""
    blocks = [
        (prompts.tagged(one, "instruction"), prompts.tagged(one, "score")) for one in prompts.tagged(text, "scored")
    ]
    pairs = [(prompts.tagged(one, "input"), prompts.tagged(one, "output")) for one in prompts.tagged(text, "example")]
    return blocks, pairs


def dspy_request(outputs, **inputs):
    """A user message in the form of DSPy's ChatAdapter."""
    fields = "\n\n".join(f"[[ ## {name} ## ]]\n{text}" for name, text in inputs.items())
    told = ", then ".join(f"`[[ ## {name} ## ]]`" for name in outputs)
    end = f"starting with the field {told}, and then ending with the marker for `[[ ## completed ## ]]`."
    return f"{fields}\n\nRespond with the corresponding output fields, {end}"


def fields(reply):
    """The fields of a reply to DSPy."""
    found = reply.split("[[ ## ")[1:]
    return {name: text.strip() for name, _, text in (one.partition(" ## ]]") for one in found) if name != "completed"}


def test_copros_attempts_are_read_with_their_scores_and_nothing_else(benchmark, shown):
    attempts = (
        "[1] «Instruction #1: Be brief.»\n[2] «Prefix #1: Answer:»\n[3] «Resulting Score #1: 12.5»\n"
        "[4] «««\n    Instruction #2: Give the date.\n    Then stop.\n»»»\n[5] «Prefix #2: Answer:»\n"
        "[6] «Resulting Score #2: 40.0»"
    )
    outputs = ["proposed_instruction", "proposed_prefix_for_output_field"]
    text = dspy_request(outputs, attempted_instructions=attempts)
    reply = benchmark.readers.reply([("system", "s"), ("user", text)], "1", "phrases")
    assert list(fields(reply)) == outputs and fields(reply)["proposed_instruction"] == "State the limit."
    (blocks, pairs), *_ = map(parts, shown)
    assert blocks[0] == (["Be brief."], ["12.5"]) and pairs == []
    assert blocks[1][0][0].split() == ["Give", "the", "date.", "Then", "stop."] and blocks[1][1] == ["40.0"]


def test_copros_first_request_shows_one_instruction_and_no_score(benchmark, shown):
    text = dspy_request(["proposed_instruction"], basic_instruction="Do it well.")
    benchmark.readers.reply([("user", text)], "1", "phrases")
    assert parts(shown[0]) == ([(["Do it well."], [])], [])


def test_promptolutions_opro_shows_scores_and_examples(benchmark, shown):
    text = (
        "Below are some previous instructions with their scores. The score ranges from 0 to 100.\n\n"
        "text:\nBe brief.\nscore: 12\n\ntext:\nGive the date.\nscore: 40\n\n"
        "Here are some examples of the target dataset:\nInput: item 5\nmore of it\n"
        "Output: did: keep the order\nand more\n"
        "Input: item 6\nOutput: did: be brief\n\nGenerate a new instruction bracketed with <prompt>"
    )
    reply = benchmark.readers.reply([("system", "s"), ("user", text)], "1", "phrases")
    assert reply == "<prompt>State the limit.</prompt>"
    assert parts(shown[0]) == (
        [(["Be brief."], ["12"]), (["Give the date."], ["40"])],
        [(["item 5\nmore of it"], ["did: keep the order\nand more"]), (["item 6"], ["did: be brief"])],
    )


def test_promptolutions_first_prompts_come_from_pairs(benchmark, shown):
    text = (
        "You are asked to give the corresponding prompt that gives the following outputs given these inputs.\n\n"
        "Input: item 5\nOutput: did: keep the order\n\nInput: item 6\nOutput: did: be brief\n\nThe instruction was"
    )
    assert benchmark.readers.reply([("user", text)], "1", "phrases") == "<prompt>State the limit.</prompt>"
    assert parts(shown[0])[1] == [(["item 5"], ["did: keep the order"]), (["item 6"], ["did: be brief"])]


GA = """Please follow the instruction step-by-step. 1. Crossover the following prompts and generate a new prompt:
Prompt 1: Stay polite.
Prompt 2: Think twice.
2. Mutate the prompt

Please follow the instruction step-by-step. 1. Crossover the following prompts and generate a new prompt:
Prompt 1: Give the date and keep the order.
Prompt 2: Keep the order and show the sum.
2. Mutate the prompt generated in Step 1.

1."""
DE = """Please follow the instruction step-by-step. 3. Prompt 3: Stay polite.

Please follow the instruction step-by-step.
1. Identify the different parts between the Prompt 1 and Prompt 2:
Prompt 1: Give the date and keep the order.
Prompt 2: Keep the order and show the sum.
2. Randomly mutate the different parts
3. Crossover the different parts with the following Prompt 3 and generate a final prompt:
Prompt 3: Name the place.

1."""


def children(benchmark, text, count=200):
    """Ideas of many replies, those without a phrase left out."""
    words = vocabulary.of("phrases")
    replies = [benchmark.readers.reply([("user", text)], str(draw), "phrases") for draw in range(count)]
    return [set(words.found(reply.split("<prompt>")[-1].split("</prompt>")[0])) for reply in replies]


def test_a_crossed_prompt_has_what_its_parents_share_and_one_thing_more_at_most(benchmark):
    made = children(benchmark, GA)
    parents = {"give the date", "keep the order", "show the sum"}
    assert all(len(one - parents) <= 1 for one in made) and len({frozenset(one) for one in made}) > 10
    often = {idea: sum(idea in one for one in made) for idea in ("keep the order", "give the date", "stay polite")}
    assert often["keep the order"] > 1.4 * often["give the date"] > 2 * often["stay polite"]


def test_the_differential_form_keeps_its_third_prompt(benchmark):
    made = children(benchmark, DE)
    assert all("name the place" in one for one in made)
    assert all(len(one - {"name the place", "give the date", "show the sum"}) <= 1 for one in made)


def example(text, answer):
    return f"Example({{'text': {text!r}, 'answer': {answer!r}}}) (input_keys={{'text'}})"


def test_miprov2_is_told_what_the_outputs_give_and_draws_from_that(benchmark):
    rows = [example("item 5", "did: keep the order")] * 3 + [example("item 'x', \"y\"", "did: be brief")]
    first = dspy_request(["observations"], examples=f"[{', '.join(rows)}]")
    seen = fields(benchmark.readers.reply([("user", first)], "1", "phrases"))["observations"]
    assert seen.splitlines() == ["3 outputs keep the order.", "1 outputs be brief."]
    again = dspy_request(["observations"], examples=f"[{rows[0]}]", prior_observations=seen)
    assert fields(benchmark.readers.reply([("user", again)], "1", "phrases"))["observations"] == "COMPLETE"
    both = dspy_request(["summary"], observations=f"{seen}2 outputs be brief.")
    summary = fields(benchmark.readers.reply([("user", both)], "1", "phrases"))["summary"]
    assert summary.splitlines() == ["3 outputs keep the order.", "3 outputs be brief."]
    given = {"dataset_description": summary, "task_demos": "No task demos provided.", "basic_instruction": "Do it."}
    asked = dspy_request(["proposed_instruction"], **given, tip="")
    found = {frozenset(one) for one in children(benchmark, asked.replace("<prompt>", ""), 50)}
    assert found == {frozenset({"keep the order", "be brief"})}
    given["task_demos"] = "Text: item 9\nAnswer: did: think twice\n\nText: item 8\nAnswer: did: think twice"
    asked = dspy_request(["proposed_instruction"], **given, tip="Make it very informative.")
    assert frozenset({"keep the order", "be brief", "think twice"}) in {
        frozenset(one) for one in children(benchmark, asked)
    }


def test_the_interval_is_of_rows_and_seeds(benchmark):
    assert benchmark.main.interval([[0.5] * 8] * 3) == pytest.approx((0.5, 0.5, 0.5))
    by_row = benchmark.main.interval([[0, 1] * 50] * 4)  # the seeds agree: only rows vary
    by_seed = benchmark.main.interval([[0] * 100, [1] * 100] * 2)  # the rows agree: only seeds vary
    assert by_row[0] == by_seed[0] == 0.5
    assert by_row[2] - by_row[1] == pytest.approx(0.2, abs=0.03) and by_seed[2] - by_seed[1] > 0.7


def test_the_test_scores_are_the_metrics_own(benchmark, url, task):
    found = [{"instruction": text, "demo": ""} for text in ("Check each unit.", "Be brief.")]
    from bpo_utils.chat import wire
    from bpo_utils.search import landscape

    model = Model(name="l", provider="landscape", model="l")
    expected = [
        [
            task.metric(
                row, landscape.answer(wire.Request(model, prompt(task, one["instruction"], row.input)[0]))
            ).value
            for row in task.test
        ]
        for one in found
    ]
    assert benchmark.main.tested(task, found, url) == expected and expected[0] != expected[1]


def test_the_run_ends_in_its_json_line_and_names_who_is_not_there(benchmark, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(benchmark.main, "installed", lambda interpreter: {"promptolution": "2.3.0"})
    chosen = ["seed", "opro", "dspy_copro", "promptolution_opro", "abo"]
    given = ["--task", "landscape", "--budget", "48", "--seeds", "2", "--rows", "12", "4", "30", "1"]
    benchmark.main.main([*given, "--methods", *chosen[:3], "--results", str(tmp_path)])
    said = capsys.readouterr().out.splitlines()
    last = json.loads(said[-1])
    assert list(last) == chosen[:3] and last["dspy_copro"]["missing"].startswith("not installed: dspy, optuna")
    keys = ["test_score", "ci_low", "ci_high", "target_calls", "planned_calls", "optimizer_calls"]
    assert list(last["opro"]) == keys and last["seed"]["target_calls"] == last["seed"]["planned_calls"] == 4
    assert last["opro"]["target_calls"] <= last["opro"]["planned_calls"] == 48
    assert last["opro"]["ci_low"] <= last["opro"]["test_score"] <= last["opro"]["ci_high"]
    kept = records.read_json(tmp_path / "prompt_search.json")["landscape-48"]
    assert [one["seed"] for one in kept["methods"]["opro"]["runs"]] == [1, 2]
    assert any("dspy_copro: not installed" in line for line in said)


def test_who_passes_the_budget_is_named(benchmark, task, url):
    one = {"instruction": "Be brief.", "demo": "", "planned_calls": 40, "optimizer_calls": 1, "seed": 1}
    found = {"x": [one | {"target_calls": 41}, one | {"target_calls": 40}], "y": [one | {"target_calls": 40}]}
    told = benchmark.main.summary(task, found, 48, url)
    assert told["x"]["over_budget"] == [41] and "over_budget" not in told["y"]
    assert "x: PASSED THE BUDGET, [41]" in benchmark.main.table(told)


@pytest.mark.parametrize("name", ["dspy_copro", "dspy_miprov2", "promptolution_opro", "promptolution_evoprompt_ga"])
def test_a_peer_keeps_its_plan_and_shows_the_target_the_tasks_prompt(benchmark, url, task, name):
    have = benchmark.main.installed(PEERS)
    if missing := [each for each in benchmark.main.peers.NEEDS[benchmark.main.peers.PEERS[name]] if each not in have]:
        pytest.skip(f"{', '.join(missing)} not installed; BPO_PEERS_PYTHON names an interpreter that has them")
    arguments = SimpleNamespace(task="landscape", rows=ROWS, peers=PEERS)
    made = benchmark.main.theirs(name, arguments, 48, 1, url)
    counts = benchmark.server.counts(url, f"{name}-1")
    assert 0 < counts["target_calls"] <= made["planned_calls"] <= 48 and counts["optimizer_calls"] > 0
    assert counts["refused"] == []
    # EvoPrompt asks again for a child that occurs twice in one generation; nobody else repeats a call
    assert counts["target_repeated"] == 0 or "evoprompt" in name
    assert made["instruction"] and "note" not in made


BUDGETS = """
import dspy
from dspy.teleprompt import GEPA, MIPROv2
from dspy.utils import DummyLM

model, program = DummyLM([{"b": "x"}]), dspy.Predict("a -> b")
asked = MIPROv2(metric=lambda *_: 0, auto=None, num_candidates=6, prompt_model=model, task_model=model)
gepa = GEPA(metric=lambda *_: 0, auto="light", reflection_lm=model)
print(*[asked._set_num_trials_from_num_candidates(program, bare, n) for bare in (False, True) for n in (6, 12, 18)])
print(*[gepa.auto_budget(num_preds=1, num_candidates=n, valset_size=100) for n in (6, 12, 18)])
"""


def test_what_dspy_plans_by_itself_is_what_its_source_was_read_to_say(benchmark):
    """Trials of MIPROv2 with and without demonstrations; metric calls of GEPA for 100 rows: light, medium, heavy."""
    if missing := [each for each in benchmark.main.peers.NEEDS["dspy"] if each not in benchmark.main.installed(PEERS)]:
        pytest.skip(f"{', '.join(missing)} not installed; BPO_PEERS_PYTHON names an interpreter that has them")
    done = subprocess.run([PEERS, "-c", BUDGETS], capture_output=True, text=True, timeout=120)
    assert done.stdout.split("\n")[:2] == ["10 18 27 9 18 27", "780 1190 1735"], done.stderr
