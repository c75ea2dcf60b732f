"""The sections of the further experiments, notebooks 07 to 10."""

from typing import Any, Literal

from pydantic import Field, model_validator

from bpo_utils.sections import Model, Section, Teacher


class Iterating(Section):
    """Notebook 07: rounds of rewriting, the teacher without feedback, scaling, training-set size, label noise."""

    seeds: list[int] = Field(min_length=1)  # of rewriters: order, decoding, which pairs and labels are drawn
    prompts: int | None = Field(default=None, ge=2)  # test prompts, drawn from every set by its share; null: all
    answer_model: str  # answers in the experiments that have one answer model (paper: gpt-3.5-turbo)
    rounds: int = Field(default=5, ge=2)  # the paper, section 4.5: up to five
    sizes: list[int] = []  # training pairs; all of them come besides
    noise: list[float] = []  # shares of the preference rows whose good and bad response change places
    noise_pairs: int | None = Field(default=None, ge=1)  # pairs of the noise curve; null: all
    # who is asked without feedback and with changed labels; null: the profile's teacher (not where it was recorded)
    teacher: Teacher | None = None
    epochs: int | None = Field(default=None, ge=1)  # of these trainings; null: as notebook 03
    global_batch: int | None = Field(default=None, ge=1)  # null: as notebook 03
    micro_batch: int | None = Field(default=None, ge=1)  # null: as notebook 03
    at_once: int = Field(default=1, ge=1)  # trainings at the same time here, each with its share of the cores


class SearchRows(Section):
    """Rows of a search's task; no row lies in two sets."""

    train: int = Field(ge=1)  # errors, minibatches, exemplars
    dev: int = Field(ge=1)  # selection
    test: int = Field(ge=1)  # looked at once, at the end
    draw: int = 1  # which rows are drawn


class Searching(Section):
    """Notebook 09 and `bpo search`: automatic prompt search on one task, each method with the same target calls."""

    task: str  # instruction (the miniature's), landscape, bbh/<name>, liar, gsm8k
    rows: SearchRows
    instruction: str | None = None  # what a search starts from; null here and in the next three: the task's own
    position: str | None = None  # where the instruction stands: before, after, answer, or OPRO's (search/task.py)
    form: str | None = None  # what every prompt ends with, such as how the answer is to be written
    answer_tokens: int | None = Field(default=None, ge=1)  # limit of the target's answers
    contained: bool = False  # real tasks: an answer that contains the reference is right too, as in OPRO's code
    target: Model  # answers the task
    # writes critiques and instructions; provider program: the miniature's stand-in, with model facets or phrases
    optimizer: Model
    budgets: list[int] = Field(min_length=1)  # target calls of one search
    seeds: list[int] = Field(min_length=1)  # of searches: what is drawn, and which samples the optimizer gives
    methods: list[str] = Field(min_length=1)
    settings: dict[str, dict[str, Any]] = {}  # by method: what differs from its paper's defaults (search/methods)
    tries: int = Field(default=2, ge=1)  # an optimizer's reply that cannot be read is asked for again
    at_once: int = Field(default=1, ge=1)  # searches at the same time, each in a process (models in this machine only)


class Dpo(Section):
    """Direct preference optimization of the answer model (arXiv 2305.18290). The paper gives no settings: ours."""

    beta: float = Field(gt=0)
    learning_rate: float
    epochs: int = Field(ge=1)
    batch: int = Field(ge=1)  # preference rows per optimizer step


class PolicyGradient(Section):
    """RLOO (arXiv 2402.14740) in the place of the paper's PPO, with the learned preference model as reward."""

    beta: float = Field(ge=0)  # what a nat of KL to the model as it was costs of the reward
    learning_rate: float
    steps: int = Field(ge=1)
    prompts: int = Field(ge=1)  # per optimizer step
    samples: int = Field(ge=2)  # answers drawn for a prompt; the others are the baseline of each


class Instructions(Section):
    """BPO as data augmentation: an instruction set answered by one model, to train another."""

    answered_by: str  # one of answer_models; the paper: text-davinci-003
    base: str  # what is trained on the answers, as in Training; the paper: llama-7b, llama-13b
    full: int = Field(ge=2)  # the paper: 52k
    small: int = Field(ge=1)  # the first of them; the paper: 1k, a random subset
    epochs: int = Field(ge=1)
    batch: int = Field(ge=1)  # rows per optimizer step
    learning_rate: float


class Aligning(Section):
    """Notebook 08: BPO as data augmentation, against and on top of DPO and a policy gradient."""

    seeds: list[int]
    base: str  # the answer model that is aligned, as in Training: mini:NAME, or a Hub id or local folder
    reward: str  # the learned preference model, likewise
    library: Literal["own", "trl"] = "own"  # who trains; trl: the optional extra of that name, slower on the miniature
    preference_rows: int | None = Field(default=None, ge=2)  # to train on, the first ones; null: all
    looks: int = Field(default=4, ge=1)  # measurements on held-out prompts during a training
    questions: int | None = Field(default=None, ge=2)  # test prompts, each set in its share; null: all
    dpo: Dpo
    policy_gradient: PolicyGradient
    instructions: Instructions


class Policy(Section):
    """The vision-language-action policy of notebook 10, trained by behaviour cloning (AdamW, one cycle of the rate)."""

    width: int = Field(ge=2)
    layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    feed_forward: int = Field(ge=1)
    steps: int = Field(ge=1)
    batch: int = Field(ge=1)  # steps of demonstrations per optimizer step
    learning_rate: float


class Embodying(Section):
    """Notebook 10: a policy that knows one sentence per task, what other wordings do to it, and the remedies."""

    seeds: list[int] = Field(min_length=1)  # of policies, rewriters, and which half of the wordings is known
    demonstrations: int = Field(ge=20)  # episodes of the expert, for training
    validation: int = Field(ge=1)  # episodes
    test: int = Field(ge=20)  # episodes, a task each in turn, the same for every condition and remedy
    policy: Policy
    pairs: int = Field(ge=1)  # embodied pairs of the module; the course report: 200
    paraphrases: int = Field(ge=1)  # pairs that the augmenter learns to paraphrase from, sentence -> wording
    sizes: list[int] = []  # embodied pairs of the curve
    # The module is trained anew, as notebook 03 trains, on its pairs and the embodied ones together; nothing to set.
    # The curve goes on from notebook 03's rewriter, with so many of its own pairs beside the embodied ones.
    rehearsal: int = Field(ge=0)
    epochs: int = Field(ge=1)
    batch: int = Field(ge=1)
    samples: int = Field(ge=1)  # paraphrases drawn for each canonical sentence
    wordings: int = Field(default=3, ge=1)  # of each demonstration, beside its own sentence
    at_once: int = Field(default=1, ge=1)  # trainings at the same time here, each in a process

    @model_validator(mode="after")
    def _fits_together(self) -> "Embodying":
        """What would fail, or be counted twice, after minutes of training."""
        for name, values in (("seeds", self.seeds), ("sizes", self.sizes)):
            if len(set(values)) < len(values) or min(values, default=0) < 0:
                raise ValueError(f"{name} is {values}; give different numbers, none below 0")
        if self.policy.width % self.policy.heads:
            raise ValueError(f"policy.width {self.policy.width} cannot be shared by {self.policy.heads} heads")
        return self
