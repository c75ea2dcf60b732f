"""A finished model to the Hub: against a local server that speaks its protocol, by Xet and by Git LFS."""

import os
import random

import fake_hub
import pytest

from bpo_utils.training import output

TOKEN, NAME = "hf_OnlyInTheHeader", "a-student/bpo-rewriter"
CARD = "---\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n\n# Rewriter\n"
FILES = {
    "model.safetensors": random.Random(1).randbytes(300_000),  # several chunks of Xet
    "config.json": b'{"model_type": "llama"}',
    "generation_config.json": b"{}",
    "tokenizer.json": '{"piece": "▁改写"}'.encode(),
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "training.json": b'{"settings": {}}',
    "README.md": CARD.encode(),
}


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "03_training" / "model"
    folder.mkdir(parents=True)
    for name, raw in FILES.items():
        (folder / name).write_bytes(raw)
    return folder


@pytest.fixture(params=["xet", "lfs"])
def hub(request, tmp_path, monkeypatch):
    """A Hub for this test, which its client finds where the real one would be. What it has sent stays unknown to it."""
    from huggingface_hub.utils import _xet

    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))  # where hf_xet keeps what it has sent, and its log
    if request.param == "xet":
        pytest.importorskip("hf_xet")  # huggingface_hub installs it where there is a build of it
    with fake_hub.running(TOKEN) as server:
        server.xet = request.param == "xet"
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # the server is on this machine
        # As the variable HF_HUB_DISABLE_XET does, which is read once; an installation without hf_xet goes this way.
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", not server.xet)
        _xet.abort_xet_session()  # the next one reads HF_HOME
        yield server
    _xet.abort_xet_session()


def test_every_file_arrives_byte_for_byte_in_a_private_repository(hub, model):
    assert output.push(model, NAME) == f"{hub.url}/{NAME}/commit/{1:040x}"
    assert hub.repos[NAME].private and hub.repos[NAME].files == FILES
    assert hub.repos[NAME].commits == ["Upload a rewriter trained with BPO"]
    large = {"xet_token", "xorb", "shard"} if hub.xet else {"batch", "put", "verify"}
    assert set(hub.parts) - {"validate", "chunk"} == large | {"create", "preupload", "commit"}


def test_the_token_goes_into_the_header_and_nowhere_else(hub, model, capfd):
    output.push(model, NAME)
    sent = {authorization for _, _, authorization in hub.requests}
    assert f"Bearer {TOKEN}" in sent <= {f"Bearer {TOKEN}", f"Bearer {fake_hub.XET_TOKEN}", ""}
    assert not [path for _, path, _ in hub.requests if TOKEN in path]
    assert not [name for name, raw in hub.repos[NAME].files.items() if TOKEN.encode() in raw]
    hub.refusals = {"commit": 403}
    (model / "config.json").write_text("{}")
    with pytest.raises(PermissionError) as refused:
        output.push(model, NAME)
    out, err = capfd.readouterr()
    assert TOKEN not in f"{out}{err}{refused.value}{refused.value.__cause__}"


def test_an_existing_repository_gets_another_commit_and_stays_as_public_as_it_was(hub, model):
    hub.repos[NAME] = fake_hub.Repo(private=False, files={"model.safetensors": b"old", "notes.md": b"kept"})
    output.push(model, NAME)
    assert hub.repos[NAME].files == FILES | {"notes.md": b"kept"} and not hub.repos[NAME].private


def test_the_same_model_again_makes_no_commit(hub, model):
    output.push(model, NAME)
    output.push(model, NAME)
    assert len(hub.repos[NAME].commits) == 1


def test_only_the_models_own_files_go(hub, model):
    strays = [
        "optimizer.pt",
        "training_args.bin",
        ".config.json.tmp",
        ".hidden.json",
        "checkpoints/checkpoint-3/a.json",
    ]
    for name in [*strays, "global_step3/state.safetensors"]:
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_bytes(b"x")
    (model.parent / "log.jsonl").write_text("{}")
    adapter = {
        "adapter/adapter_model.safetensors": FILES["model.safetensors"][:9000],
        "adapter/adapter_config.json": b"{}",
    }
    (model / "adapter").mkdir()
    for name, raw in adapter.items():
        (model / name).write_bytes(raw)
    output.push(model, NAME)
    assert hub.repos[NAME].files == FILES | adapter


def test_a_folder_without_a_finished_model_is_refused_before_anybody_is_asked(hub, model):
    with pytest.raises(FileNotFoundError, match=r"03_training holds no finished model \(config.json and training.json"):
        output.push(model.parent, NAME)
    (model / "training.json").unlink()  # a model of somebody else, or one that was being written
    with pytest.raises(FileNotFoundError, match="model holds no finished model"):
        output.push(model, NAME)
    assert not hub.requests


WHAT_TO_DO = (
    r"`hf auth login`, or HF_TOKEN\), or set push_to .*The model stays in .*model, and the same training command"
)


@pytest.mark.parametrize("token", ["hf_wrong", ""])
def test_a_refused_or_missing_token_is_one_clear_error(hub, model, monkeypatch, tmp_path, token):
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(PermissionError, match=rf"the Hub refused to take {NAME} \(.*401 .*{WHAT_TO_DO}"):
        output.push(model, NAME)
    assert not hub.repos


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_without_the_right_is_one_clear_error_wherever_it_comes(hub, model, status):
    for part in ("create", "preupload", "xet_token" if hub.xet else "batch", "commit"):
        hub.refusals = {part: status}
        with pytest.raises(PermissionError, match=rf"the Hub refused to take {NAME} \(.*{status} .*{WHAT_TO_DO}"):
            output.push(model, NAME)
        assert hub.parts[-1] in (part, "info")  # create_repo then asks whether the repository is there already


def test_a_name_that_the_hub_cannot_have_is_named(hub, model):
    with pytest.raises(ValueError, match="a//b"):
        output.push(model, "a//b")


def test_a_failing_hub_is_one_clear_error(hub, model):
    hub.refusals = {"create": 500}
    with pytest.raises(
        ConnectionError, match=rf"could not upload {NAME} to the Hub \(HfHubHTTPError: .*500.*The model"
    ):
        output.push(model, NAME)


def test_an_upload_that_storage_refuses_says_why(hub, model):
    hub.refusals = {"put": 403, "xorb": 400}
    with pytest.raises(OSError, match=rf"{NAME} .*(403|400) .*The model stays in"):
        output.push(model, NAME)
    assert not hub.repos[NAME].commits


def test_offline_and_unreachable_hubs_are_one_clear_error(hub, model, monkeypatch):
    hub.shutdown()
    hub.server_close()
    with pytest.raises(
        ConnectionError, match=rf"could not upload {NAME} to the Hub \(ConnectError: .*Check the network"
    ):
        output.push(model, NAME)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=r"OfflineModeIsEnabled: .*that HF_HUB_OFFLINE is not set"):
        output.push(model, NAME)


def test_tests_reach_no_hub_by_themselves(model):
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    with pytest.raises(ConnectionError, match="OfflineModeIsEnabled"):
        output.push(model, NAME)
