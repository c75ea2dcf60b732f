"""One search by a peer, in a process of its own, against the server of prompt_search.py.

    PYTHONPATH=. <interpreter with dspy or promptolution> benchmarks/prompt_search_peers.py NAME --url .. --out FILE ..

Every peer runs through its own public code with its own defaults, but for what the comparison fixes and what a budget
needs (`knobs`):
- the first instruction is the task's; scores come from the dev rows; the metric is the task's, in [0, 1]
- the target reads exactly task.prompt(), asked greedily: DSPy through an adapter, promptolution through a predictor
- nothing but an instruction is searched: MIPROv2 without demonstrations in the prompt (they still feed its proposals)
- DSPy's cache is on, as by default, in an empty folder: it does not ask twice what it asked in this run
- promptolution gets a callback that ends it before a step that could pass the budget, and so twice the steps that fit
  at their worst, as our methods do. DSPy has no such hook; its settings are those that fit at their worst.
"""

import argparse
import json
import random
import urllib.request
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

MORE_STEPS = 2  # as bpo_utils.search.plan.MORE_ROUNDS
AT_ONCE = 128  # requests; it decides how long a run takes, not what it finds
SAMPLES = 3  # rows in a request for a first prompt; create_prompts_from_samples' default
PEERS = {
    "dspy_copro": "dspy",
    "dspy_miprov2": "dspy",
    "promptolution_opro": "promptolution",
    "promptolution_evoprompt_ga": "promptolution",
    "promptolution_evoprompt_de": "promptolution",
}
NEEDS = {"dspy": ("dspy", "optuna"), "promptolution": ("promptolution", "openai")}


def knobs(name: str, budget: int, train: int, dev: int) -> dict[str, int]:
    """A peer's own settings for a budget, and `planned`: target calls at most. Rules by defaults and papers, not tuned:

    COPRO takes breadth x depth instructions to dev. Its depth is its default 3 until breadth reaches its default 10,
    then more depth. MIPROv2 asks once about every train row at most (bootstrapping) and takes num_candidates
    instructions to dev, however many trials it makes: repeats come from its cache; the trials are those its own rule
    gives. OPRO: the seed and steps x instructions per step, three steps until these reach their default 8. EvoPrompt: a
    population and as many children in each step, three generations until the population has its paper's 10; the
    differential form needs 4. Where a callback keeps the budget (promptolution), twice the steps that fit at their
    worst are allowed. Raises ValueError if the budget is too small.
    """
    most = budget // dev  # instructions on dev
    if name == "dspy_copro":
        breadth = max(2, min(10, most // 3))
        found = {"breadth": breadth, "depth": most // breadth}
        planned = breadth * found["depth"] * dev
    elif name == "dspy_miprov2":
        found = {"num_candidates": (budget - train) // dev}
        planned = train + found["num_candidates"] * dev if found["num_candidates"] > 1 else 0
    elif name == "promptolution_opro":
        each = max(1, min(8, (most - 1) // 3))
        found = {"num_instructions_per_step": each, "steps": MORE_STEPS * ((most - 1) // each)}
        planned = min(most, 1 + found["steps"] * each) * dev if found["steps"] > 0 else 0
    else:
        population = max(4 if name.endswith("_de") else 2, min(10, most // 3))
        found = {"population": population, "steps": MORE_STEPS * (most // population - 1)}
        planned = min(most, (1 + found["steps"]) * population) * dev if found["steps"] > 0 else 0
    if not planned:
        raise ValueError(f"{name}: a budget of {budget} target calls is too small for its smallest settings")
    return found | {"planned": planned}


def dspy_peer(name: str, task: Any, given: argparse.Namespace, chosen: dict[str, int]) -> dict[str, Any]:
    """COPRO or MIPROv2; returns the instruction and what is to be told."""
    import dspy

    from bpo_utils.search.task import prompt

    class Placed(dspy.Adapter):
        """The prompt as the task puts it together, and nothing around it."""

        def format(self, signature: Any, demos: list[Any], inputs: dict[str, Any]) -> list[dict[str, Any]]:
            if demos:
                raise ValueError(f"{len(demos)} demonstrations in the prompt; only an instruction is searched here")
            return [{"role": "user", "content": prompt(task, signature.instructions, inputs["text"])[0]}]

        def parse(self, signature: Any, completion: str) -> dict[str, Any]:
            return {"answer": completion}

    class Answering(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.answering = dspy.Predict(dspy.Signature("text -> answer", task.seed))

        def forward(self, text: str) -> Any:
            with dspy.context(adapter=Placed()):
                return self.answering(text=text)

    def metric(example: Any, prediction: Any, trace: Any = None) -> float:
        return task.metric(rows[example.text], prediction.answer).value

    rows = {row.input: row for row in (*task.train, *task.dev)}
    sets = [
        [dspy.Example(text=row.input, answer=row.gold).with_inputs("text") for row in part]
        for part in (task.train, task.dev)
    ]
    api = {"api_base": f"{given.url}/{given.run}/v1", "api_key": "none", "model_type": "chat"}
    target = dspy.LM("openai/target", temperature=0.0, max_tokens=task.answer_tokens, **api)
    optimizer = dspy.LM("openai/optimizer", **api)
    dspy.configure(lm=target)
    if name == "dspy_copro":
        search = dspy.COPRO(
            prompt_model=optimizer, metric=metric, breadth=chosen["breadth"], depth=chosen["depth"], track_stats=False
        )
        found = search.compile(Answering(), trainset=sets[1], eval_kwargs={"num_threads": AT_ONCE, "display_table": 0})
        return {"instruction": found.answering.signature.instructions, "evaluations": found.total_calls}
    search = dspy.MIPROv2(
        metric=metric, prompt_model=optimizer, task_model=target, auto=None, num_candidates=chosen["num_candidates"],
        max_bootstrapped_demos=0, max_labeled_demos=0, num_threads=AT_ONCE, seed=given.seed,
    )  # fmt: skip
    trials = search._set_num_trials_from_num_candidates(Answering(), True, chosen["num_candidates"])
    found = search.compile(Answering(), trainset=sets[0], valset=sets[1], num_trials=trials, minibatch=False)
    return {"instruction": found.answering.signature.instructions, "evaluations": 1 + trials}


def placed(task: Any) -> Any:
    """promptolution's predictor that sends the prompt as the task puts it together and takes the answer as is."""
    from promptolution.predictors.base_predictor import BasePredictor

    from bpo_utils.search.task import prompt

    class Placed(BasePredictor):
        def predict(self, prompts: list[str], xs: list[str], system_prompts: Any = None) -> tuple[list[str], list[str]]:
            texts = [prompt(task, instruction, text)[0] for instruction, text in zip(prompts, xs, strict=True)]
            answers = self.llm.get_response(texts, system_prompts="") if texts else []
            return answers, [f"{text}\n{answer}" for text, answer in zip(xs, answers, strict=True)]

        def _extract_preds(self, preds: list[str]) -> list[str]:
            return preds

    return Placed


def within_budget(given: argparse.Namespace, worst: int) -> Any:
    """promptolution's callback that ends a search before a step of `worst` calls could pass the budget; it knows how
    many steps came to their end."""
    from promptolution.utils.callbacks import BaseCallback

    class WithinBudget(BaseCallback):
        steps, ended = 0, False

        def on_step_end(self, optimizer: Any) -> bool:
            self.steps += 1
            with urllib.request.urlopen(f"{given.url}/{given.run}/counts", timeout=60) as reply:
                used = json.load(reply)["target_calls"]
            self.ended = given.budget - used < worst
            return not self.ended

    return WithinBudget()


def rewarded(task: Any, part: Any, seed: int) -> Any:
    """promptolution's task: rows with the task's own metric as the reward."""
    import pandas
    from promptolution.tasks.reward_tasks import RewardTask

    rows = {row.id: row for row in part}

    def reward(answer: str, id: str) -> float:
        return task.metric(rows[id], answer).value

    columns = {"x": [row.input for row in part], "y": [row.gold for row in part], "id": [row.id for row in part]}
    named = {"y_column": "y", "reward_columns": ["id"], "task_description": task.about, "seed": seed}
    return RewardTask(pandas.DataFrame(columns), reward, **named)


def promptolution_peer(name: str, task: Any, given: argparse.Namespace, chosen: dict[str, int]) -> dict[str, Any]:
    """OPRO or EvoPrompt; returns the instruction and what is to be told."""
    import numpy
    from promptolution.llms import APILLM
    from promptolution.optimizers.evoprompt_de import EvoPromptDE
    from promptolution.optimizers.evoprompt_ga import EvoPromptGA
    from promptolution.optimizers.opro import OPRO
    from promptolution.utils.prompt_creation import create_prompts_from_samples

    numpy.random.seed(given.seed)
    random.seed(given.seed)
    api = {"api_url": f"{given.url}/{given.run}/v1", "api_key": "none", "max_concurrent_calls": AT_ONCE}
    model = APILLM(model_id="target", max_tokens=task.answer_tokens, call_kwargs={"temperature": 0}, **api)
    optimizer = APILLM(model_id="optimizer", **api)
    common = {"predictor": placed(task)(model), "task": rewarded(task, task.dev, given.seed), "meta_llm": optimizer}
    if name == "promptolution_opro":
        each = chosen["num_instructions_per_step"]
        limit = within_budget(given, each * len(task.dev))
        search = OPRO(**common, initial_prompts=[task.seed], num_instructions_per_step=each, callbacks=[limit])
    else:
        shown, count = rewarded(task, task.train, given.seed), chosen["population"] - 1
        made = create_prompts_from_samples(shown, optimizer, n_samples=SAMPLES, n_prompts=count)
        limit = within_budget(given, chosen["population"] * len(task.dev))
        kind = EvoPromptGA if name.endswith("_ga") else EvoPromptDE
        search = kind(**common, initial_prompts=[task.seed, *made], callbacks=[limit])
    listed = search.optimize(chosen["steps"])
    scores = [float(score) for score in search.scores]
    best = scores.index(max(scores))
    told = {"instruction": listed[best].instruction, "steps": limit.steps, "first_is_best": scores[0] == max(scores)}
    if not limit.ended and limit.steps < chosen["steps"]:
        why = "an exception that the library logs and swallows"
        told["note"] = f"ended after {limit.steps} of {chosen['steps']} steps: {why}"
    return told


RUNNERS: dict[str, Callable[..., dict[str, Any]]] = {"dspy": dspy_peer, "promptolution": promptolution_peer}


def versions() -> dict[str, str]:
    """Version of every library that is installed here, of those that the peers need."""
    found = {}
    for needed in {part for parts in NEEDS.values() for part in parts}:
        try:
            found[needed] = metadata.version(needed)
        except metadata.PackageNotFoundError:
            continue
    return found


def main(given: list[str] | None = None) -> None:
    """Run one search and write its result; or say which libraries are here."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=[*PEERS, "versions"])
    parser.add_argument("--url")
    parser.add_argument("--run")
    parser.add_argument("--task")
    parser.add_argument("--rows", type=int, nargs=4)  # train, dev, test, draw
    parser.add_argument("--budget", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(given)
    if arguments.name == "versions":
        print(json.dumps(versions()))
        return
    from bpo_utils import records
    from bpo_utils.profile import SearchRows
    from bpo_utils.search import tasks

    task = tasks.load(arguments.task, SearchRows(**dict(zip(SearchRows.model_fields, arguments.rows, strict=True))))
    chosen = knobs(arguments.name, arguments.budget, len(task.train), len(task.dev))
    found = RUNNERS[PEERS[arguments.name]](arguments.name, task, arguments, chosen)
    records.write_json(arguments.out, found | {"settings": chosen, "versions": versions()})


if __name__ == "__main__":
    main()
