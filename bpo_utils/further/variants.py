"""What notebook 07 varies: the prompts that trials are scored on, their pairs, and the labels behind the pairs."""

import dataclasses
import hashlib
from collections.abc import Sequence
from functools import partial

from bpo_utils import chat, filters, pairs, paths, records, teacher
from bpo_utils.chat import served
from bpo_utils.profile import Profile, Teacher
from bpo_utils.records import Pair, Preference, TestPrompt


def drawn(prompts: Sequence[TestPrompt], count: int | None) -> list[TestPrompt]:
    """`count` test prompts, of every set its share (largest remainder), in their order; None: all of them.

    Which ones follows from a hash of set and id alone, so every trial and every machine has the same, and a larger
    count has those of a smaller one. Raises ValueError if there are fewer.
    """
    if count is None:
        return list(prompts)
    if count > len(prompts):
        raise ValueError(f"iterating.prompts is {count}, but there are {len(prompts)} test prompts")
    sets: dict[str, list[TestPrompt]] = {}
    for row in prompts:
        sets.setdefault(row.test_set, []).append(row)
    exact = {name: count * len(rows) / len(prompts) for name, rows in sets.items()}
    sizes = {name: int(share) for name, share in exact.items()}
    by_rest = sorted(exact, key=lambda name: (sizes[name] - exact[name], name))
    for name in by_rest[: count - sum(sizes.values())]:
        sizes[name] += 1
    chosen = {row for name, rows in sets.items() for row in _ordered(rows, f"prompts of {name}")[: sizes[name]]}
    return [row for row in prompts if row in chosen]


def subset(rows: Sequence[Pair], count: int, seed: int) -> list[Pair]:
    """`count` pairs drawn by a hash of seed and id, in their order. With one seed a smaller set lies in a larger one.

    Raises ValueError if there are fewer.
    """
    if count > len(rows):
        raise ValueError(f"{count} pairs are asked for, but there are {len(rows)}; lower iterating.sizes")
    chosen = {row.id for row in _ordered(rows, f"pairs of {seed}")[:count]}
    return [row for row in rows if row.id in chosen]


def noisy(rows: Sequence[Preference], share: float, seed: int) -> list[Preference]:
    """The rows with good and bad response exchanged in exactly round(share x rows) of them, drawn by seed and id.

    A wrong label, as a careless annotator gives it; the paper traces inconsistent rewrites to such (appendix I). With
    one seed a higher share has the exchanged rows of a lower one. Raises ValueError for a share outside 0 to 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share of wrong labels of {share}; it lies between 0 and 1")
    wrong = {row.id for row in _ordered(rows, f"labels of {seed}")[: round(share * len(rows))]}
    return [dataclasses.replace(row, good=row.bad, bad=row.good) if row.id in wrong else row for row in rows]


def pairs_of(run: Profile, rows: Sequence[Preference], asked: Teacher, calls: chat.Calls) -> list[Pair]:
    """Filters, teacher, parsing, filters: notebook 02 in one call. `asked.feedback` False is the paper's section 4.6.

    Raises ValueError for a recorded teacher, who cannot be asked anything new, and what the calls raise.
    """
    if asked.provider == "recorded":
        raise ValueError(
            "a recorded teacher cannot be asked without feedback or with other labels; name one in iterating.teacher"
        )
    model, _ = served.resolve_teacher(run.model_copy(update={"teacher": asked}), calls)
    passed, _ = filters.before(rows, run.filters)
    ask = partial(chat.ask, model, decoding=asked.decoding, calls=calls)
    replies, _ = teacher.replies(passed, ask, asked, run.filters.leaked_markers)
    return pairs.build_pairs(passed, replies, run.filters)[0]


def without_feedback(run: Profile, rows: Sequence[Preference], calls: chat.Calls) -> list[Pair]:
    """Pairs of a teacher that saw the prompts and no responses (paper, 4.6)."""
    asked = (run.iterating.teacher or run.teacher).model_copy(update={"feedback": False})
    return pairs_of(run, rows, asked, calls)


def with_noise(
    run: Profile, rows: Sequence[Preference], clean: Sequence[Pair], share: float, seed: int, calls: chat.Calls
) -> list[Pair]:
    """The pairs `clean` as they would be if a share of the rows behind them had the wrong label.

    Only the rows whose responses changed places go to the teacher again; the others keep their pairs. A reply that the
    filters refuse gives no pair, so there can be a few less.
    """
    behind = {row.id: row for row in rows}
    before = [behind[pair.id] for pair in clean]
    changed = [new for new, old in zip(noisy(before, share, seed), before, strict=True) if new is not old]
    again = pairs_of(run, changed, run.iterating.teacher or run.teacher, calls) if changed else []
    replaced = dict.fromkeys((row.id for row in changed), None) | {pair.id: pair for pair in again}
    return [made for pair in clean if (made := replaced.get(pair.id, pair)) is not None]


def _ordered(rows: Sequence, name: str) -> list:
    """Rows (with a unique id) in a random order that depends on the name and their ids only."""
    return sorted(rows, key=lambda row: hashlib.sha256(f"{name} {row.id}".encode()).hexdigest())


def records_of(run: Profile, folder: str, file: str, kind: type) -> list:
    """Rows of an earlier stage's file."""
    return records.read_rows(paths.stage_dir(run.name, folder) / file, kind)
