"""One HTML page of all judgments of a run, to be filtered and read: prompts, answers, and what the judges said.

The page holds everything in itself and its policy forbids it to load anything. What models wrote is data in it (JSON)
and becomes text nodes, never HTML. The other page, for labelling pairs by hand, is made in labelling.py.
"""

import base64
import hashlib
import html
import json
import re
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from bpo_utils import records
from bpo_utils.describe import segments
from bpo_utils.paths import PACKAGE
from bpo_utils.records import Answer, TestPrompt, Verdict

PAGES = PACKAGE / "pages"
# `<` could end the script that the data stand in, U+2028 and U+2029 are ends of lines to some readers of scripts, and
# half a surrogate pair has no UTF-8. JSON may write any character as an escape, so the texts stay what they are.
UNSAFE = re.compile("[<\u2028\u2029\ud800-\udfff]")
# Nothing may be loaded, only the page's own style and script run, and no text can be made into HTML.
POLICY = (
    "default-src 'none'; style-src {style}; script-src {script}; base-uri 'none'; form-action 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
AnswerKey = tuple[str, str, str, str]  # test_set, id, side, model
PairKey = tuple[str, str, str, str]  # test_set, id, rewriter, answer_model


class Run(NamedTuple):
    """What the pages are made from, as the stages wrote it."""

    prompts: list[TestPrompt]
    answers: list[Answer]
    verdicts: list[Verdict]


def read_run(folder: Path) -> Run:
    """The rows of one run's folder. Raises FileNotFoundError or ValueError that says which file and what to do."""
    verdicts = records.read_rows(folder / "05_judging" / "verdicts.jsonl", Verdict)
    answers = records.read_rows(folder / "05_judging" / "answers.jsonl", Answer)
    sets = dict.fromkeys(row.test_set for row in verdicts)
    prompts = [row for name in sets for row in records.read_rows(folder / f"01_data/test/{name}.jsonl", TestPrompt)]
    return Run(prompts, answers, verdicts)


def page(
    label: str,
    prompts: list[TestPrompt],
    answers: list[Answer],
    verdicts: list[Verdict],
    path: Path,
    flagged: Collection[AnswerKey] = (),
    rewriters: Collection[str] | None = ("bpo",),
) -> Path:
    """Write the page of the verdicts on some rewriters (None: on all) and return its path.

    `label` is the profile's; the title shows it. `flagged`: answers that try to talk to the judge, each named by
    (test_set, id, side, model). The same rows make the same bytes. Raises ValueError if there is no such verdict, or
    one without its prompt or answers.
    """
    chosen = [row for row in verdicts if rewriters is None or row.rewriter in rewriters]
    if not chosen:
        there = ", ".join(sorted({row.rewriter for row in verdicts})) or "none; run notebook 05"
        raise ValueError(f"no verdicts on {', '.join(rewriters or ['any rewriter'])}; there are verdicts on: {there}")
    data = page_data(label, prompts, answers, chosen, frozenset(flagged))
    return records.write_text(path, fill("judgments.html", f"Judgments: {label}", data))


def page_data(
    label: str,
    prompts: list[TestPrompt],
    answers: list[Answer],
    verdicts: list[Verdict],
    flagged: Collection[AnswerKey],
) -> dict[str, Any]:
    """The page's data: every text and every word diff once, and the pairs, which name them by number.

    A pair is one question, answer model and rewriter, with a judgment of each judge; pairs come in the prompts' order.
    """
    texts, diffs = _numbers(), _numbers()
    order = {(row.test_set, row.id): number for number, row in enumerate(prompts)}
    judgments = defaultdict(list)
    for row in verdicts:
        replies = [texts[row.reply_original_first], texts[row.reply_optimized_first]]
        fields = ("judge", "original_first", "optimized_first", "verdict", "how")
        judgments[pair_key(row)].append({name: getattr(row, name) for name in fields} | {"replies": replies})
    pairs = []
    for key, sides in both_answers(answers, verdicts).items():
        test_set, id, rewriter, model = key
        if (test_set, id) not in order:
            raise ValueError(f"{test_set} {id}: a verdict, but no test prompt; run notebooks 01, 04 and 05 again")
        pair = {"set": test_set, "id": id, "model": model, "rewriter": rewriter}
        pair["category"] = prompts[order[test_set, id]].category
        pair["diff"] = diffs[sides[0].prompt, sides[1].prompt]
        pair["flagged"] = []
        for name, row in zip(("original", "optimized"), sides, strict=True):
            pair[name] = {"prompt": texts[row.prompt], "text": texts[row.text], "outcome": row.outcome}
            if (test_set, id, row.side, model) in flagged:
                pair["flagged"].append(name)
        pairs.append(pair | {"judgments": judgments[key]})
    return {
        "label": label,
        "sets": {name: records.TEST_SETS.get(name, name) for name in dict.fromkeys(row.test_set for row in prompts)},
        "models": _names(row.answer_model for row in verdicts),
        "rewriters": _names(row.rewriter for row in verdicts),
        "judges": _names(row.judge for row in verdicts),
        "texts": list(texts),
        "diffs": [segments(before, after) for before, after in diffs],
        "pairs": sorted(pairs, key=lambda pair: order[pair["set"], pair["id"]]),
    }


def both_answers(answers: list[Answer], verdicts: list[Verdict]) -> dict[PairKey, tuple[Answer, Answer]]:
    """The answers to the original and to the optimized prompt of every pair that was judged, in the verdicts' order.

    Raises ValueError for a verdict without its answers.
    """
    given = {(row.test_set, row.id, row.side, row.model): row for row in answers}
    found = {}
    for row in verdicts:
        keys = [(row.test_set, row.id, side, row.answer_model) for side in ("original", row.rewriter)]
        for key in keys:
            if key not in given:
                raise ValueError(f"{' '.join(key)}: judged, but no such answer; run notebook 05 again")
        found[pair_key(row)] = (given[keys[0]], given[keys[1]])
    return found


def pair_key(row: Verdict) -> PairKey:
    """What names the pair of answers that a verdict is on; the verdicts of several judges share it."""
    return row.test_set, row.id, row.rewriter, row.answer_model


def fill(template: str, title: str, data: Any) -> str:
    """A page in bpo_utils/pages with title and data put in, and a policy that lets nothing else in."""
    text = re.sub(r"@@([\w.]+\.(?:css|js))@@\n", lambda found: _page(found[1]), _page(template))
    as_json = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    values = {
        "title": html.escape(title),
        "policy": POLICY.format(style=_source(text, "style"), script=_source(text, "script")),
        "data": UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", as_json),
    }
    # in one go: a text of the data that looks like a place to fill stays a text
    return re.sub(r"@@(\w+)@@", lambda found: values[found[1]], text)


def _page(name: str) -> str:
    return (PAGES / name).read_text(encoding="utf-8")


def _source(page: str, tag: str) -> str:
    """The policy's name for the one style or script of a page: its hash, so that nothing put in later can run."""
    (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _numbers() -> dict[Any, int]:
    """A dict that gives every new key the next number."""
    numbers: defaultdict[Any, int] = defaultdict()
    numbers.default_factory = numbers.__len__
    return numbers


def _names(values: Any) -> list[str]:
    return list(dict.fromkeys(values))
