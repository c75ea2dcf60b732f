"""The optimizer of prompt_search.py: a program that reads every library's own request. It is no language model.

Our methods' meta-prompts go to bpo_utils' program as they are. DSPy and promptolution write their meta-prompts in their
own words and forms; a reader here finds in them what they show (scored instructions, examples, observations, parents)
and nothing else, hands it to the same functions of the program (`continue_list`, `infer`), and puts the answer into the
form that was asked for. For what those functions do not cover (crossing two prompts, describing data) it uses the same
tools: ideas drawn by what is shown, at random where nothing is.

So the peers' scores depend on this file as ours depend on the program. It was written from the libraries' templates
(DSPy 3.4.1, promptolution 2.3.0), before the first comparison, and not changed by its results. A real optimizer model
would treat all of them alike; this program cannot be proven to.
"""

import ast
import hashlib
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from bpo_utils.chat import wire
from bpo_utils.profile import Model
from bpo_utils.search import program, program_replies, prompts, vocabulary
from bpo_utils.search.program import Shown, drawn, needed, written

HIGHLIGHTS = 5  # things in a summary: as many as `infer` takes up at most
FIELD = re.compile(r"^\[\[ ## (\w+) ## \]\][ \t]*$", re.MULTILINE)
REQUEST = "\n\nRespond with the corresponding output fields"  # what DSPy's ChatAdapter ends its messages with


def reply(messages: Sequence[tuple[str, str]], draw: object, words: str) -> str:
    """The optimizer's reply to (role, text) messages; `words`: its vocabulary, phrases or facets.

    Raises ValueError for a request that no reader knows.
    """
    text = messages[-1][1]
    heading = text.partition("\n")[0].lstrip("# ").strip()
    if heading in program_replies.REPLIES:
        return _ours(messages, draw, words)
    rng = random.Random(hashlib.sha256(f"{draw}|{messages}".encode()).hexdigest())
    shown = Shown(vocabulary.of(words), rng, text, "", [], 1, "")
    for mark, reader in READERS.items():
        if mark in text:
            made = reader(shown)
            break
    else:
        raise ValueError(f"the optimizer cannot read this request; it begins {text[:120]!r}")
    return re.sub(r"</\w+>|\[\[ ## completed ## \]\]", "", made) if rng.random() < program.MALFORMED else made


def scored(tried: Sequence[tuple[str, str]]) -> str:
    """Instructions and scores as the program reads them; without a score where none is shown."""
    items = []
    for text, score in tried:
        told = f"\n<score>{score}</score>" if score else ""
        items.append(f"<scored>\n<instruction>\n{text}\n</instruction>{told}\n</scored>")
    return "\n\n".join(items)


def pairs(found: Sequence[tuple[str, str]]) -> str:
    """Inputs with their outputs as the program reads them."""
    return "\n\n".join(
        f"<example>\n<input>\n{one}\n</input>\n<output>\n{other}\n</output>\n</example>" for one, other in found
    )


def continued(shown: Shown, tried: Sequence[tuple[str, str]], examples: Sequence[tuple[str, str]] = ()) -> str:
    """What the program would put after this list, as bare text."""
    told = replace(shown, text=f"{scored(tried)}\n\n{pairs(examples)}")
    return prompts.tagged(program_replies.continue_list(told), "instruction")[0]


def promptolution_opro(shown: Shown) -> str:
    """promptolution's OPRO: scored instructions, lowest first, and examples."""
    before, _, after = shown.text.partition("Here are some examples of the target dataset:")
    listed = re.findall(r"^text:\n(.*?)\nscore: (\d+)$", before, re.MULTILINE | re.DOTALL)
    return f"<prompt>{continued(shown, listed, _inputs(after.partition('Generate a new instruction')[0]))}</prompt>"


def promptolution_samples(shown: Shown) -> str:
    """promptolution's first prompts: which prompt gave these outputs?"""
    told = replace(shown, text=pairs(_inputs(shown.text.partition("The instruction was")[0])))
    return f"<prompt>{program_replies.infer(told)}</prompt>"


def evoprompt_ga(shown: Shown) -> str:
    """EvoPrompt's genetic form: cross two prompts, mutate the result. Scores and examples are not shown."""
    first, second = _parents(shown.text, r"Prompt 1: (.*?)\nPrompt 2: (.*?)\n2\. Mutate")
    both = [shown.words.found(first), shown.words.found(second)]
    kept = [idea for idea in both[0] if idea in both[1] or shown.rng.random() < 0.5]
    kept += [idea for idea in both[1] if idea not in both[0] and shown.rng.random() < 0.5]
    child = written(replace(shown, current=first), mutated(shown, kept))
    return f"1. Crossover Prompt: {first}\n2. <prompt>{child}</prompt>"


def evoprompt_de(shown: Shown) -> str:
    """EvoPrompt's differential form: what differs between two prompts is mutated and crossed with a third."""
    first, second = _parents(shown.text, r"Prompt 1: (.*?)\nPrompt 2: (.*?)\n2\. Randomly mutate")
    (third,) = _parents(shown.text, r"Prompt 3: (.*?)\n\n1\.")
    ideas = [shown.words.found(text) for text in (first, second)]
    differing = [idea for idea in shown.words.ideas if (idea in ideas[0]) != (idea in ideas[1])]
    base = shown.words.found(third)
    taken = [idea for idea in mutated(shown, differing) if shown.rng.random() < 0.5]
    child = written(replace(shown, current=third), [*base, *taken])
    return f"1. Different parts: {len(differing)}.\n\nFinal Prompt: <prompt>{child}</prompt>"


def mutated(shown: Shown, ideas: Sequence[str]) -> list[str]:
    """One thing added, dropped or exchanged, at random: nothing is shown that could say which."""
    new, how = list(ideas), shown.rng.choice(["add", "drop", "exchange"]) if ideas else "add"
    if how != "add":
        new.remove(shown.rng.choice(new))
    if how != "drop":
        others = [idea for idea in shown.words.ideas if idea not in ideas]
        new += [shown.rng.choice(others)] if others else []
    return new


def dspy(shown: Shown) -> str:
    """DSPy's COPRO and MIPROv2, by the fields that a request has. Raises ValueError for other fields."""
    body, _, tail = shown.text.rpartition(REQUEST)
    parts = FIELD.split(body)
    given = {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}
    wanted = [name for name in re.findall(r"`\[\[ ## (\w+) ## \]\]`", tail) if name != "completed"]
    if "proposed_instruction" in wanted:
        values = {"proposed_instruction": _proposed(shown, given), "proposed_prefix_for_output_field": "Answer:"}
    elif "observations" in wanted:
        values = {"observations": observed(shown, given)}
    elif "summary" in wanted:
        values = {
            "summary": listed(shown, Counter(dict(_counted(shown, given["observations"]).most_common(HIGHLIGHTS))))
        }
    elif {"program_description", "module_description"} & set(wanted):
        values = dict.fromkeys(wanted, "It gets an input and an instruction, and answers as the instruction says.")
    else:
        raise ValueError(f"the optimizer cannot read DSPy's fields {list(given)} and fill {wanted}")
    return "\n\n".join([*(f"[[ ## {name} ## ]]\n{values[name]}" for name in wanted), "[[ ## completed ## ]]"])


def observed(shown: Shown, given: dict[str, str]) -> str:
    """MIPROv2's look at ten rows: how many of the outputs give what; COMPLETE if the earlier ones name it all."""
    rows = [
        ast.literal_eval(one) for one in re.findall(r"Example\((\{.*?\})\) \(input_keys=", given["examples"], re.DOTALL)
    ]
    counts = needed(replace(shown, text=pairs([(row["text"], row["answer"]) for row in rows])))
    before = shown.words.found(given.get("prior_observations", ""))
    new = [idea for idea in counts if idea not in before]
    return listed(shown, counts) if new or "prior_observations" not in given else "COMPLETE"


def listed(shown: Shown, counts: Counter[str]) -> str:
    """Counted ideas in words; `_counted` reads them again."""
    return "\n".join(f"{count} outputs {shown.words.phrases[idea][0]}." for idea, count in counts.most_common()) + "\n"


def _proposed(shown: Shown, given: dict[str, str]) -> str:
    if "attempted_instructions" in given:  # COPRO with scores, ascending
        text = given["attempted_instructions"]
        scores = dict(re.findall(r"Resulting Score #(\d+): ([\d.]+)", text))
        tried = re.findall(r"Instruction #(\d+): (.*?)\s*»", text, re.DOTALL)
        return continued(shown, [(one, scores.get(number, "")) for number, one in tried])
    basic = given["basic_instruction"]
    if "task_demos" not in given:  # COPRO's first request shows nothing but the instruction
        return continued(shown, [(basic, "")])
    demos = re.findall(r"^Text: (.*?)\nAnswer: (.*?)(?=\n\nText: |\Z)", given["task_demos"], re.MULTILINE | re.DOTALL)
    counts = _counted(shown, given.get("dataset_description", "")) + needed(replace(shown, text=pairs(demos)))
    tip = given.get("tip", "")
    least, most = (2, 3) if "concise" in tip else (4, 5) if "informative" in tip else (2, 5)
    ideas = [*shown.words.found(basic), *drawn(shown, counts, shown.rng.randint(least, most))]
    return written(replace(shown, current=basic), ideas)


def _counted(shown: Shown, text: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for line in re.finditer(r"(\d+) outputs ([^.\n]*)\.", text):
        counts.update(dict.fromkeys(shown.words.found(line.group(2))[:1], int(line.group(1))))
    return counts


def _inputs(text: str) -> list[tuple[str, str]]:
    """promptolution's examples."""
    return re.findall(r"^Input: (.*?)\nOutput: (.*?)(?=\n+Input: |\s*\Z)", text, re.MULTILINE | re.DOTALL)


def _parents(text: str, pattern: str) -> tuple[str, ...]:
    """The prompts of a template's last part; what stands before is its worked example."""
    found = re.search(pattern, text[text.rfind("Please follow the instruction") :], re.DOTALL)
    if not found:
        raise ValueError(f"the optimizer finds no prompts in {text[-200:]!r}")
    return found.groups()


def _ours(messages: Sequence[tuple[str, str]], draw: object, words: str) -> str:
    """A meta-prompt of ours: what bpo_utils' program replies to it."""
    model = Model(name="program", provider="program", model=words)
    turns = tuple(one for one in messages[:-1] if one[0] != "system")
    return program.reply(wire.Request(model, messages[-1][1], earlier=turns, sample=draw))


READERS = {
    "Below are some previous instructions with their scores.": promptolution_opro,
    "You are asked to give the corresponding prompt": promptolution_samples,
    "Crossover the following prompts": evoprompt_ga,
    "Identify the different parts between": evoprompt_de,
    REQUEST.strip(): dspy,
}
