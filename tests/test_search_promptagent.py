"""PromptAgent: the tree's numbers, the search against the algorithm written down again, its questions, its cost."""

import itertools
import math
import random
import statistics

import pytest
from search_script import APOLOGY, OPTIMIZER, TARGET, Script, chance, found, hashed, idea, landed, scripted, sizes, task

from bpo_utils.search import evidence, prompts, tree
from bpo_utils.search.candidates import Candidate
from bpo_utils.search.methods import promptagent
from bpo_utils.search.plan import Plan, Sizes
from bpo_utils.search.tree import Node, Tree

SMALL = {"width": 2, "batch": 3, "depth_limit": 5}
ROOT = 0.3  # the first prompt's reward


def fresh(number, asked):
    """An optimizer that never repeats itself."""
    return (
        f"<instruction>Idea {number}.</instruction>" if asked.prompt.startswith("# Rewrite") else f"Feedback {number}."
    )


def level(asked):
    """A target that does equally well with every prompt: no simulation stops early."""
    return "0.5"


def rewarded(asked):
    """A target for which every idea has a reward of its own, on every row."""
    return str(random.Random(idea(asked)).random() if idea(asked) else ROOT)


def a_tree(root=0.5, **more):
    told = {"depth_limit": 8, "min_depth": 2, "exploration": 2.5} | more
    return Tree(Node(Candidate("c0", "Start."), root), **told)


def grown(one, *rewards, parent=None):
    """A line of nodes below a node, with these rewards."""
    node = parent or one.root
    for reward in rewards:
        name = f"c{len(one.nodes)}"
        node = tree.attach(one, node, Candidate(name, name), reward, "")
    return node


# golden checks 5, 6 and 7


def test_uct_selects_the_third_child():
    known = [(1.4, 3, 2, 3.4814), (0.6, 3, 0, 3.5435), (0.7, 3, 1, 3.6435)]
    for quality, parent, visits, expected in known:
        assert tree.uct(quality, parent, visits, 2.5) == pytest.approx(expected, abs=5e-5)
    one = a_tree()
    first, second, third = (grown(one, reward) for reward in (0.9, 0.6, 0.2))
    one.root.sums, first.sums, third.sums = [1.0] * 3, [1.3, 1.5], [0.7]
    assert (first.quality, second.quality, third.quality) == (1.4, 0.6, 0.7)
    assert tree.select(one) == [one.root, third]


def test_backpropagation_appends_the_sums_from_each_node_to_the_end():
    one = a_tree(0.5)
    leaf = grown(one, 0.6, 0.8)
    tree.backpropagate(one, leaf.line)
    assert [node.sums for node in leaf.line] == [pytest.approx([1.9]), pytest.approx([1.4]), [0.8]]
    tree.backpropagate(one, leaf.line[:2])
    assert one.root.sums[1] == pytest.approx(1.1) and one.root.quality == pytest.approx(1.5)
    assert leaf.sums == [0.8] and one.paths == [leaf.line, leaf.line[:2]]


def test_a_poor_node_is_terminal_below_the_least_depth_only():
    assert (0.5 + 0.6) / 2 > 0.54
    one = a_tree(0.5)
    assert not tree.terminal(one, grown(one, 0.5, 0.5, 0.5, 0.55))
    deep = grown(one, 0.5, 0.6, 0.54)
    assert deep.depth == 3 and tree.terminal(one, deep)
    shallow = grown(one, 0.6, 0.54)
    assert shallow.depth == 2 and not tree.terminal(one, shallow)
    assert not tree.terminal(one, grown(one, 0.5, 0.6, 0.56))
    shallow.flagged = True
    assert tree.terminal(one, shallow)
    end = grown(a_tree(depth_limit=3), 0.9, 0.9, 0.9)
    assert tree.terminal(a_tree(depth_limit=3), end) and not tree.terminal(a_tree(depth_limit=4), end)


def test_an_early_stop_needs_more_than_the_best_so_far_and_depth():
    one = a_tree(0.5)
    node = grown(one, 0.6, 0.6, 0.51)
    assert tree.early_stop(one, node)
    one.high = 0.51
    assert not tree.early_stop(one, node) and not tree.early_stop(one, node.parent)


# what it costs


def test_the_papers_example_costs_300_and_8300_and_its_class_576_and_44790():
    example = promptagent.Settings(rounds=10, depth_limit=5)
    assert promptagent.plan(example, Sizes(70, 50)) == Plan(target=8300, optimizer=300)
    assert promptagent.plan(promptagent.Settings(), Sizes(70, 150)) == Plan(target=44790, optimizer=576)
    assert promptagent.plan(promptagent.Settings(expansions=4), Sizes(70, 50)) == Plan(50 + 4 * 165, 24)


@pytest.mark.parametrize(
    "more",
    [{"rounds": 1}, {"rounds": 1, "depth_limit": 3, "prompts": 2}, {"expansions": 11}, {"expansions": 2, "rounds": 1}],
)
def test_a_search_uses_what_was_planned_if_nothing_repeats_and_nothing_stops_it(tmp_path, more):
    settings = promptagent.Settings(**more)

    def write(number, asked):
        texts = [f"<instruction>Idea {number * 10 + each}.</instruction>" for each in range(settings.prompts)]
        return "".join(texts) if asked.prompt.startswith("# Rewrite") else "Feedback."

    search, _ = scripted(tmp_path, write, level, task(train=60))
    promptagent.run(search, settings)
    planned = promptagent.plan(settings, sizes(search))
    assert (search.counts.target_calls, search.counts.optimizer_calls) == (planned.target, planned.optimizer)


def test_no_search_uses_more_than_was_planned(tmp_path):
    """Random settings, an optimizer that repeats itself, apologizes or says nothing, answers at random."""
    rng = random.Random(1)

    def write(number, asked):
        return rng.choice(["", APOLOGY, f"<instruction>Idea {rng.randint(0, 20)}.</instruction>", fresh(number, asked)])

    for _ in range(60):
        drawn = {"rounds": rng.randint(1, 6), "width": rng.randint(1, 4), "depth_limit": rng.randint(1, 5)}
        drawn |= {"min_depth": rng.randint(0, 3), "batch": rng.randint(1, 6), "prompts": rng.randint(1, 3)}
        settings = promptagent.Settings(**drawn, expansions=rng.randint(1, 20), exploration=rng.random() * 3)
        one = task(dev=rng.randint(1, 9), train=rng.randint(1, 12))
        search, _ = scripted(tmp_path, write, rng.choice([hashed, rewarded]), one, seed=rng.random())
        planned = promptagent.plan(settings, sizes(search))
        search.budget = max(len(one.dev), planned.target - rng.randint(0, planned.target // 2))
        promptagent.run(search, settings)
        assert search.counts.target_calls <= planned.target, drawn
        assert search.counts.optimizer_calls <= planned.optimizer * search.tries, drawn


def test_a_budget_ends_the_search_between_expansions(tmp_path):
    cost = 3 * (5 + 12)
    for budget in (12 + cost - 1, 12 + cost, 12 + 5 * cost, 12 + 6 * cost - 1):
        search, _ = scripted(tmp_path, fresh, level, task(train=60), budget=budget)
        promptagent.run(search, promptagent.Settings())
        assert search.counts.target_calls == 12 + (budget - 12) // cost * cost


# the search, against section 3.2 and the released code's rules written down once more


def written_down(settings, root):
    """(texts of all paths, numbers of all ideas, thresholds): plain loops over dictionaries."""
    numbers, rewards, parents, children, sums, flagged = itertools.count(1), {0: root}, {0: None}, {}, {}, set()
    low = high = root
    paths = []

    def depth(v):
        return 0 if parents[v] is None else 1 + depth(parents[v])

    def terminal(v):
        if depth(v) >= settings.depth_limit or v in flagged:
            return True
        return depth(v) > settings.min_depth and rewards[v] < (low + rewards[parents[v]]) / 2

    def expand(v):
        if terminal(v):
            flagged.add(v)
            return
        for _ in range(settings.width):
            number = next(numbers)
            rewards[number], parents[number] = random.Random(number).random(), v
            children.setdefault(v, []).append(number)

    def uct(v):
        got = sums.get(v, [])
        quality = sum(got) / len(got) if got else rewards[v]
        visits = len(sums.get(parents[v], []))
        return quality + settings.exploration * math.sqrt(math.log(visits + 1) / max(1, len(got)))

    for _ in range(settings.rounds):
        path = [0]
        while children.get(path[-1]) and not terminal(path[-1]):
            path.append(max(children[path[-1]], key=uct))
        if depth(path[-1]) < settings.depth_limit:
            expand(path[-1])
            while True:
                v = path[-1]
                if rewards[v] > high and depth(v) > settings.min_depth:
                    high = rewards[v]
                    break
                high = max(high, rewards[v])
                if terminal(v):
                    break
                if not children.get(v):
                    expand(v)
                path.append(max(children[v], key=rewards.get))
        for place, v in enumerate(path):
            sums.setdefault(v, []).append(sum(rewards[u] for u in path[place:]))
        paths.append(path)
    best = max(paths, key=lambda path: statistics.fmean(rewards[v] for v in path))
    return paths, list(rewards), high, max(best, key=rewards.get)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"depth_limit": 5, "rounds": 20},
        {"min_depth": 0, "rounds": 20},
        {"exploration": 8.0, "rounds": 25, "width": 2},
    ],
)
def test_the_search_is_the_algorithm(tmp_path, monkeypatch, more):
    settings, trees, ideas = promptagent.Settings(**more, expansions=1000), [], itertools.count(1)
    monkeypatch.setattr(promptagent, "Tree", lambda *told: trees.append(Tree(*told)) or trees[0])

    def write(number, asked):
        return f"<instruction>Idea {next(ideas)}.</instruction>" if "# Rewrite" in asked.prompt else "Feedback."

    search, _ = scripted(tmp_path, write, rewarded, task(dev=1))
    chosen = promptagent.run(search, settings)
    paths, numbers, high, best = written_down(settings, ROOT)
    (one,) = trees

    def number(node):
        return int(node.candidate.text[5:-1]) if node.parent else 0

    assert [[number(node) for node in path] for path in one.paths] == paths
    assert sorted(map(number, one.nodes)) == sorted(numbers) and len(paths) == settings.rounds
    assert one.high == high and chosen.text == f"Idea {best}."
    assert len({len(path) for path in paths}) > 1  # some simulation was stopped, another was not


def test_every_output_is_read_off_the_tree():
    one = a_tree(0.5)
    first, second = grown(one, 0.9, 0.2), grown(one, 0.6, 0.61)
    third = grown(one, 0.95)
    for path in (first.line, second.line, [one.root]):
        tree.backpropagate(one, path)
    third.sums = []
    assert [tree.chosen(one, output) for output in ("best_path", "best_reward", "last")] == [second, third, second]
    second.parent.sums += [9.0] * 3
    first.parent.sums += [99.0]
    assert tree.chosen(one, "best_quality") is first.parent and tree.chosen(one, "last") is second
    grown(one, 0.4, parent=second)
    tree.backpropagate(one, one.nodes[-1].line)
    assert [node.reward for node in tree.top(one, 3)] == [0.95, 0.9, 0.61]
    assert tree.chosen(a_tree(), "best_path").candidate.id == "c0"
    one = a_tree(0.5)
    leaf = grown(one, 0.9, 0.6)
    tree.backpropagate(one, leaf.line)
    assert tree.chosen(one, "last") is leaf and tree.chosen(one, "best_path") is leaf.parent


def test_nodes_are_named_anew_in_every_search(tmp_path):
    texts = []
    for _ in range(2):
        search, _ = scripted(tmp_path, fresh, rewarded)
        promptagent.run(search, promptagent.Settings(rounds=2))
        assert [one.id for one in search.candidates] == [f"c{number}" for number in range(len(search.candidates))]
        texts.append([(one.text, one.parents) for one in search.candidates])
    assert texts[0] == texts[1]


# one step


def odd(asked):
    """Right on train rows with an even number, never right on dev."""
    number = int(asked.prompt.rpartition("question ")[2][1:])
    return str(int(number % 2 == 0)) if "question t" in asked.prompt else "0.5"


def test_wrong_rows_are_criticized_and_a_batch_without_any_is_praised(tmp_path):
    settings = promptagent.Settings(rounds=1, depth_limit=1, width=10, batch=1)
    search, script = scripted(tmp_path, fresh, odd)
    promptagent.run(search, settings)
    bad, good = (script.of(OPTIMIZER, heading) for heading in ("# Criticize", "# Praise"))
    shown = {
        heading: sorted(int(prompts.tagged(one.prompt, "input")[0][-1]) for one in asked)
        for heading, asked in (("bad", bad), ("good", good))
    }
    assert shown == {"bad": [1, 3, 5, 7, 9], "good": [0, 2, 4, 6, 8]}
    assert sorted(one.operator for one in search.candidates[1:]) == ["criticize"] * 5 + ["praise"] * 5
    search, script = scripted(tmp_path, fresh, odd)
    promptagent.run(search, promptagent.Settings(rounds=1, depth_limit=1, width=1, batch=10))
    (asked,) = script.of(OPTIMIZER, "# Criticize")
    assert sorted(prompts.tagged(asked.prompt, "input")) == [f"question t{number}" for number in (1, 3, 5, 7, 9)]
    assert prompts.tagged(asked.prompt, "output") == ["0"] * 5 and "gold 3" in asked.prompt


def test_batches_go_through_all_of_train_and_then_again(tmp_path):
    search, _ = scripted(tmp_path, fresh, level, task(train=10))
    drawn = promptagent.batches(search, 4)
    rounds = [[next(drawn) for _ in range(3)] for _ in range(3)]
    assert [[len(batch) for batch in each] for each in rounds] == [[4, 4, 2]] * 3
    orders = [[row.id for batch in each for row in batch] for each in rounds]
    assert all(sorted(order) == sorted(row.id for row in search.task.train) for order in orders)
    assert orders[0] != orders[1] != orders[2]


def test_a_rewrite_is_shown_the_feedback_and_the_path_of_prompts(tmp_path):
    search, script = scripted(tmp_path, fresh, level)
    promptagent.run(search, promptagent.Settings(rounds=1, depth_limit=3, width=2))
    asked = script.of(OPTIMIZER, "# Rewrite")
    assert len(asked) == 6
    for one, (child, request) in enumerate(zip(search.candidates[1:], asked, strict=True)):
        line = [search.candidates[int(child.parents[0][1:])]]
        while line[0].parents:
            line.insert(0, search.candidates[int(line[0].parents[0][1:])])
        assert len(line) == one // 2 + 1 and prompts.tagged(request.prompt, "earlier") == [each.text for each in line]
        assert prompts.tagged(request.prompt, "instruction")[0] == line[-1].text
        feedback = script.of(OPTIMIZER, "# Criticize")[one]
        assert prompts.tagged(request.prompt, "feedback") == [script.known[feedback]]
        assert prompts.tagged(request.prompt, "example") == prompts.tagged(feedback.prompt, "example")
        assert child.meta == prompts.version("promptagent_rewrite") and "Write 1 new" in request.prompt
    assert {one.temperature for one in script.of(OPTIMIZER)} == {1.0}


def test_an_expansion_goes_out_in_four_batches(tmp_path):
    search, script = scripted(tmp_path, fresh, level, task(train=60))
    promptagent.run(search, promptagent.Settings(rounds=1, depth_limit=2))
    assert [len(batch) for batch in script.batches] == [12] + [15, 3, 3, 36] * 2


def test_no_more_prompts_are_taken_than_were_asked_for(tmp_path):
    many = "".join(f"<instruction>Idea {number}.</instruction>" for number in range(1, 9))
    for count, born in ((1, 1), (3, 3)):
        search, script = scripted(tmp_path, lambda number, asked: many, level)
        promptagent.run(search, promptagent.Settings(rounds=1, width=1, depth_limit=1, prompts=count))
        assert len(search.candidates) == 1 + born
        assert f"Write {count} new" in script.of(OPTIMIZER, "# Rewrite")[0].prompt


# children that are none


def test_a_known_prompt_is_no_child_and_not_scored_again(tmp_path):
    def write(number, asked):
        return "<instruction>Idea 1.</instruction>" if asked.prompt.startswith("# Rewrite") else "Feedback."

    search, script = scripted(tmp_path, write, rewarded)
    promptagent.run(search, promptagent.Settings(rounds=6, width=3))
    assert [one.text for one in search.candidates] == ["Start.", "Idea 1."]
    assert len([one for one in script.of(TARGET) if "question d" in one.prompt]) == 2 * 12
    assert len(script.of(OPTIMIZER, "# Rewrite")) == 3 + 3  # the child is flagged as an end, and not expanded again
    assert search.counts.duplicates == 5 and len(search.trace) == 7


@pytest.mark.parametrize(
    "bad", ["", APOLOGY, "A better prompt.", "<instruction>cut off", "<instruction> </instruction>"]
)
def test_a_rewrite_without_tags_is_no_child(tmp_path, bad):
    search, script = scripted(
        tmp_path, lambda number, asked: bad if "# Rewrite" in asked.prompt else "Feedback.", level
    )
    assert promptagent.run(search, promptagent.Settings()).text == "Start." and len(search.candidates) == 1
    assert len(script.of(OPTIMIZER, "# Rewrite")) == 2 * 3 and search.counts.bad_replies == 6


@pytest.mark.parametrize("bad", ["", " \n", APOLOGY])
def test_feedback_that_cannot_be_read_ends_its_step(tmp_path, bad):
    search, script = scripted(tmp_path, lambda number, asked: bad, level)
    assert promptagent.run(search, promptagent.Settings()).text == "Start."
    assert len(script.of(OPTIMIZER)) == 2 * 3 and not script.of(OPTIMIZER, "# Rewrite")


def test_a_blind_search_is_not_even_told_whether_a_batch_was_right(tmp_path):
    search, script = scripted(tmp_path, fresh, lambda asked: "1", blind=True)
    promptagent.run(search, promptagent.Settings(rounds=1))
    assert not script.of(OPTIMIZER, "# Praise") and script.of(OPTIMIZER, "# Criticize")
    assert all(evidence.NOTHING in one.prompt and "question" not in one.prompt for one in script.of(OPTIMIZER))


# replay, and against chance


def test_a_search_that_was_stopped_goes_on_without_a_call_twice(tmp_path):
    def run(folder, stop=math.inf, known=None):
        script = Script(
            lambda number, asked: fresh(random.Random(repr(asked)).randint(0, 9999), asked), hashed, known, stop
        )
        search, _ = scripted(tmp_path, None, None, script=script, seed=3, folder=tmp_path / folder)
        try:
            return promptagent.run(search, promptagent.Settings(rounds=4, **SMALL)), search, script
        except KeyboardInterrupt:
            return None, search, script

    whole, straight, script = run("straight")
    for stop in (5, 60, script.new - 1):
        none, _, first = run(f"stopped{stop}", stop)
        assert none is None and first.new == stop
        again, search, second = run(f"stopped{stop}", known=first.known)
        assert again == whole and first.new + second.new == script.new
        assert (search.counts, search.trace, search.scores) == (straight.counts, straight.trace, straight.scores)


def test_promptagent_beats_random_search_and_needs_the_examples(tmp_path):
    """Golden check 15, at 400 target calls and eight draws of items; without examples it falls below."""
    settings, draws = promptagent.Settings(depth_limit=5), range(1, 9)
    seeing = [found(promptagent, settings, landed(tmp_path, draw, 400)) for draw in draws]
    blind = [found(promptagent, settings, landed(tmp_path, draw, 400, blind=True)) for draw in draws]
    assert statistics.mean(seeing) > statistics.mean(chance(landed(tmp_path, draw, 400)) for draw in draws) + 0.05
    assert statistics.mean(seeing) > statistics.mean(blind) + 0.05
