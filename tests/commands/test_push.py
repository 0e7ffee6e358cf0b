"""`pe-spatial push` and `hf://OWNER/NAME`, against a hub that is a folder."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
import toy_task
from huggingface_hub import ModelCard, errors
from mmengine.registry import MODELS
from safetensors.torch import load_file
from small_checkpoints import SAVE
from test_lora_runs import TINY, backbone, encoder
from toy_task import ToyModel

from pe_spatial import PEBackbone, Predictor
from pe_spatial.commands.shell import run_command
from pe_spatial.common.errors import CheckpointError
from pe_spatial.common.safe_yaml import parse
from pe_spatial.common.tensors import write_tensor_file
from pe_spatial.training.checkpoint import load_checkpoint, read_best, save_checkpoint
from pe_spatial.training.launch import train
from pe_spatial.training.model_card import PIPELINES

NAME = "me/toy"
FILES = ["README.md", "config.yaml", "model.safetensors", "pe_spatial.json"]


class FakeHub:
    """Repositories are folders; `error` is what every call raises."""

    def __init__(self, root):
        self.root = root
        self.error = None
        self.private = {}
        self.commits = []
        self.asked = []

    def create_repo(self, repo_id, repo_type, private, exist_ok):
        if self.error:
            raise self.error
        assert repo_type == "model" and exist_ok
        self.private.setdefault(repo_id, bool(private))

    def repo_info(self, repo_id, repo_type):
        return SimpleNamespace(private=self.private[repo_id])

    def upload_folder(self, repo_id, repo_type, folder_path, commit_message):
        assert repo_id in self.private
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)
        self.commits.append(commit_message)

    def snapshot_download(self, repo_id, revision, allow_patterns):
        if self.error:
            raise self.error
        self.asked.append((repo_id, revision, sorted(allow_patterns)))
        return str(self.root / repo_id)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_token")
    return fake


@pytest.fixture
def picture(finished):
    return finished[0].parent / "images" / "03.png"


def push(*arguments):
    return run_command("push", [str(argument) for argument in arguments])


def boxes(source, picture, **options):
    found = Predictor(source, device="cpu", **options)(picture).pred_instances
    return torch.cat([found.bboxes, found.scores[:, None]], dim=1)


def refused(capsys, *arguments):
    capsys.readouterr()
    assert push(*arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


# --- there and back ---------------------------------------------------------------------------------------------------
def test_a_pushed_model_predicts_the_same_from_the_hub(hub, run, picture, capsys):
    expected = Predictor(run, device="cpu")
    assert push(run, NAME, "--message", "the first") == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"sent to https://huggingface.co/{NAME}"
    assert hub.commits == ["the first"] and hub.private == {NAME: False}
    assert sorted(path.name for path in (hub.root / NAME).iterdir()) == FILES
    shutil.rmtree(run)
    ours = Predictor(f"hf://{NAME}@v1", device="cpu")
    assert hub.asked == [(NAME, "v1", FILES[1:])]
    assert torch.equal(boxes(f"hf://{NAME}", picture), boxes(ours.checkpoint, picture))
    state = expected.model.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in ours.model.state_dict().items())
    assert ours.metainfo == expected.metainfo and ours.classes == ("dark", "bright")
    assert Predictor(Path(f"hf://{NAME}"), device="cpu").checkpoint == ours.checkpoint


def test_the_best_checkpoint_is_taken_and_its_own_numbers_stand_on_the_page(hub, run):
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    score = {record["iter"]: record["toy/score"] for record in records if record["mode"] == "val"}
    best = next(run.glob("best_iter_*.pth"))
    for checkpoint, iteration in ((run, int(best.stem[-1])), (run / "iter_6.pth", 6)):
        assert push(checkpoint, NAME) == 0
        card = ModelCard.load(hub.root / NAME / "README.md")  # the hub's own reader
        (result,) = card.data.eval_results
        assert (result.metric_type, result.metric_value) == ("toy/score", score[iteration])
        assert card.data.license == "apache-2.0" and card.data.library_name == "pe_spatial"
        assert f"after {iteration} iterations" in card.text
        assert f'predictor = Predictor("hf://{NAME}")' in card.text
    weights = load_file(hub.root / NAME / "model.safetensors")
    state = load_checkpoint(run / "iter_6.pth")["state_dict"]
    assert weights.keys() == state.keys() and all(torch.equal(weights[key], state[key]) for key in state)


def test_weights_without_a_validation_have_no_numbers(hub, run, capsys):
    assert push(run / "iter_4.pth", NAME) == 0
    assert "no validation of these weights" in capsys.readouterr().err
    card = ModelCard.load(hub.root / NAME / "README.md")
    assert not card.data.eval_results and "was not evaluated" in card.text


def test_a_dry_run_writes_a_checkpoint_and_sends_nothing(hub, run, tmp_path, picture, capsys):
    hub.error = AssertionError("nothing may be sent")
    folder = tmp_path / "shared"
    assert push(run, NAME, "--dry-run", folder) == 0
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert torch.equal(boxes(folder, picture), boxes(run, picture))
    assert f"--dry-run {folder}: exists and is not empty" in refused(capsys, run, NAME, "--dry-run", folder)
    (folder / "README.md").write_text("my own page\n")
    hub.error = None
    assert push(folder, "me/other") == 0
    assert (hub.root / "me/other/README.md").read_text() == "my own page\n"
    for name in FILES:
        assert (hub.root / "me/other" / name).read_bytes() == (folder / name).read_bytes()


def test_predict_and_eval_take_a_model_of_the_hub(hub, finished, run, picture, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ToyModel, "task", "detection", raising=False)
    assert push(run, NAME) == 0
    assert "pipeline_tag: object-detection" in (hub.root / NAME / "README.md").read_text()
    arguments = ["--input", str(picture), "--device", "cpu", "--threshold", "0"]
    lists = []
    for place, source in (("hub", f"hf://{NAME}"), ("here", str(run))):
        out = tmp_path / "predicted" / place
        assert run_command("predict", ["--checkpoint", source, "--output", str(out), *arguments]) == 0
        lists.append(json.loads((out / "predictions.json").read_text()))
    assert lists[0]["annotations"] == lists[1]["annotations"] != []
    capsys.readouterr()
    assert run_command("eval", [f"hf://{NAME}", "--device", "cpu"]) == 2
    assert "set --output" in capsys.readouterr().err
    data = f"val_dataloader.dataset.data_root={picture.parent}"
    options = ["--device", "cpu", "--output", str(tmp_path / "scores"), data, "experiment_name=hub_eval"]
    assert run_command("eval", [f"hf://{NAME}", *options]) == 0
    card = json.loads((tmp_path / "scores/result.json").read_text())
    assert card["metrics"]["toy/score"] == pytest.approx(read_best(run)["score"])
    assert not (hub.root / NAME / "evaluation").exists()


@pytest.mark.parametrize(("task", "tag"), [(task, PIPELINES[task]) for task in sorted(SAVE)])
def test_models_of_every_task(hub, tmp_path, task, tag):
    checkpoint = SAVE[task](tmp_path / "model.pth")
    assert push(checkpoint, NAME) == 0
    ours, theirs = (Predictor(source, device="cpu") for source in (f"hf://{NAME}", checkpoint))
    state = theirs.model.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in ours.model.state_dict().items())
    assert ours.metainfo == theirs.metainfo
    card = ModelCard.load(hub.root / NAME / "README.md")
    assert card.data.pipeline_tag == tag and task in card.data.tags
    assert all(name in card.text for name in ours.classes)


def test_adapters_are_merged_and_nothing_is_needed_beside(hub, tmp_path):
    images = toy_task.write_images(tmp_path / "images")
    path = toy_task.write_config(tmp_path, images, max_iters=2, val_interval=2, save=2)
    write_tensor_file(encoder(0), tmp_path / "encoder.pt")
    train(toy_task.load(path, tmp_path / "run", backbone(tmp_path), "param_scheduler=null"))
    content = load_checkpoint(tmp_path / "run" / "iter_2.pth")
    for key, tensor in content["state_dict"].items():
        content["state_dict"][key] = tensor + 0.05 if key.endswith(".up") else tensor
    save_checkpoint(content, tmp_path / "adapted.pth")
    expected = boxes(tmp_path / "adapted.pth", images / "03.png")
    assert push(tmp_path / "adapted.pth", NAME) == 0
    (tmp_path / "encoder.pt").unlink()
    official = [str(hub.root / NAME / "model.safetensors"), "--variant", json.dumps(TINY), "--to", "official"]
    assert run_command("convert", ["--output", str(tmp_path / "official.pt"), "--input", *official]) == 0
    weights = torch.load(tmp_path / "official.pt")
    assert weights.keys() == encoder(0).keys()
    PEBackbone(TINY, weights=tmp_path / "official.pt")
    torch.testing.assert_close(boxes(f"hf://{NAME}", images / "03.png"), expected, rtol=1e-5, atol=1e-5)
    assert not any(
        ".lora" in key or key.endswith((".up", ".down")) for key in load_file(hub.root / NAME / "model.safetensors")
    )


def test_the_real_client_finds_a_model_in_its_cache_without_a_network(run, tmp_path, picture, monkeypatch):
    commit, repository = "0" * 40, tmp_path / "cache" / "models--me--toy"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert push(run, NAME, "--dry-run", repository / "snapshots" / commit) == 0
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(boxes(f"hf://{NAME}", picture), boxes(run, picture))
    with pytest.raises(CheckpointError, match=r"hf://me/absent: is not in the cache and cannot be fetched"):
        Predictor("hf://me/absent")


# --- what does not travel ---------------------------------------------------------------------------------------------
def test_nothing_of_this_machine_is_sent(hub, run, picture, tmp_path, monkeypatch, capsys):
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    content = load_checkpoint(run / "iter_6.pth")
    config = json.loads(content["pe_spatial"]["config"])
    account = {"type": "WandbVisBackend", "init_kwargs": {"entity": "secret"}}
    config["visualizer"]["vis_backends"].append(account)
    config["val_dataloader"]["dataset"]["metainfo"] = {"classes": ["~dark", "/"]}
    config["train_dataloader"]["dataset"]["ann_file"] = ["../clients/a.json", "a.json"]
    config["load_from"] = "secret.pth"
    config["experiment_name"] = "secret plan"
    content["pe_spatial"]["config"] = json.dumps(config)
    save_checkpoint(content, run / "iter_6.pth")
    assert "WandbVisBackend" in refused(capsys, run / "iter_6.pth", NAME)
    assert push(run / "iter_6.pth", NAME, "--allow-import", "wandb", "--allow-import", "toy_task") == 0
    printed = capsys.readouterr().out
    assert "val_dataloader.dataset.data_root" in printed and "load_from" in printed
    secrets = (tmp_path, Path.home(), "secret", "clients", config["val_dataloader"]["dataset"]["data_root"])
    for path in (hub.root / NAME).iterdir():
        for secret in secrets:
            assert str(secret).encode() not in path.read_bytes(), (path.name, secret)
    sent = parse((hub.root / NAME / "config.yaml").read_text())
    assert sent["train_dataloader"]["dataset"]["ann_file"] == [None, "a.json"]
    assert sent["val_dataloader"]["dataset"]["metainfo"] == {"classes": ["~dark", "/"]}
    assert "trust=['toy_task'])" in (hub.root / NAME / "README.md").read_text()  # the logger needs none any more
    boxes(f"hf://{NAME}", picture)  # nobody has to trust the service
    assert sent["train_cfg"] == config["train_cfg"] and sent["model"]["type"] == "ToyModel"


def test_a_private_model_is_not_sent_where_all_can_see_it(hub, run, capsys):
    assert push(run, NAME, "--private", "--message", "mine") == 0
    assert hub.private == {NAME: True} and hub.commits == ["mine"]
    hub.private[NAME] = False
    assert "exists and is public, so nothing was sent" in refused(capsys, run, NAME, "--private")
    assert len(hub.commits) == 1


# --- mistakes ---------------------------------------------------------------------------------------------------------
def http(kind, status):
    response = SimpleNamespace(status_code=status, headers={}, request=None, text="")
    error = kind.__new__(kind)
    Exception.__init__(error, "the hub's words\nand more")
    error.response = response
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (http(errors.HfHubHTTPError, 401), "does not accept your token; log in with `hf auth login`"),
        (http(errors.HfHubHTTPError, 403), "your token may not write there"),
        (http(errors.RepositoryNotFoundError, 404), "your token may not write there"),
        (http(errors.HfHubHTTPError, 409), "the hub refuses (HfHubHTTPError: the hub's words)"),
        (ConnectionError("no route"), "the hub cannot be reached (ConnectionError: no route)"),
        (errors.LocalTokenNotFoundError("none"), "you are not logged in"),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_line(hub, run, capsys, error, message):
    hub.error = error
    line = refused(capsys, run, NAME)
    assert line.startswith(f"error: {NAME}: ") and message in line
    assert hub.commits == []


def test_without_a_token_every_refusal_means_that(hub, run, capsys, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    hub.error = http(errors.HfHubHTTPError, 401)
    assert "you are not logged in; log in with `hf auth login`, or set HF_TOKEN" in refused(capsys, run, NAME)


@pytest.mark.parametrize(
    "name", ["toy", "a/b/c", "me/", "/toy", "me/to y", "me/-toy", "me/a..b", "me/toy@v1", "hf://toy"]
)
def test_a_name_that_is_none_is_refused_before_anything_is_loaded(hub, tmp_path, capsys, name):
    assert "write OWNER/NAME" in refused(capsys, tmp_path / "nothing", name)


def test_a_model_that_nothing_predicts_with(hub, run, monkeypatch, capsys):
    monkeypatch.setattr(ToyModel, "task", "alignment", raising=False)
    assert "no writer for ToyModel, a model of alignment" in refused(capsys, run, NAME)


def test_a_run_without_a_checkpoint(hub, tmp_path, capsys):
    assert "the folder has no complete checkpoint" in refused(capsys, tmp_path, NAME)
    assert "no such checkpoint" in refused(capsys, tmp_path / "nothing.pth", NAME)
    assert not hub.private


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (http(errors.GatedRepoError, 403), "its owner asks for consent first: open https://huggingface.co/me/toy"),
        (http(errors.RepositoryNotFoundError, 404), "no such repository, or a private one"),
        (http(errors.RevisionNotFoundError, 404), "has no revision v1"),
        (ConnectionError("no route"), "cannot be fetched (ConnectionError: no route); try again"),
    ],
)
def test_what_cannot_be_fetched(hub, error, message):
    hub.error = error
    with pytest.raises(CheckpointError) as caught:
        Predictor(f"hf://{NAME}@v1")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("address", ["hf://toy", "hf://me/toy@", "hf:///toy", "hf://me/toy/model.safetensors"])
def test_an_address_that_is_none(hub, address):
    with pytest.raises(CheckpointError, match="write (hf://)?OWNER/NAME"):
        Predictor(address)


@pytest.mark.parametrize(
    ("file", "spoil", "message"),
    [
        ("config.yaml", Path.unlink, "config.yaml is missing beside it"),
        ("config.yaml", lambda path: path.write_text("a: [1"), "config.yaml: not YAML"),
        ("config.yaml", lambda path: path.write_text("a: &b [*b]"), "config.yaml: not YAML"),
        ("config.yaml", lambda path: path.write_text("- 1\n"), "not a mapping with a section 'model'"),
        ("pe_spatial.json", Path.unlink, "the folder has no complete checkpoint"),
        (
            "pe_spatial.json",
            lambda path: path.write_text("{}"),
            "its field 'format_version' is missing",
        ),
        ("model.safetensors", Path.unlink, "the folder has no complete checkpoint"),
        ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-5]), "is truncated or corrupt"),
    ],
)
def test_a_damaged_folder_is_named(hub, run, file, spoil, message):
    folder = hub.root / NAME
    assert push(run, NAME, "--dry-run", folder) == 0
    spoil(folder / file)
    is_missing = not (folder / file).exists()
    missing = f"hf://{NAME}: has no model of pe_spatial ({file} missing)"
    for source, expected in ((folder, message), (f"hf://{NAME}", missing if is_missing else message)):
        with pytest.raises(CheckpointError) as caught:
            Predictor(source, device="cpu")
        assert expected in str(caught.value)


def test_files_of_two_models_are_not_taken_for_one(run, tmp_path):
    for name, source in (("a", run / "iter_6.pth"), ("b", run / "iter_4.pth")):
        assert push(source, NAME, "--dry-run", tmp_path / name) == 0
    shutil.copy(tmp_path / "a/model.safetensors", tmp_path / "b")
    with pytest.raises(CheckpointError, match="damaged"):
        Predictor(tmp_path / "b")


class ModelWithAFile(ToyModel):
    """Needs a file beside its checkpoint."""

    def __init__(self, words, **options):
        super().__init__(**options)
        self.words = Path(words).read_text()


def test_a_model_that_needs_more_than_what_is_sent_is_not_sent(hub, run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(MODELS.module_dict, "ModelWithAFile", ModelWithAFile)
    (tmp_path / "words.txt").write_text("words")
    content = load_checkpoint(run / "iter_6.pth")
    config = json.loads(content["pe_spatial"]["config"])
    config["model"] |= {"type": "ModelWithAFile", "words": str(tmp_path / "words.txt")}
    content["pe_spatial"]["config"] = json.dumps(config)
    save_checkpoint(content, run / "iter_6.pth")
    arguments = (run / "iter_6.pth", NAME, "--allow-import", __name__)
    assert "cannot be shared, because it does not load elsewhere" in refused(capsys, *arguments)
    assert not hub.private
