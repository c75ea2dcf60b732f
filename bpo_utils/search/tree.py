"""The tree of PromptAgent's Monte-Carlo tree search: nodes, their statistics, and which of them is the result
(arXiv 2310.16427, section 3.2; `search_algo/mcts.py` of the released code where the paper is silent)."""

import math
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

from bpo_utils.search.candidates import Candidate

Output = Literal["best_path", "best_reward", "best_quality", "last"]


@dataclass(eq=False)
class Node:
    """A prompt in the tree. `reward`: its score on all dev rows; `sums`: the sum of rewards from it to the end of every
    path that went through it; `action`: the feedback that led to it; `flagged`: nothing comes after it.

    A node is named by its candidate's id, which counts in the search and in no other.
    """

    candidate: Candidate
    reward: float
    parent: "Node | None" = None
    action: str = ""
    children: list["Node"] = field(default_factory=list)
    sums: list[float] = field(default_factory=list)
    flagged: bool = False

    @property
    def depth(self) -> int:
        """Steps from the root."""
        return self.parent.depth + 1 if self.parent else 0

    @property
    def quality(self) -> float:
        """Q: the mean of the sums, else the reward."""
        return fmean(self.sums) if self.sums else self.reward

    @property
    def line(self) -> list["Node"]:
        """The nodes from the root to this one."""
        return [*self.parent.line, self] if self.parent else [self]


@dataclass
class Tree:
    """A tree and what its search goes by. `low`, `high`: rewards that decide what is poor and what is good, both the
    root's at first; `expanded`: expansions so far; `paths`: the path of every iteration."""

    root: Node
    depth_limit: int
    min_depth: int
    exploration: float
    low: float = 0.0
    high: float = 0.0
    expanded: int = 0
    nodes: list[Node] = field(default_factory=list)
    paths: list[list[Node]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.low = self.high = self.root.reward
        self.nodes = [self.root]


def attach(tree: Tree, parent: Node, candidate: Candidate, reward: float, action: str) -> Node:
    """A new child of a node."""
    node = Node(candidate, reward, parent, action)
    parent.children.append(node)
    tree.nodes.append(node)
    return node


def uct(quality: float, parent_visits: int, visits: int, exploration: float) -> float:
    """Q + w sqrt(ln(N(parent) + 1) / max(1, N)). Q is a sum of rewards, and the default w is made for sums."""
    return quality + exploration * math.sqrt(math.log(parent_visits + 1) / max(1, visits))


def terminal(tree: Tree, node: Node) -> bool:
    """Whether nothing is to come after a node: too deep, flagged, or deep enough and poor."""
    if node.depth >= tree.depth_limit or node.flagged:
        return True
    poor = node.parent is not None and node.reward < (tree.low + node.parent.reward) / 2
    return poor and node.depth > tree.min_depth


def early_stop(tree: Tree, node: Node) -> bool:
    """Whether a simulation ends here because nothing so far was as good."""
    return node.reward > tree.high and node.depth > tree.min_depth


def select(tree: Tree) -> list[Node]:
    """The path from the root, always to the child with the largest UCT, of equals the first."""
    path = [tree.root]
    while path[-1].children and not terminal(tree, path[-1]):
        node = path[-1]
        best = max(
            node.children, key=lambda child: uct(child.quality, len(node.sums), len(child.sums), tree.exploration)
        )
        path.append(best)
    return path


def backpropagate(tree: Tree, path: list[Node]) -> None:
    """Record a path: every node on it gets the sum of rewards from itself to the path's end."""
    tree.paths.append(path)
    total = 0.0
    for node in reversed(path):
        total += node.reward
        node.sums.append(total)


def chosen(tree: Tree, output: Output) -> Node:
    """The result. `best_path`: of the path with the largest mean reward the node with the largest reward; `last`: its
    last node; `best_quality`: of the path with the largest mean Q the node with the largest reward; `best_reward`: of
    all nodes the one with the largest reward. Of equals the first."""
    if output == "best_reward" or not tree.paths:
        return top(tree, 1)[0]
    if output == "best_quality":
        path = max(tree.paths, key=lambda nodes: fmean(node.quality for node in nodes))
    else:
        path = max(tree.paths, key=lambda nodes: fmean(node.reward for node in nodes))
    return path[-1] if output == "last" else max(path, key=lambda node: node.reward)


def top(tree: Tree, count: int) -> list[Node]:
    """The nodes with the largest rewards, of equals the older first."""
    return sorted(tree.nodes, key=lambda node: -node.reward)[:count]
