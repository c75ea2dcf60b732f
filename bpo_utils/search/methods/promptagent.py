"""PromptAgent: prompts are states, feedback on errors is an action, and Monte-Carlo tree search plans ahead.

    the root is the seed; repeat:
      select     from the root to the child with the largest UCT, down to a node without children
      expand     w times: run a train batch; criticize the wrong rows (praise if all are right); rewrite the prompt, by
                 the feedback and all prompts from the root to here; the score on dev is the child's reward
      simulate   go on to the child with the largest reward and expand it, until a stop
      backprop   every node of the path gets the sum of rewards from itself to the end
    return, of the path with the largest mean reward, the prompt with the largest reward

PromptAgent (arXiv 2310.16427): section 3; `mcts.py` and `world_model` of XinyuanWangCS/PromptAgent where the paper is
silent. Other than there: train and dev share no row; a rewrite that is known already, anywhere in the tree,
makes no child (it is not scored twice), and a node whose rewrites are all known is flagged as an end.
"""

from collections.abc import Iterator

from bpo_utils.profile import Section
from bpo_utils.search import evidence, prompts
from bpo_utils.search.candidates import Candidate
from bpo_utils.search.evaluate import errors, evaluate
from bpo_utils.search.plan import Plan, Sizes
from bpo_utils.search.propose import Meta, ask, said
from bpo_utils.search.state import Search, add, note, start, steps
from bpo_utils.search.task import Row
from bpo_utils.search.tree import Node, Output, Tree, attach, backpropagate, chosen, early_stop, select, terminal

NAME, PAPER, KNOB = "PromptAgent", "arXiv 2310.16427", "expansions"


class Settings(Section):
    rounds: int = 12  # iterations, the released class; its example 10
    width: int = 3  # batches of an expansion, the released code
    depth_limit: int = 8  # the released class; its example 5
    min_depth: int = 2  # no stop by reward down to here, the released code
    exploration: float = 2.5  # w of UCT, the released code
    batch: int = 5  # train rows of a step, the released code
    prompts: int = 1  # new prompts of a step, the released code
    expansions: int = 96  # ours, for budgets: at most so many in all; 12 iterations of depth 8 can have no more
    output: Output = "best_path"  # the released code keeps the others too
    temperature: float = 1.0  # of the optimizer, the released code


def plan(settings: Settings, sizes: Sizes) -> Plan:
    """Calls at most, by the paper's count: every iteration expands a node of every depth. Only the first can; a later
    one starts further down, so the most is reached where `rounds` is 1 or `expansions` is small. With the released
    example 300 optimizer calls and 8,300 target calls, with its class 576 and, for 150 dev rows, 44,790."""
    expansions = min(settings.rounds * settings.depth_limit, settings.expansions)
    return Plan(sizes.dev + expansions * cost(settings, sizes.train, sizes.dev), 2 * settings.width * expansions)


def cost(settings: Settings, train: int, dev: int) -> int:
    """Target calls of one expansion at most."""
    return min(train, settings.width * settings.batch) + settings.width * settings.prompts * dev


def run(search: Search, settings: Settings) -> Candidate:
    """The prompt that the tree search returns. Raises what `chat.complete` raises."""
    dev, seed = search.task.dev, start(search)
    (reward,) = evaluate(search, [seed], dev)
    tree = Tree(Node(seed, reward), settings.depth_limit, settings.min_depth, settings.exploration)
    rows, worst = batches(search, settings.batch), cost(settings, len(search.task.train), len(dev))
    note(search, seed)
    # an iteration that only walks down known nodes is none too many: it changes what the next one selects
    for _ in steps(search, settings.rounds, worst, patience=settings.rounds):
        if tree.expanded == settings.expansions:
            break
        path = select(tree)
        if path[-1].depth < settings.depth_limit:
            expand(search, tree, path[-1], rows, settings)
            simulate(search, tree, path, rows, settings)
        backpropagate(tree, path)
        note(search, chosen(tree, settings.output).candidate)
    return chosen(tree, settings.output).candidate


def simulate(search: Search, tree: Tree, path: list[Node], rows: Iterator[list[Row]], settings: Settings) -> None:
    """Go down from the path's end, always to the child with the largest reward; nodes are added to the path."""
    while not early_stop(tree, path[-1]):
        tree.high = max(tree.high, path[-1].reward)
        if terminal(tree, path[-1]):
            return
        if not path[-1].children and not expand(search, tree, path[-1], rows, settings):
            return
        path.append(max(path[-1].children, key=lambda node: node.reward))
    tree.high = path[-1].reward


def expand(search: Search, tree: Tree, node: Node, rows: Iterator[list[Row]], settings: Settings) -> bool:
    """Give a node its children, those of all batches together; whether it has any. A node without is flagged as an
    end, unless it was the budget that did not allow it."""
    left = search.left >= cost(settings, len(search.task.train), len(search.task.dev))
    if not left or tree.expanded == settings.expansions:
        return False
    if not terminal(tree, node):
        tree.expanded += 1
        born = transition(search, node, [next(rows) for _ in range(settings.width)], settings)
        rewards = evaluate(search, [one for one, _ in born], search.task.dev)
        for (one, action), reward in zip(born, rewards, strict=True):
            attach(tree, node, one, reward, action)
    node.flagged = not node.children
    return not node.flagged


def transition(search: Search, node: Node, drawn: list[list[Row]], settings: Settings) -> list[tuple[Candidate, str]]:
    """New prompts with the feedback that each came from: one batch of rows, one feedback, one rewrite."""
    one = node.candidate
    missed = errors(search, one, list({row.id: row for rows in drawn for row in rows}.values()))
    shown = [[row for row in rows if row in missed] or rows for rows in drawn]
    # without evidence nothing may tell right from wrong, not even which of the two questions is asked
    names = ["criticize" if search.blind or rows[0] in missed else "praise" for rows in shown]
    metas = [question(search, one, rows, name) for rows, name in zip(shown, names, strict=True)]
    feedback = ask(search, metas, said, temperature=settings.temperature)
    more = {"count": str(settings.prompts), "earlier": evidence.numbered([each.candidate.text for each in node.line])}
    second = [
        (name, answers[0][0], question(search, one, rows, "rewrite", feedback=answers[0][0], **more))
        for rows, name, answers in zip(shown, names, feedback, strict=True)
        if answers
    ]
    metas = [meta for _, _, meta in second]
    replies = ask(search, metas, lambda text: prompts.tagged(text, "instruction"), temperature=settings.temperature)
    found = []
    for (name, action, meta), answers in zip(second, replies, strict=True):
        for texts, reply in answers:
            new = [add(search, text, name, (one,), reply, meta=meta.version) for text in texts[: settings.prompts]]
            found += [(each, action) for each in new if each]
    return found


def question(search: Search, candidate: Candidate, rows: list[Row], name: str, **more: str) -> Meta:
    """A question about a prompt and the target's work with it on some rows."""
    values = {"about": search.task.about, "instruction": candidate.text, **more}
    shown = evidence.examples(search, rows, candidate)
    return Meta(f"promptagent_{name}", prompts.filled(f"promptagent_{name}", examples=shown, **values))


def batches(search: Search, size: int) -> Iterator[list[Row]]:
    """Train batches without end: all rows in a random order, then again in another."""
    while True:
        rows = search.rng.sample(search.task.train, len(search.task.train))
        yield from (rows[first : first + size] for first in range(0, len(rows), size))
