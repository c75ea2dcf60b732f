"""The models that rewrite: sampling that no batch changes, backends with the same greedy texts, adapters, the frame."""

import dataclasses
import json
import shutil
import sys

import asking
import fake_api
import llama_tokenizer
import pytest

from bpo_utils import paths, profile, records, rewriters, tokens
from bpo_utils.chat import Calls, local
from bpo_utils.mini import models

SAMPLED = profile.Rewriting(temperature=1.2, top_p=0.95, max_new_tokens=20, batch_size=3, seed=1)
GREEDY = SAMPLED.model_copy(update={"mode": "greedy"})
TOPICS = ("maps", "jazz", "tides", "sleep", "经济危机是什么？", "tea with a good deal of milk and sugar", "why")
FRAMED = [tokens.framed(tokens.REWRITER_FRAME, f"{topic} explained") for topic in TOPICS]


@pytest.fixture(scope="module")
def weak():
    return models.load("weak")


def made(weak, texts=FRAMED, decoding=SAMPLED, **more):
    return [reply.text for reply in local.continued(*weak, texts, decoding, **more)]


# Sampling


def test_a_sample_is_drawn_with_the_models_own_probabilities():
    import torch

    logits = torch.tensor([2.0, 1.0, -torch.inf, 0.0, 1.5, -torch.inf])
    drawn = torch.rand(20_000, 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    chosen = local.Draw(drawn, 4)(torch.zeros(len(drawn), 4), logits.expand(len(drawn), -1)).argmax(dim=-1)
    counted, expected = torch.bincount(chosen, minlength=6), len(drawn) * logits.softmax(-1)
    possible = expected > 0
    assert not counted[~possible].any()
    assert ((counted - expected)[possible] ** 2 / expected[possible]).sum() < 16.3  # chi-square, 3 degrees, p = 0.001


@pytest.mark.parametrize("number", [0.0, 1 - 2**-24])
def test_the_ends_of_the_random_numbers_draw_possible_tokens(number):
    import torch

    logits = torch.tensor([[-torch.inf, 0.3, -1.0, -torch.inf]])
    left = local.Draw(torch.tensor([[number]], dtype=torch.float64), 1)(torch.zeros(1, 1), logits)
    assert left.argmax().item() == (1 if number == 0 else 2) and left.isfinite().sum() == 1


def test_a_text_does_not_depend_on_its_batch(weak):
    together = made(weak)
    assert together == [made(weak, [text])[0] for text in FRAMED]
    assert together[::-1] == made(weak, FRAMED[::-1], SAMPLED.model_copy(update={"batch_size": 100}))
    assert together == made(weak)  # whatever the device's own generator did in between


def test_rows_that_finish_leave_the_others_their_own_numbers():
    strong, longer = models.load("strong"), SAMPLED.model_copy(update={"max_new_tokens": 60, "batch_size": 7})
    framed = [tokens.framed(tokens.ANSWER_FRAME, topic) for topic in TOPICS]
    together = local.continued(*strong, framed, longer)
    assert len({len(reply.text) for reply in together}) > 3 and "stop" in {reply.finish for reply in together}
    assert together == [local.continued(*strong, [text], longer)[0] for text in framed]


def test_other_seeds_and_samples_are_other_draws(weak):
    kinds = [made(weak), made(weak, sample=1), made(weak, decoding=SAMPLED.model_copy(update={"seed": 2}))]
    assert all(sum(map(str.__eq__, a, b)) < 2 for a, b in ((kinds[0], kinds[1]), (kinds[0], kinds[2]), kinds[1:]))
    assert made(weak, sample=1) == kinds[1]


def test_top_p_leaves_the_tokens_it_should(weak):
    certain = SAMPLED.model_copy(update={"top_p": 1e-6, "temperature": 3.0})
    assert made(weak, decoding=certain) == made(weak, decoding=SAMPLED.model_copy(update={"temperature": 0.0}))


def test_a_text_is_the_beginning_of_a_longer_one(weak):
    short = local.continued(*weak, FRAMED, SAMPLED.model_copy(update={"max_new_tokens": 6}))
    for reply, text in zip(short, made(weak), strict=True):
        assert reply.finish == "stop" or text.startswith(reply.text.rstrip("\ufffd"))
    assert "length" in {reply.finish for reply in short}


# The context


def test_what_does_not_fit_is_refused_and_little_room_ends_a_text_early(weak):
    sizes = [len(tokens.prompt_ids(weak[1], text)) for text in FRAMED]
    context = sorted(sizes)[-2] + 3  # the longest leaves no room, the next one room for three tokens
    assert max(sizes) >= context
    replies = local.continued(*weak, FRAMED, SAMPLED, context=context)
    assert [reply.outcome == "too_long" for reply in replies] == [size >= context for size in sizes]
    for size, reply, text in zip(sizes, replies, made(weak), strict=True):
        if reply.outcome != "too_long":
            same = len(weak[1].encode(reply.text, add_special_tokens=False)) <= context - size + 1
            assert same and text.startswith(reply.text.rstrip("\ufffd"))
    assert {r.finish for r, s in zip(replies, sizes, strict=True) if s == sorted(sizes)[-2]} == {"length"}


def test_the_models_own_context_holds_if_the_profile_names_none(weak):
    long = "tea " * 600
    (reply,) = rewriters.of(*weak, SAMPLED).ask([long], 0)
    assert reply == local.TOO_LONG
    assert rewriters.of(*weak, SAMPLED.model_copy(update={"backend": "continuous"})).ask([long], 0) == [reply]


# Backends


def test_continuous_batching_gives_the_same_greedy_texts_and_repeats_its_samples(weak):
    texts = [f"{topic} explained" for topic in TOPICS] * 2
    continuous = {"backend": "continuous"}
    one, other = (rewriters.of(*weak, GREEDY.model_copy(update=more)).ask(texts, 0) for more in ({}, continuous))
    assert one == other and {reply.finish for reply in one} == {"stop", "length"}
    sampled = rewriters.of(*weak, SAMPLED.model_copy(update=continuous))
    assert sampled.ask(texts, 0) == sampled.ask(texts, 0) != sampled.ask(texts, 1)


def test_a_text_that_continuous_batching_gives_up_is_an_error(weak, monkeypatch):
    monkeypatch.setattr(type(weak[0]), "generate_batch", lambda *_, **__: {})
    with pytest.raises(RuntimeError, match="gave up 1 of 1"):
        rewriters.of(*weak, GREEDY.model_copy(update={"backend": "continuous"})).ask(["tea"], 0)


def test_a_server_gets_the_frames_inside_and_its_template_makes_the_frame(weak, tmp_path, monkeypatch):
    settings = SAMPLED.model_copy(update={"backend": "served", "model": "bpo"})
    with fake_api.running() as server:
        api = asking.prepare(server, monkeypatch)
        api.script(reply="echo")
        calls = Calls(tmp_path / "calls.sqlite")
        ask = rewriters.load(settings.model_copy(update={"base_url": api.url}), tmp_path, calls=calls).ask
        first = ask(["why maps"], 0)
        assert first == ask(["why maps"], 0) and first[0].text
        ask(["why maps"], 1)
        sent = api.stats()["bodies"]
    assert len(sent) == 2 and [body["seed"] for body in sent] == [1, 2]
    (message,) = sent[0]["messages"]
    assert sent[0]["temperature"] == 1.2 and sent[0]["top_p"] == 0.95 and sent[0]["max_tokens"] == 20
    tokenizer = weak[1]
    ids = tokenizer.apply_chat_template([message], chat_template=rewriters.CHAT_TEMPLATE, return_dict=False)
    assert ids == tokens.prompt_ids(tokenizer, tokens.framed(tokens.REWRITER_FRAME, "why maps"))


@pytest.mark.parametrize(
    "changed, told",
    [
        ({"backend": "served", "model": "bpo"}, "needs rewriting.model .* and rewriting.base_url"),
        ({"backend": "served", "model": "bpo", "base_url": "http://127.0.0.1:1/v1"}, "a store for its answers"),
        ({"mode": "published"}, "published has no model"),
        ({}, "train the rewriter first"),
    ],
)
def test_what_cannot_be_loaded_says_why(tmp_path, changed, told):
    with pytest.raises(ValueError, match=told):
        rewriters.load(SAMPLED.model_copy(update=changed), tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        rewriters.load(SAMPLED.model_copy(update={"model": str(tmp_path / "nowhere")}), tmp_path)


# Which model


@pytest.fixture
def adapter(tmp_path):
    """A folder of adapters of the shipped base, as peft writes them, that change its texts."""
    peft = pytest.importorskip("peft")
    import torch

    torch.manual_seed(0)
    base = local.network(paths.MINI_MODELS / "weak")
    made = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))
    for name, weight in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    made.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", made


def test_adapters_are_merged_into_their_base(adapter, weak, monkeypatch):
    folder, network = adapter
    settings = GREEDY.model_copy(update={"model": str(folder)})
    merged, tokenizer = rewriters.network_of(str(folder), on_gpu=False)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    expected = made((network, weak[1]), FRAMED[:3], rewriters.decoding_of(GREEDY))
    assert made((merged, tokenizer), FRAMED[:3], rewriters.decoding_of(GREEDY)) == expected != made(weak, FRAMED[:3])
    found = rewriters.facts(settings, folder)
    assert {"sha256 of adapter_model.safetensors", "base's sha256 of model.safetensors"} <= found.keys()
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match="need the package peft: install it with `make training`"):
        rewriters.network_of(str(folder), on_gpu=False)


def test_adapters_of_a_base_that_is_elsewhere_say_so(adapter):
    config = adapter[0] / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text("utf-8")) | {"base_model_name_or_path": "/else/where"}))
    with pytest.raises(OSError, match="adapters of /else/where, .* write where in base_model_name_or_path"):
        rewriters.network_of(str(adapter[0]), on_gpu=False)


def test_the_papers_model_is_asked_for_by_name_as_safetensors_with_its_bases_tokenizer(monkeypatch):
    from bpo_utils.training import setup

    asked = []
    monkeypatch.setattr(local, "network", lambda *given, **more: asked.append((given, more)))
    monkeypatch.setattr(setup, "load_tokenizer", asked.append)
    rewriters.network_of("THUDM/BPO", on_gpu=True)
    pinned = {"revision": "refs/pr/3", "use_safetensors": True}
    assert asked == [(("THUDM/BPO", True), pinned), "meta-llama/Llama-2-7b-chat-hf"]


def test_a_llama_folder_without_its_tokenizer_json_is_refused(tmp_path):
    shutil.copyfile(llama_tokenizer.model_file(), tmp_path / "tokenizer.model")
    for file in ("model.safetensors", "config.json"):
        shutil.copyfile(paths.MINI_MODELS / "weak" / file, tmp_path / file)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer", "legacy": true}')
    with pytest.raises(ValueError, match="lacks Llama's tokenizer.json"):
        rewriters.load(SAMPLED.model_copy(update={"model": str(tmp_path)}), tmp_path)


def test_facts_leave_out_the_batch_size_and_nothing_else():
    model = paths.MINI_MODELS / "weak"
    known = rewriters.facts(SAMPLED, model)
    assert known == rewriters.facts(SAMPLED.model_copy(update={"batch_size": 9}), model)
    names = {f"rewriting.{name}" for name in profile.Rewriting.model_fields} - {"rewriting.batch_size"}
    assert names | {"sha256 of model.safetensors", "sha256 of tokenizer.json"} <= known.keys()
    assert dataclasses.fields(records.Rewrite)[-1].default == ""  # files from before have no outcome
