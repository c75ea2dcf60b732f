"""One row of each source of preference data -> (prompt, context, good, bad), or the reason why it gives none.

The paper, Appendix A: OASST1, the best-rated against the worst-rated reply of one instruction; HH-RLHF, chosen against
rejected; Chatbot Arena, winner against loser; Alpaca-GPT4's comparison data, only where gpt-4 beat text-davinci-003.
BPO rewrites single prompts. So of a dialogue either the first prompt counts (`turn` first: dialogues with one prompt
only, since the replies compared answer the last one) or the last (`turn` last: what came before it is left out, and
noted). Texts lose outer white space. Every function here returns a Found or a reason, and raises ValueError for a row
that is not of its form.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

HUMAN, ASSISTANT = "human", "assistant"
SEVERAL = "more than one prompt in the dialogue (turn: last would take the last one)"
NO_PROMPT = "no prompt before the reply"
NO_REPLY = "the dialogue does not end with a reply"
PARTED = "the dialogues part before the last reply"
EMPTY = "an empty prompt or reply"
EQUAL = "both replies are the same"
BROKEN = "half a character (a lone surrogate), which no file can hold"
LATER = "a prompt later in its tree"
OTHER_LANGUAGE = "not in English"
DELETED = "deleted"
FEW_RANKED = "fewer than two ranked replies"
WHOLE = "more than one prompt in the dialogue, and the vote is on all of it"
TIE = "a tie"
NOT_BOTH = "no reply of gpt4 or of text-davinci-003"
NOT_BEATEN = "gpt4 was not scored above text-davinci-003"
EARLIER = "earlier turns left out"
SYSTEM = "system message left out"

SPEAKER = re.compile(r"\n\n(Human|Assistant):")  # at the start of a paragraph; elsewhere these words are text
LONE = re.compile("[\ud800-\udfff]")
SHAREGPT_ROLES = {"human": HUMAN, "user": HUMAN, "gpt": ASSISTANT, "assistant": ASSISTANT}
ARENA_ROLES = {"user": HUMAN, "assistant": ASSISTANT}
# The prompts of GPT-4-LLM are in Stanford Alpaca's template, without its last line.
ALPACA_INSTRUCTION, ALPACA_INPUT, ALPACA_RESPONSE = "### Instruction:\n", "\n\n### Input:\n", "\n\n### Response:"
Turns = list[tuple[str, str]]  # (who, what they said)


class Found(NamedTuple):
    """What a row gives. `notes`: what of it was left out; `id` and `source` only where the row has its own."""

    prompt: str
    context: str
    good: str
    bad: str
    notes: tuple[str, ...] = ()
    id: str = ""
    source: str = ""


def candidates(name: str, rows: Iterable[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number in the file, row) of all that could give a pair: each row, but for OASST1 each prompt with its replies.

    OASST1 has one message per row; `replies` are the direct replies of a prompt that were not deleted.
    """
    if name != "oasst1":
        yield from enumerate(rows, 1)
        return
    rows = list(rows)
    replies = defaultdict(list)
    for row in rows:
        if row["role"] == "assistant" and not row.get("deleted"):
            replies[row.get("parent_id")].append(row)
    for number, row in enumerate(rows, 1):
        if row["role"] == "prompter":
            yield number, {"message": row, "replies": replies[row["message_id"]]}


def oasst1(row: dict[str, Any], turn: str) -> Found | str:
    """Best against worst reply of one English first prompt; rank 0 is the best. `turn` plays no part in a tree."""
    message = row["message"]
    if message.get("parent_id") is not None:
        return LATER
    if message["lang"] != "en":
        return OTHER_LANGUAGE
    if message.get("deleted"):
        return DELETED
    ranked = sorted((reply for reply in row["replies"] if reply.get("rank") is not None), key=lambda r: r["rank"])
    if len(ranked) < 2:
        return FEW_RANKED
    return _single([(HUMAN, message["text"])], ranked[0]["text"], ranked[-1]["text"], "first")


def hh_rlhf(row: dict[str, Any], turn: str) -> Found | str:
    """Chosen against rejected: two dialogues that differ in the last reply."""
    good, bad = split_dialogue(row["chosen"]), split_dialogue(row["rejected"])
    return _compared(good, bad, turn)


def split_dialogue(text: str) -> Turns:
    """Turns of a dialogue in HH-RLHF's form, "\\n\\nHuman: ...\\n\\nAssistant: ...".

    Some replies hold the mark of their own speaker again, which is one turn in two paragraphs. [] if the text does not
    begin with a speaker.
    """
    before, *parts = SPEAKER.split("\n\n" + text.strip("\n"))
    if before.strip():
        return []
    turns: Turns = []
    for speaker, said in zip(parts[::2], parts[1::2], strict=True):
        who = HUMAN if speaker == "Human" else ASSISTANT
        if turns and turns[-1][0] == who:
            said = f"{turns.pop()[1]}\n\n{said.strip()}"
        turns.append((who, said.strip()))
    return turns


def chatbot_arena(row: dict[str, Any], turn: str) -> Found | str:
    """The winner's reply against the loser's to a single prompt, ties dropped. `turn` plays no part.

    Any language: the profile's filters choose.
    """
    winner = row["winner"]
    if winner not in ("model_a", "model_b"):
        if not winner.startswith("tie"):
            raise ValueError(f"winner is {winner!r}, not model_a, model_b, tie or tie (bothbad)")
        return TIE
    first, second = (_turns(row[name], "role", "content", ARENA_ROLES) for name in ("conversation_a", "conversation_b"))
    if max(sum(who == HUMAN for who, _ in turns) for turns in (first, second)) > 1:
        return WHOLE
    return _compared(*((first, second) if winner == "model_a" else (second, first)), "first")


def alpaca_gpt4(row: dict[str, Any], turn: str) -> Found | str:
    """The reply of gpt4 against that of text-davinci-003 where GPT-4, as judge, scored the former higher.

    The template is taken off the prompt; its input, where it has one, is the context. `turn` plays no part.
    """
    replies: dict[str, tuple[float, str]] = {}
    for reply in row["responses_and_scores"]:
        text = _text(reply, "response")
        try:
            replies.setdefault(_text(reply, "source"), (float(reply["score"]), text))
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"no score in {repr(reply)[:120]}") from None
    if not {"gpt4", "text-davinci-003"} <= replies.keys():
        return NOT_BOTH
    (best, good), (second, bad) = replies["gpt4"], replies["text-davinci-003"]
    if not best > second:
        return NOT_BEATEN
    prompt = row["user_input"].partition(ALPACA_RESPONSE)[0]
    prompt = prompt.partition(ALPACA_INSTRUCTION)[2] or prompt
    prompt, _, context = prompt.partition(ALPACA_INPUT)
    return _single([(HUMAN, prompt)], good, bad, "first", context=context.strip())


def sharegpt(row: dict[str, Any], turn: str) -> Found | str:
    """`conversations` with the replies `chosen` and `rejected`; system messages are left out and noted."""
    messages = row["conversations"]
    spoken = [message for message in messages if _text(message, "from") != "system"]
    if others := {message["from"] for message in spoken} - SHAREGPT_ROLES.keys():
        return f"a message from {min(others)}"
    turns = _turns(spoken, "from", "value", SHAREGPT_ROLES)
    replies = _turns([row["chosen"], row["rejected"]], "from", "value", SHAREGPT_ROLES)
    if any(who != ASSISTANT for who, _ in replies):
        return NO_REPLY
    system = len(spoken) < len(messages) or bool(row.get("system"))
    return _single(turns, replies[0][1], replies[1][1], turn, (SYSTEM,) if system else ())


def own(row: dict[str, Any], turn: str) -> Found | str:
    """A row of your own file, already validated; `turn` plays no part."""
    found = _single([(HUMAN, row["prompt"])], row["good"], row["bad"], "first", context=row.get("context", "").strip())
    if isinstance(found, str):
        return found
    return found._replace(id=row.get("id", ""), source=row.get("source", ""))


def _compared(good: Turns, bad: Turns, turn: str) -> Found | str:
    if not good or not bad or good[-1][0] != ASSISTANT or bad[-1][0] != ASSISTANT:
        return NO_REPLY
    if good[:-1] != bad[:-1]:
        return PARTED
    return _single(good[:-1], good[-1][1], bad[-1][1], turn)


def _single(
    turns: Turns, good: str, bad: str, turn: str, notes: tuple[str, ...] = (), context: str = ""
) -> Found | str:
    if not turns or turns[-1][0] != HUMAN:
        return NO_PROMPT
    if turn == "first" and sum(who == HUMAN for who, _ in turns) > 1:
        return SEVERAL
    prompt, good, bad = turns[-1][1].strip(), good.strip(), bad.strip()
    if not prompt or not good or not bad:
        return EMPTY
    if good == bad:
        return EQUAL
    if LONE.search(prompt + context + good + bad):
        return BROKEN
    return Found(prompt, context, good, bad, notes + ((EARLIER,) if len(turns) > 1 else ()))


def _turns(messages: list[Any], role: str, text: str, roles: dict[str, str]) -> Turns:
    turns = []
    for message in messages:
        if _text(message, role) not in roles:
            raise ValueError(f"{role} is {message[role]!r}, not one of {', '.join(roles)}")
        turns.append((roles[message[role]], _text(message, text).strip()))
    return turns


def _text(message: Any, key: str) -> str:
    if not isinstance(message, dict) or not isinstance(message.get(key), str):
        raise ValueError(f"no text {key!r} in {repr(message)[:120]}")
    return message[key]


# What each source must have in every row, and who reads it.
COLUMNS: dict[str, dict[str, type]] = {
    "oasst1": {"message_id": str, "text": str, "role": str, "lang": str},
    "hh_rlhf": {"chosen": str, "rejected": str},
    "chatbot_arena": {"winner": str, "conversation_a": list, "conversation_b": list},
    "alpaca_gpt4": {"user_input": str, "responses_and_scores": list},
    "sharegpt": {"conversations": list, "chosen": dict, "rejected": dict},
}
FORMS: dict[str, Callable[[dict[str, Any], str], Found | str]] = {
    "oasst1": oasst1,
    "hh_rlhf": hh_rlhf,
    "chatbot_arena": chatbot_arena,
    "alpaca_gpt4": alpaca_gpt4,
    "sharegpt": sharegpt,
    "own": own,
}
