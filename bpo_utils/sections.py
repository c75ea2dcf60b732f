"""The sections of a profile: what can be set, with the paper's or upstream's value where there is one.

Those of the further experiments are in sections_further.py.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """Every section is closed (no unknown keys), strict (no "3" for 3) and frozen (no run changes its profile)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Source(Section):
    """One source of preference data, for `data.source: preferences`."""

    name: Literal["oasst1", "hh_rlhf", "chatbot_arena", "alpaca_gpt4", "own", "sharegpt"]
    rows: int | None = Field(default=None, ge=1)  # sampled with data.seed; null: all
    turn: Literal["first", "last"] = "first"  # of a dialogue (hh_rlhf, sharegpt)
    files: list[str] = []  # names in $BPO_PREFERENCES_DIR (own, sharegpt; the others have names of their own)


class Data(Section):
    # miniature: the world in bpo_utils/mini; recorded: the pinned upstream files; hub: THUDM/BPO; raw: upstream's
    # training file with its teacher's replies; preferences: the sources below, before any teacher
    source: Literal["miniature", "recorded", "hub", "raw", "preferences"]
    preferences: list[Source] = []
    seed: int = 1  # which rows are sampled from a source
    train_rows: int | None  # preference rows used; null: all
    validation_rows: int = 0  # rows kept apart from training, for the loss after each epoch
    test_rows: dict[str, int]  # prompts used of each test set


class Filters(Section):
    """What makes a preference row or a reply unfit. The paper names the rules and gives no number: those are ours."""

    min_prompt_words: int  # ours: the paper names "too short" but no number
    max_prompt_words: int | None = None  # ours; null: no limit
    languages: list[str] = []  # ours: codes such as en, zh; empty: any
    near_duplicates: float | None = Field(default=None, gt=0, le=1)  # ours: from this Jaccard similarity on; null: off
    max_self_bleu: float | None = Field(default=None, ge=0, le=100)  # ours: BLEU against the rows kept; null: off
    max_growth: float  # words after / words before, upstream's script: 6
    max_shrink: float  # words before / words after, upstream's script: 2
    leaked_markers: list[str]  # upstream drops replies that leak its [PROTECTED ...] placeholder


class Lora(Section):
    """Low-rank adapters (arXiv 2106.09685) instead of all weights; merged into the model that is written at the end."""

    rank: int = Field(ge=1)
    alpha: int = Field(ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: list[str] | Literal["all-linear"] = "all-linear"


class Training(Section):
    base: str  # mini:base, or a Hub id or local folder
    launch: Literal["here", "slurm"]
    epochs: int = Field(ge=1)
    learning_rate: float
    adam_betas: tuple[float, float] = Field(strict=False)  # YAML has lists, no tuples; the numbers stay strict
    weight_decay: float
    warmup_ratio: float = Field(ge=0, lt=1)
    max_grad_norm: float
    global_batch: int = Field(ge=1)  # prompts per optimizer step, over all processes
    micro_batch: int = Field(ge=1)  # prompts per process and forward pass
    processes: int = Field(ge=1)  # one per GPU; 1 on a laptop
    max_length: int = Field(ge=1)  # tokens of one example
    # Longer examples. keep_frame: the prompt loses its middle, the frame and the optimized prompt stay; leave_out; or
    # upstream: its rule, which can cut off "[INST]". Whatever happens is counted and reported.
    too_long: Literal["keep_frame", "leave_out", "upstream"] = "keep_frame"
    drop_last: bool = False  # leave out the last, incomplete batch of an epoch (upstream does)
    # flat: the examples of a micro batch in one row, no padding, attention kept apart; pad: to the longest of them
    batching: Literal["flat", "pad"] = "flat"
    # tokens: mean over the target tokens of the global batch; micro_batches: upstream's mean of micro-batch means
    loss_mean: Literal["tokens", "micro_batches"] = "tokens"
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 where the GPU has it
    checkpointing: bool = False  # activations computed again in the backward pass: less memory, 20 to 30 % slower
    zero_stage: Literal[0, 1, 2, 3] | None = None  # DeepSpeed ZeRO; null: no DeepSpeed
    offload: Literal["none", "optimizer", "all"] = "none"  # to CPU memory; all: the parameters too (stage 3)
    lora: Lora | None = None  # null: all weights are trained
    freeze_embeddings: bool = False  # leave the word vectors as the base has them; the paper trains everything
    checkpoint_steps: int | None = Field(default=None, ge=1)  # one to resume from every so many; null: on a stop only
    push_to: str = ""  # owner/name on the Hub to upload the finished model to; empty: nowhere
    seed: int

    @model_validator(mode="after")
    def _fits_together(self) -> "Training":
        """What one setting needs of another; found here rather than by DeepSpeed after the weights are loaded."""
        needed = {"optimizer": (1, 2, 3), "all": (3,)}.get(self.offload, (None, 0, 1, 2, 3))
        if self.zero_stage not in needed:
            stages = " or ".join(map(str, needed))
            raise ValueError(f"offload: {self.offload} needs zero_stage: {stages}, not {self.zero_stage}")
        if self.lora and self.zero_stage == 3:
            raise ValueError("lora with zero_stage: 3 cannot be merged from its parts; use zero_stage: 2 or null")
        return self


class Decoding(Section):
    temperature: float  # 0: greedy
    top_p: float
    max_new_tokens: int
    batch_size: int
    seed: int


class Rewriting(Decoding):
    # stable: one sample; aggressive: the best of several that grew enough; greedy: no sampling; iterative: rewrites are
    # rewritten again until nothing changes; published: no model, the optimized prompts that BPO's test split has
    mode: Literal["stable", "aggressive", "greedy", "iterative", "published"] = "stable"
    backend: Literal["transformers", "continuous", "served"] = "transformers"
    model: str = ""  # a Hub id (THUDM/BPO) or a folder, of a model or of LoRA adapters; empty: what notebook 03 trained
    # backend served: an OpenAI-compatible server of your own (vLLM ...), such as http://127.0.0.1:8000/v1; taken to
    # cost nothing, so no cap holds for it
    base_url: str = ""
    samples: int = Field(default=5, ge=1)  # aggressive; upstream's infer_example.py: 5
    min_growth_tokens: int = Field(default=5, ge=0)  # aggressive; upstream: at least the prompt's tokens + 5
    rounds: int = Field(default=5, ge=1)  # iterative; the paper, section 4.5: up to 5
    context_tokens: int | None = Field(default=None, ge=1)  # longest sequence; null: what the model's config says


class Price(Section):
    """US dollars per million tokens."""

    input: float
    output: float
    cached: float | None = None  # input tokens that the provider had in its cache; None: as input


class Limits(Section):
    """What an account allows; 0: what `chat/models.toml` says of the provider."""

    requests_per_minute: int = Field(default=0, ge=0)
    tokens_per_minute: int = Field(default=0, ge=0)
    concurrency_start: int = Field(default=0, ge=0)
    concurrency_most: int = Field(default=0, ge=0)


class Model(Section):
    name: str
    provider: str  # mini, openai, zhipu, zhipuai (the package of that name), compatible (vLLM ...), huggingface
    model: str  # the provider's own name of it
    stands_for: str = ""  # what this model stands for in the report
    successor: str = ""  # who takes its place once it is no longer served; empty: what chat/models.toml says
    base_url: str = ""  # provider compatible: where it is served, such as http://127.0.0.1:8000/v1
    price: Price | None = None  # where your account page says something else than chat/models.toml


class Teacher(Section):
    provider: str  # mini, recorded (replies that came with the rows), or one of those of Model
    model: str
    temperature: float  # upstream: 0.9
    feedback: bool = True  # false: the ablation of the paper's section 4.6, the teacher sees only the prompt
    max_new_tokens: int = Field(default=1024, ge=1)  # of comparison and optimized prompt together; ours
    most_asked: int = Field(default=3, ge=1)  # an unreadable reply is asked for again, so often in all; ours
    seed: int = 1
    successor: str = ""
    base_url: str = ""
    price: Price | None = None

    @property
    def as_model(self) -> Model:
        """The teacher as a model that can be called."""
        names = {"provider": self.provider, "model": self.model, "successor": self.successor}
        return Model(name=self.model, stands_for="gpt-3.5-turbo", base_url=self.base_url, price=self.price, **names)

    @property
    def decoding(self) -> Decoding:
        """How the teacher decodes: all of the distribution, as upstream."""
        chosen = {"temperature": self.temperature, "max_new_tokens": self.max_new_tokens, "seed": self.seed}
        return Decoding(top_p=1.0, batch_size=1, **chosen)


class Judging(Section):
    style: str = "pairwise"  # or ranking, alpaca_eval (the package's own template)
    orders: str = "both"  # or upstream: one seeded order and upstream's counting, to compare with the paper
    hardened: bool = False  # delimiters that an answer cannot guess, verdict marks in answers rewritten
    reference: bool = False  # the judge sees the gold answer of questions that have one
    temperature: float = 0.0  # MT-bench: 0
    max_new_tokens: int = 2048  # MT-bench: 2048
    seed: int = 1

    @property
    def decoding(self) -> Decoding:
        """How the judge decodes."""
        chosen = {"temperature": self.temperature, "max_new_tokens": self.max_new_tokens, "seed": self.seed}
        return Decoding(top_p=1.0, batch_size=1, **chosen)
