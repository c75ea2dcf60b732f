"""The experiments of notebook 07, from trained trials to rows of results.json (names: `bpo_utils.further`)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bpo_utils import chat, reproduced
from bpo_utils.further import arena as arenas
from bpo_utils.further import iterate, trials, variants
from bpo_utils.further.arena import Arena, System
from bpo_utils.further.trials import Trial
from bpo_utils.profile import Model, Profile
from bpo_utils.records import Pair, Preference

Groups = Mapping[str, Sequence[Trial]]  # setting -> a trial per seed
Row = dict[str, Any]


def plan(run: Profile, calls: chat.Calls) -> dict[str, list[Trial]]:
    """Every setting with a trial per seed: bpo, no_feedback, pairs_<n>, noise_<percent>. Asks the teacher, no model.

    Raises what the calls raise, and ValueError if a setting wants more pairs than there are.
    """
    how = run.iterating
    rows = variants.records_of(run, "01_data", "train.jsonl", Preference)
    pairs = variants.records_of(run, "02_pairs", "pairs.jsonl", Pair)
    alone = variants.without_feedback(run, rows, calls)
    found = {"bpo": [trials.trial(run, "bpo", pairs, seed, how.rounds) for seed in how.seeds]}
    found["no_feedback"] = [trials.trial(run, "no_feedback", alone, seed) for seed in how.seeds]
    clean = {} if how.noise_pairs is None or how.noise_pairs in how.sizes else {how.noise_pairs}
    for size in sorted({*how.sizes, *clean} - {len(pairs)}):
        name = f"pairs_{size}"
        found[name] = [trials.trial(run, name, variants.subset(pairs, size, seed), seed) for seed in how.seeds]
    for share in how.noise:
        found[noise_name(share)] = [_noise_trial(run, rows, pairs, share, seed, calls) for seed in how.seeds]
    return found


def _noise_trial(
    run: Profile, rows: Sequence[Preference], pairs: Sequence[Pair], share: float, seed: int, calls: chat.Calls
) -> Trial:
    count = run.iterating.noise_pairs
    clean = variants.subset(pairs, count, seed) if count else pairs
    return trials.trial(run, noise_name(share), variants.with_noise(run, rows, clean, share, seed, calls), seed)


def noise_name(share: float) -> str:
    """The name of a setting of the noise curve."""
    return f"noise_{round(100 * share)}"


def model_of(resolved: Profile, run: Profile) -> Model:
    """The answer model of the experiments that have one, or who took its place. Raises ValueError for another name."""
    names = [model.name for model in run.answer_models]
    wanted = run.iterating.answer_model
    if wanted not in names:
        raise ValueError(f"iterating.answer_model {wanted!r} is none of the answer models {', '.join(names)}")
    return resolved.answer_models[names.index(wanted)]


def systems(arena: Arena, model: Model, group: Sequence[Trial], number: int = 1) -> list[System]:
    """An answer model behind every rewriter of a setting, with the prompts after round `number`; 0: the originals."""
    made = [trials.rewritten(one, arena.originals) for one in group]
    return [System(model, iterate.round_texts(one, number)) for one in made]


def iterated(arena: Arena, model: Model, group: Sequence[Trial]) -> tuple[list[Row], list[Row], list[Row]]:
    """(rows, steps, saturation) of the paper's Figure 3: every round against the original, each judge."""
    original = System(model, arena.originals)
    by_round = [systems(arena, model, group, number) for number in range(1, arena.run.iterating.rounds + 1)]
    arenas.prepare(arena, [original, *(system for part in by_round for system in part)])
    rows, steps, saturation = [], [], []
    for judge in arena.run.judges:
        verdicts = [arenas.duel(arena, original, part, judge) for part in by_round]
        for number, part in enumerate(verdicts, 1):
            names = _names("iterate", f"round_{number}", model, judge, "original")
            rows.append(arenas.row(names, part, round=number))
        tables = [[[0.0] * len(arena.questions)] * len(group), *map(iterate.score_table, verdicts)]
        gains = [iterate.step(old, new) for old, new in zip(tables, tables[1:], strict=False)]
        for number, gain in enumerate(gains):
            names = {"setting": f"round_{number}_to_{number + 1}", "answer_model": model.name, "judge": judge.name}
            steps.append(names | _difference(gain))
        if len(gains) > 3:  # the paper's gain lasts up to the round before the last
            names = {"setting": f"round_1_to_{len(gains) - 1}", "answer_model": model.name, "judge": judge.name}
            steps.append(names | _difference(iterate.step(tables[1], tables[-2])))
        after = iterate.saturates_after(gains)
        saturation.append({"answer_model": model.name, "judge": judge.name, "saturates_after": after})
    return rows, steps, saturation


def without_feedback(arena: Arena, model: Model, groups: Groups) -> list[Row]:
    """Rows of the paper's Table 7: bpo and no_feedback against the original, and against one another."""
    original, rows = System(model, arena.originals), []
    bpo, alone = (systems(arena, model, groups[name]) for name in ("bpo", "no_feedback"))
    arenas.prepare(arena, [original, *bpo, *alone])
    for judge in arena.run.judges:
        for setting, first, second, against in (
            ("bpo", [original] * len(bpo), bpo, "original"),
            ("no_feedback", [original] * len(alone), alone, "original"),
            ("bpo", alone, bpo, "no_feedback"),
        ):
            names = _names("feedback", setting, model, judge, against)
            rows.append(arenas.row(names, arenas.duels(arena, first, second, judge)))
    return rows


def scaled(arena: Arena, group: Sequence[Trial]) -> list[Row]:
    """Rows of the paper's Figure 7: every answer model, with and without BPO, against the last one without it."""
    large, rows = System(arena.run.answer_models[-1], arena.originals), []
    for model in arena.run.answer_models:
        behind = systems(arena, model, group)
        alone = System(model, arena.originals)
        arenas.prepare(arena, [large, alone, *behind])
        for judge in arena.run.judges:
            if model != large.model:
                names = _names("scaling", model.name, model, judge, large.model.name)
                rows.append(arenas.row(names, arenas.duel(arena, large, [alone], judge)))
            names = _names("scaling", f"{model.name}+bpo", model, judge, large.model.name)
            rows.append(arenas.row(names, arenas.duel(arena, large, behind, judge)))
    return rows


def curves(arena: Arena, model: Model, groups: Groups) -> list[Row]:
    """Rows of both curves, against the original: over training pairs, and over the share of wrong labels."""
    original, rows = System(model, arena.originals), []
    points = list(_points(arena.run, groups))
    made = {name: systems(arena, model, groups[name]) for *_, name in points}
    arenas.prepare(arena, [original, *(system for part in made.values() for system in part)])
    for judge in arena.run.judges:
        scored = {name: arenas.duel(arena, original, part, judge) for name, part in made.items()}
        for experiment, setting, number, name in points:
            names = _names(experiment, setting, model, judge, "original")
            pairs = sum(len(one.pairs) for one in groups[name]) / len(groups[name])
            told = {"pairs": pairs} if experiment == "sizes" else {"noise": number, "pairs": pairs}
            rows.append(arenas.row(names, scored[name], **told))
    return rows


def _points(run: Profile, groups: Groups) -> Iterator[tuple[str, str, float, str]]:
    """(experiment, setting, number, group) of every point of the curves; both meet where the labels are right."""
    every = len(groups["bpo"][0].pairs)
    for size in sorted(run.iterating.sizes):
        if size != every:
            yield "sizes", f"pairs_{size}", size, f"pairs_{size}"
    yield "sizes", "pairs_all", every, "bpo"
    at = run.iterating.noise_pairs
    yield "noise", noise_name(0), 0.0, "bpo" if at in (None, every) else f"pairs_{at}"
    for share in sorted(run.iterating.noise):
        yield "noise", noise_name(share), share, noise_name(share)


def drifts(arena: Arena, groups: Groups) -> list[Row]:
    """What rewriting did to the texts: every round of bpo, and the first rewrite of every other setting."""
    miniature, rows = arena.run.data.source == "miniature", []
    for name, group in groups.items():
        made = [trials.rewritten(one, arena.originals) for one in group]
        for number in range(1, (arena.run.iterating.rounds if name == "bpo" else 1) + 1):
            now, before = ([iterate.round_texts(one, k) for one in made] for k in (number, number - 1))
            names = {"experiment": "iterate" if name == "bpo" else "trials", "setting": name}
            names["setting"] = f"round_{number}" if name == "bpo" else name
            found = iterate.drifted(now, before, arena.originals)
            rows.append(names | found | iterate.kept(miniature, now, arena.originals))
    return rows


def cards(results: Mapping[str, Any], run: Profile) -> list[reproduced.Card]:
    """The cards of this notebook from results.json: the paper's Figure 3, Table 7 and Figure 7, each judge."""
    comparable, found = run.data.source != "miniature", []
    own = [row for row in results["rows"] if row["answer_model"] == results["answer_model"]]
    claims = {
        ("iterate", "round_1", "original"): "f3_first_round",
        ("feedback", "bpo", "original"): "t7_bpo_vs_original",
        ("feedback", "no_feedback", "original"): "t7_without_feedback",
        ("feedback", "bpo", "no_feedback"): "t7_bpo_vs_without_feedback",
    }
    for row in own:
        if claim := claims.get((row["experiment"], row["setting"], row["against"])):
            found.append(_card(claim, row, f"{row['answer_model']}, {row['judge']}", comparable))
    before, last = run.iterating.rounds - 1, run.iterating.rounds
    claims = {f"round_1_to_{before}": "f3_later_rounds", f"round_{before}_to_{last}": "f3_saturates"}
    for row in results["steps"]:
        if claim := claims.get(row["setting"]):
            found.append(_card(claim, row, f"{row['answer_model']}, {row['judge']}", comparable))
    for row in results["rows"]:
        if row["experiment"] == "scaling" and row["setting"].endswith("+bpo") and row["answer_model"] != row["against"]:
            label = f"{row['setting']} − {row['against']}, {row['judge']}"
            found.append(_card("f7_small_bpo_vs_large", row, label, comparable))
    return found


def _card(claim: str, row: Row, label: str, comparable: bool) -> reproduced.Card:
    value = row["net_win"] if "net_win" in row else row["difference"]
    numbers = (value, max(-1.0, row["ci_low"]), min(1.0, row["ci_high"]), row["n"], row["seeds"])
    return reproduced.card(claim, *numbers, label=label, comparable=comparable)


def _difference(gain: Any) -> Row:
    numbers = {"difference": gain.mean, "ci_low": gain.low, "ci_high": gain.high, "n": gain.n, "seeds": gain.seeds}
    return numbers | {"spread": list(gain.spread)}


def _names(experiment: str, setting: str, model: Model, judge: Model, against: str) -> dict[str, str]:
    names = {"experiment": experiment, "setting": setting, "answer_model": model.name, "judge": judge.name}
    return names | {"against": against}
