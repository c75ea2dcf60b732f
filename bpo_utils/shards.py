"""Inference and judging in shards, so that the tasks of a Slurm array can share them. Like notebooks 04 and 05, above
`rewrite`, `chat` and `judge`.

Shard I of N takes every N-th piece of a stage's work: of the different prompts, by length, so that a batch holds little
padding and every shard gets as much; or of the pairs to judge. A finished block of it is appended to the shard's file,
after a first line that says what the file was made from; a shard that was killed goes on after its last finished block
and ends with the same file, byte for byte, as if nothing had happened. A block is one batch of the profile's size, or
several (`rewriters.block`). Models behind the store of calls get all their work at once: there every answer is kept by
itself.

Every prompt is sampled with its own random numbers, so any N gives the texts of a run without shards. Two things may
tell them apart: rounding, since a batch of other prompts is padded to another length; and the backend `continuous`,
whose samples depend on their batch, so that another N gives other samples of the same distribution.
"""

import contextlib
import dataclasses
import functools
import sys
import tempfile
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpo_utils import chat, judge, paths, records, rewrite, rewriters, shard_files
from bpo_utils.chat import capabilities, exchange
from bpo_utils.chat.store import Store, now
from bpo_utils.profile import Limits, Model, Profile

KINDS = {  # the stage's folder, the profile's section, what the rows are made from
    "rewrites": ("04_inference", "rewriting", "test prompts"),
    "answers": ("05_judging", "answering", "rewrites"),
    "verdicts": ("05_judging", "judging", "answers"),
}
PAIRS = 256  # one block for a judge of the miniature; which pairs share it changes nothing


@dataclass(frozen=True)
class Part:
    """What one model has to do: `items`, `block` of them at a time.

    `do(items)` returns a row for each item. Items of which `kin` is equal stay in one shard.
    """

    items: list[Any]
    block: int
    do: Callable[[list[Any]], list[dict[str, Any]]]
    kin: Callable[[Any], Hashable] = str


def collected(run: Profile, kind: str, upstream: list[Any]) -> list[Any]:
    """The rows of all shards in the order of a run without shards; [] if there are no shards of this kind.

    `upstream`: the test prompts for rewrites, the rewrites for answers, the matches for verdicts. Raises ValueError
    that names the shards which are missing or not complete, or a file that was made from something else.
    """
    of, files = shard_files.only_set(_folder(run, kind), kind)
    if not files:
        return []
    facts, rows, unfinished = made_from(run, kind, upstream), [], set(range(of)) - set(files)
    for shard, path in files.items():
        content = shard_files.read(path)
        shard_files.refuse_other(path, content.header["made_from"], facts)
        unfinished |= set() if content.complete else {shard}
        rows += [row for block in content.blocks for row in block]
    if unfinished:
        numbers = ", ".join(map(str, sorted(unfinished)))
        raise ValueError(
            f"{kind}: of {of} shards these are missing or not complete: {numbers}; run `bpo shard {kind} --profile "
            f"{run.name} --shard I --of {of}` for each of them, or delete {kind}-*-of-{of}.jsonl in "
            f"{paths.shown(_folder(run, kind))} to do without shards"
        )
    return _assembled(run, kind, upstream, rows)


def work(run: Profile, kind: str, shard: int, of: int, calls: chat.Calls, tell: Callable[[str], None] = print) -> None:
    """Make one shard, or the rest of it; `tell` hears of every block. `calls`: see `calls_of`.

    Raises ValueError if the file was made from something else, or if another process works on this shard, and what
    `chat.complete` raises.
    """
    if getattr(run, KINDS[kind][1]) is None:
        raise ValueError(f"profile {run.name} makes no {kind}: it has no section `{KINDS[kind][1]}`")
    if kind == "rewrites":
        rewriters.refuse_published(run.rewriting)
    path = shard_files.place(_folder(run, kind), kind, shard, of)
    shard_files.only_set(path.parent, kind, of)
    with shard_files.held(path):
        if kind != "rewrites":
            from bpo_utils.chat import served

            run, told = served.resolve(run, calls)
            tell(told)
        upstream = _upstream(run, kind)
        blocks = list(_blocks(_parts(run, kind, upstream, calls), shard, of))
        size = sum(len(items) for _, items in blocks)
        header = {"kind": kind, "shard": shard, "of": of, "rows": size, "blocks": len(blocks)}
        done, dropped = shard_files.begin(path, header | {"made_from": made_from(run, kind, upstream)})
        if dropped:
            tell(f"{paths.shown(path)}: dropped {dropped} bytes of an unfinished last line; its block is done again")
        remote = any(model.provider != "mini" for model in _models(run, kind))
        # A complete shard may have been killed before its calls were written beside it.
        asks = remote and (done < len(blocks) or calls.store.exists())
        with _carried(run, calls) if asks else contextlib.nullcontext() as save:
            for number, (part, items) in list(enumerate(blocks))[done:]:
                shard_files.append(path, number, part.do(items))
                if save:
                    save()
                tell(f"{kind}, shard {shard} of {of}: block {number + 1} of {len(blocks)}, {len(items)} rows")
        already = " already" if done == len(blocks) else ""
        tell(f"{paths.shown(path)} is complete{already}: {size} rows")


def calls_of(run: Profile, shard: int, of: int, max_usd: float = 0.0, store_dir: Path | None = None) -> chat.Calls:
    """How a shard's models are asked: online, through a store of its own, with its share of the account's limits.

    `max_usd` is what this store may ever spend, so N shards may spend N times as much. `store_dir` is a folder for the
    store, where the run's folder lies on a network disk. Batches and replay need no shards: notebook 05 has them.
    """
    store = (store_dir or _folder(run, "answers")) / f"calls-{shard}-of-{of}.sqlite"
    remote = [model for model in (*run.answer_models, *run.judges) if model.provider not in capabilities.IN_PROCESS]
    whole = {model.provider: capabilities.limits(model, run.limits).model_dump() for model in remote}
    share = {name: Limits(**{key: max(1, n // of) for key, n in each.items()}) for name, each in whole.items()}
    return chat.Calls(store, "online", max_usd, share, run.store_completions)


def merge_calls(run: Profile) -> tuple[int, int, float]:
    """Import the calls of all shards into the run's store: (calls that are new there, shards, US dollars they spent).

    What a call cost stays with its shard: in the run's store it costs nothing. Raises what `exchange.load` raises, and
    OSError if the run's folder lies on a network disk.
    """
    files = sorted(_folder(run, "answers").glob("calls-*-of-*.jsonl"))
    if not files:
        return 0, 0, 0.0
    with Store(_main_store(run)) as store:
        new = sum(exchange.load(store, file) for file in files)
    return new, len(files), sum(records.read_json(file.with_suffix(".usd.json")) for file in files)


def made_from(run: Profile, kind: str, upstream: list[Any]) -> dict[str, Any]:
    """What the rows of a kind depend on, flat: the profile's settings, the models' names, hashes of the inputs."""
    _, section, source = KINDS[kind]
    facts: dict[str, Any] = {"profile": run.name, f"sha256 of the {source}": shard_files.rows_hash(upstream)}
    facts |= {f"{section}.{name}": value for name, value in getattr(run, section).model_dump().items()}
    if kind == "rewrites":
        return facts | rewriters.facts(run.rewriting, _rewriter(run))
    return facts | {"models": [f"{model.name}: {model.provider} {model.model}" for model in _models(run, kind)]}


def _parts(run: Profile, kind: str, upstream: list[Any], calls: chat.Calls) -> list[Part]:
    if kind == "rewrites":
        texts = rewrite.by_length(map(rewrite.text_of, upstream))
        return [Part(texts, rewriters.block(run.rewriting), _rewriting(run, calls))]
    if kind == "answers":
        texts = rewrite.by_length(chat.prompts_of(upstream).values())
        do, size = functools.partial(_answered, run, calls), run.answering.batch_size
        return [Part(texts, _block(model, size), functools.partial(do, model)) for model in run.answer_models]
    do = functools.partial(_judged, run, calls)
    return [Part(upstream, _block(model, PAIRS), functools.partial(do, model), _kin) for model in run.judges]


def _rewriting(run: Profile, calls: chat.Calls) -> Callable[[list[str]], list[dict[str, Any]]]:
    @functools.cache  # once for all blocks, and not at all if they are done
    def load() -> rewriters.Rewriter:
        return rewriters.load(run.rewriting, _rewriter(run), run.data.source != "miniature", calls)

    return lambda texts: [dataclasses.asdict(row) for row in rewrite.through(load(), texts, run.rewriting)]


def _answered(run: Profile, calls: chat.Calls, model: Model, texts: list[str]) -> list[dict[str, str]]:
    found = zip(texts, chat.ask(model, texts, run.answering, calls), strict=True)
    return [{"model": model.name, "prompt": text, "text": row.text, "outcome": row.outcome} for text, row in found]


def _judged(run: Profile, calls: chat.Calls, model: Model, items: list[judge.Match]) -> list[dict[str, str]]:
    ask = functools.partial(chat.ask, model, decoding=run.judging.decoding, calls=calls)
    return [dataclasses.asdict(row) for row in judge.judge_pairs(items, model.name, ask, run.judging)]


def _kin(item: judge.Match) -> Hashable:
    """Pairs of the same two answers get the same prompts: in one shard, so that they are asked, and paid, once."""
    return item.question, item.reference, frozenset((item.original, item.optimized))


def _assembled(run: Profile, kind: str, upstream: list[Any], rows: list[dict[str, Any]]) -> list[Any]:
    if kind == "rewrites":
        return rewrite.rows_of(upstream, {row["prompt"]: rewrite.Rewritten(**row) for row in rows})
    if kind == "answers":
        made = {(row["model"], row["prompt"]): (row["text"], row["outcome"]) for row in rows}
        asked = chat.prompts_of(upstream).items()
        return [
            records.Answer(id, name, side, model.name, text, *made[model.name, text])
            for model in run.answer_models
            for (name, id, side), text in asked
        ]
    made = {tuple(row[name] for name in NAMES) + (row["judge"],): records.Verdict(**row) for row in rows}
    keys = [tuple(getattr(row, name) for name in NAMES) for row in upstream]
    return [made[(*key, model.name)] for model in run.judges for key in keys]


NAMES = ("id", "test_set", "rewriter", "answer_model")  # of a match and of its verdict


def _upstream(run: Profile, kind: str) -> list[Any]:
    """What the stage before gives: from its shards if there are any, else from the file that its notebook wrote."""
    tests = paths.stage_dir(run.name, "01_data") / "test"
    files = [tests / f"{name}.jsonl" for name in records.TEST_SETS]
    prompts = [row for file in files for row in records.read_rows(file, records.TestPrompt)]
    if kind == "rewrites":
        return prompts
    rewrites = collected(run, "rewrites", prompts)
    rewrites += rewrite.controls(run.controls, prompts) if rewrites else []
    rewrites = rewrites or records.read_rows(_folder(run, "rewrites").with_name("rewrites.jsonl"), records.Rewrite)
    if kind == "answers":
        return rewrites
    answers = collected(run, "answers", rewrites)
    answers = answers or records.read_rows(_folder(run, "answers").with_name("answers.jsonl"), records.Answer)
    return judge.matches(prompts, answers, with_reference=run.judging.reference)


def _blocks(parts: list[Part], shard: int, of: int) -> Iterator[tuple[Part, list[Any]]]:
    for part in parts:
        number = {key: place for place, key in enumerate(dict.fromkeys(map(part.kin, part.items)))}
        mine = [item for item in part.items if number[part.kin(item)] % of == shard]
        for start in range(0, len(mine), part.block):
            yield part, mine[start : start + part.block]


def _block(model: Model, size: int) -> int:
    """All at once where the store keeps every answer: a large model is loaded once, and calls run side by side."""
    return size if model.provider == "mini" else sys.maxsize


@contextlib.contextmanager
def _carried(run: Profile, calls: chat.Calls) -> Iterator[Callable[[], None]]:
    """Fill this shard's store with what is answered already; gives a function that writes its content beside the shard.

    As JSON Lines, because a store is for one machine and its disk, and a shard may go on elsewhere. What it has spent
    goes along, so that the cap holds there too.
    """
    exported = _folder(run, "answers") / f"{calls.store.stem}.jsonl"
    bill = exported.with_suffix(".usd.json")
    with Store(calls.store) as mine:
        if exported.exists():
            exchange.load(mine, exported)
        if bill.exists() and (elsewhere := records.read_json(bill) - mine.spent()) > 0:
            with mine.transaction() as db:
                values = (now(), "elsewhere", elsewhere)
                db.execute("INSERT INTO attempt(key, started, state, usd) VALUES ('', ?, ?, ?)", values)
        if _main_store(run).exists():
            with Store(_main_store(run)) as main, tempfile.TemporaryDirectory() as folder:
                exchange.export(main, Path(folder) / exported.name)
                exchange.load(mine, Path(folder) / exported.name)

    def save() -> None:
        with Store(calls.store) as mine:
            exchange.export(mine, exported)
            records.write_json(bill, mine.spent())

    try:
        yield save
    finally:
        save()


def _folder(run: Profile, kind: str) -> Path:
    return paths.stage_dir(run.name, KINDS[kind][0]) / "shards"


def _main_store(run: Profile) -> Path:
    return _folder(run, "answers").with_name("calls.sqlite")


def _rewriter(run: Profile) -> Path:
    return paths.stage_dir(run.name, "03_training") / "model"


def _models(run: Profile, kind: str) -> list[Model]:
    if kind == "rewrites":
        return [rewriters.server(run.rewriting)] if run.rewriting.backend == "served" else []
    return run.answer_models if kind == "answers" else run.judges
