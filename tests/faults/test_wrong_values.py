"""Values of wrong kinds, in configs and options: refused with the rule and status 2, before anything is made."""

import pytest
from mmengine.config import Config
from small_runs import CONFIG, overrides, write_strips

from pe_spatial.commands.shell import run_command
from pe_spatial.common.devices import choose_device
from pe_spatial.common.errors import ConfigError, UserError
from pe_spatial.training.config import load_config
from pe_spatial.training.config_values import value_problem

WRONG = [
    ("train_cfg.max_iters=abc", "'abc' is not an integer"),
    ("train_cfg.max_iters=1.5", "1.5 is not an integer"),
    ("train_cfg.max_iters=.nan", "nan is not an integer"),
    ("train_cfg.max_iters=.inf", "inf is not an integer"),
    ("train_cfg.max_iters=-5", "-5 is not from 1 to"),
    ("train_cfg.max_iters=0", "0 is not from 1 to"),
    ("train_cfg.max_iters=true", "True is not an integer"),
    ("train_cfg.max_iters=[5]", "is not an integer"),
    ("train_cfg.val_interval=often", "is not an integer"),
    ("optim_wrapper.optimizer.lr=abc", "'abc' is not a number"),
    ("optim_wrapper.optimizer.lr=.nan", "nan is not a number"),
    ("optim_wrapper.optimizer.lr=.inf", "inf is not from 0 to"),
    ("optim_wrapper.optimizer.lr=-1", "-1 is not from 0 to"),
    ("optim_wrapper.optimizer.betas=0.9", "is not a list of 2"),
    ("optim_wrapper.optimizer.betas=[0.9]", "is not a list of 2"),
    ("optim_wrapper.optimizer.betas=[0.9, a]", "is not a list of 2"),
    ("optim_wrapper.accumulative_counts=0", "0 is not from 1 to"),
    ("optim_wrapper.clip_grad.max_norm=abc", "'abc' is not a number"),
    ("optim_wrapper.paramwise_cfg.layer_decay=abc", "'abc' is not a number"),
    ("train_dataloader.batch_size=0", "0 is not from 1 to"),
    ("train_dataloader.batch_size=1e30", "is not from 1 to"),
    ("train_dataloader.batch_size=two", "'two' is not an integer"),
    ("train_dataloader.num_workers=-1", "-1 is not from 0 to"),
    ("train_dataloader.pin_memory=perhaps", "'perhaps' is not true or false"),
    ("train_dataloader.dataset.data_root=5", "5 is not a text"),
    ("train_dataloader.dataset.test_mode=abc", "is not true or false"),
    ("train_dataloader.dataset.pipeline=abc", "is not a list"),
    ("param_scheduler.0.start_factor=abc", "is not a number"),
    ("param_scheduler.0.by_epoch=abc", "is not true or false"),
    ("model.num_classes=abc", "is not an integer"),
    ("model.data_preprocessor.mean=abc", "is not a list, each a number"),
    ("model.data_preprocessor.mean=[a, b, c]", "is not a list, each a number"),
    ("default_hooks.checkpoint.interval=abc", "'abc' is not an integer"),
    ("default_hooks.checkpoint.rule=big", "'big' is not one of greater, less"),
    ("default_hooks.logger.interval=1.5", "1.5 is not an integer"),
    ("randomness.seed=abc", "'abc' is not an integer"),
    ("randomness.seed=-1", "-1 is not from 0"),
    ("load_from=3", "3 is not a text"),
    ("resume=maybe", "'maybe' is not true or false"),
    ("custom_hooks=abc", "is not a list"),
    ("default_scope=3", "3 is not text"),
    ("custom_imports.imports=5", "write .imports: .my_package.., a list of names"),
    ("env_cfg.cudnn_benchmark=abc", "is not true or false"),
    ("env_cfg.dist_cfg.timeout=abc", "is not a number"),
    ("log_level=LOUD", "is not an integer or one of DEBUG"),
    ("sync_bn=perhaps", "one of torch, mmcv"),
    ("find_unused_parameters=perhaps", "is not true or false"),
    ("work_dir=5", "5 is not a text"),
    ("train_cfg.max_iters=null", "None is not an integer"),
    ("train_cfg.max_iters=", "None is not an integer"),
    ("train_cfg.max_iters=2020-01-01", "'2020-01-01' is not an integer"),
    ("train_cfg.type=Nope", "nothing called 'Nope' is registered"),
    ("optim_wrapper.optimizer.lr=null", "None is not a number"),
    ("optim_wrapper.optimizer.lr=" + "1" * 400, "111 is too large"),
    ("optim_wrapper.optimizer=null", "None is not a section with a type"),
    ("optim_wrapper.clip_grad.max_norm=-1", "-1 is not from 0 to"),
    ("optim_wrapper.clip_grad={norm: 1}", "clip_grad has no option 'norm'"),
    ("optim_wrapper.constructor=Nope", "nothing called 'Nope' is registered"),
    ("param_scheduler={}", "{} is not a section with a type"),
    ("param_scheduler=[5]", "param_scheduler.0: 5 is not a section with a type"),
    ("param_scheduler=[{begin: 5}]", "is not a section with a type"),
    ("train_dataloader.dataset=null", "None is not a section with a type"),
    ("train_dataloader.dataset.type=5", "5 is not the name of a class"),
    ("train_dataloader.dataset.data_prefix={img_path: 5}", "is not a section or null"),
    ("train_dataloader.dataset.pipeline=[5]", "pipeline.0: 5 is not a section with a type"),
    ("train_dataloader.dataset.pipeline=[[]]", "is not a section with a type"),
    ("train_dataloader.dataset.pipeline.0=null", "None is not a section with a type"),
    ("train_dataloader.dataset.pipeline.0.type=", "None is not the name of a class"),
    ("model=null", "None is not a section with a type"),
    ("model.type=[]", "is not the name of a class|not a list"),
    ("model.data_preprocessor=null", "None is not a section with a type"),
    ("custom_hooks=[{}]", "{} is not a section with a type"),
    ("custom_hooks=!!set {a}", "the value is not YAML"),
    ("experiment_name=!!binary aGVsbG8=", "the value is not YAML"),
    ("experiment_name=5", "5 is not a text"),
    ("env_cfg=null", "None is not a section"),
    ("env_cfg.resource_limit=x", "'x' is not an integer"),
    ("env_cfg.mp_cfg.opencv_num_threads=x", "'x' is not an integer"),
    ("randomness=null", "None is not a section"),
    ("auto_scale_lr={base_batch_size: 0, enable: true}", "0 is not from 1 to"),
    ("modle.x=5", "there is no modle"),
    ("max_iters=5", "did you mean|there is no max_iters"),
    ("model=5", "is a section with the keys"),
    ("train_dataloader=5", "is a section with the keys"),
]


@pytest.mark.parametrize(("override", "message"), WRONG, ids=[override for override, _ in WRONG])
def test_a_value_of_the_wrong_kind_is_refused_with_the_rule(override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(CONFIG, [override])
    assert len(str(caught.value).splitlines()) == 1
    assert override.partition("=")[0].split(".")[0] in str(caught.value)


@pytest.mark.parametrize("override", ["train_cfg.max_iters=abc", "optim_wrapper.optimizer.lr=abc", "modle.x=5"])
@pytest.mark.parametrize("command", ["train", "check"])
def test_the_commands_end_with_2_before_any_work(command, override, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_command(command, ["--config", CONFIG, override]) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1 and override.partition("=")[0] in said
    assert not list(tmp_path.iterdir())


TAKEN = [
    "train_cfg.max_iters=9e4",
    "optim_wrapper.optimizer.lr=1",
    "optim_wrapper.optimizer.betas=[0.9, 0.95]",
    "optim_wrapper.optimizer.foreach=null",
    "optim_wrapper.clip_grad.max_norm=.inf",
    "randomness.seed=null",
    "default_hooks.checkpoint.best=null",
    "train_dataloader.dataset.indices=[1, 2]",
    "train_dataloader.dataset.indices=3",
    "compile={mode: default}",
    "log_level=10",
    "custom_imports.imports=pe_spatial.detection",
]


@pytest.mark.parametrize("override", TAKEN)
def test_what_works_is_taken(override):
    assert isinstance(load_config(CONFIG, [override]), Config)


def test_whole_numbers_become_integers_and_dates_stay_text():
    changes = ["train_dataloader.num_workers=2e0", "train_dataloader.prefetch_factor=1e1", "experiment_name=2020-01-01"]
    config = load_config(CONFIG, [*changes, "optim_wrapper.optimizer.lr=1"])
    assert type(config.train_dataloader.num_workers) is int and type(config.train_dataloader.prefetch_factor) is int
    assert config.experiment_name == "2020-01-01"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("custom_hooks=[{type: EMAHook, momentum: 5}]", "momentum must be in range"),
        ("custom_hooks=[{type: EMAHook, ema_type: Nope}]", "Nope is not in the mmengine::model registry"),
        ("activation_checkpointing=nope", "has no attribute 'nope'"),
        ("model.backbone=null", "None is not a section"),
        ("train_dataloader.dataset.indices=[99]", "indices [99] must all be positions among its 4 records"),
        ("train_dataloader.dataset.pipeline=[{type: LoadImage}]", "no inputs: their pipeline must end with PackSample"),
    ],
)
def test_what_only_the_builders_know_ends_with_2_too(override, message, tmp_path, capsys):
    write_strips(tmp_path / "data")
    changes = [*overrides(tmp_path / "data", iterations=1), f"experiment_name=wrong-{abs(hash(override))}", override]
    command = ["--config", CONFIG, "--output", str(tmp_path / "out"), "--device", "cpu", *changes]
    assert run_command("train", command) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line


def test_an_annotation_that_cannot_be_told_refuses_nothing():
    def function(a: "NoSuchName", b, c=None, d="auto", e=3, f=True, *, g: object = 1):  # noqa: F821
        pass

    for name in "abcdg":
        for value in ("text", 3, -1.5, [1], {"x": 1}, True, None):
            assert value_problem(function, name, value) == ""
    assert value_problem(function, "e", "text") == "'text' is not an integer"
    assert value_problem(function, "f", "text") == "'text' is not true or false"
    assert value_problem(function, "e", [1]) == value_problem(function, "f", 1) == ""


WHERE = ["--checkpoint", "model.pth", "--input", "photos", "--output", "out"]
OPTIONS = [
    ("predict", [*WHERE, "--limit", "-1"], "-1 is too small; give 1 or more"),
    ("predict", [*WHERE, "--limit", "0"], "0 is too small"),
    ("predict", [*WHERE, "--limit", "many"], "'many' is not an integer"),
    ("predict", [*WHERE, "--limit", "1e3"], "'1e3' is not an integer"),
    ("predict", [*WHERE, "--batch-size", "99999999999999999999"], "is too large"),
    ("predict", [*WHERE, "--image-size", "nan"], "'nan' is not an integer"),
    ("predict", [*WHERE, "--device", "gpuu"], "'gpuu' is not a device; write cpu, cuda or cuda:1"),
    ("predict", [*WHERE, "--device", "cuda:-1"], "is not a device"),
    ("predict", [*WHERE, "--device", ""], "is not a device"),
    ("predict", [*WHERE, "--shard", "0/3"], "is not I/N"),
    ("predict", [*WHERE, "--shard", "4/3"], "is not I/N"),
    ("predict", [*WHERE, "--threshold", "high"], "invalid float value"),
    ("predict", [*WHERE, "--window", "-5", "3"], "-5 is too small"),
    ("predict", [*WHERE, "--window", "5", "0"], "0 is too small"),
    ("predict", [*WHERE, "--depth-colors", "nan", "3"], "nan is too small"),
    ("predict", [*WHERE, "--depth-colors", "1", "inf"], "inf is too large"),
    ("train", ["--config", CONFIG, "--device", "gpuu"], "is not a device"),
    ("eval", ["run", "--device", "gpuu"], "is not a device"),
    ("track", ["--config", "a", "--output", "b", "--limit", "-1"], "too small"),
    ("track", ["--config", "a", "--output", "b", "--input", "c", "--box", "nan,1,2,3"], "write X1,Y1,X2,Y2"),
    ("track", ["--config", "a", "--output", "b", "--input", "c", "--point", "inf,1"], "write X,Y"),
    ("visualize", ["--encoder", "a", "--input", "b", "--output", "c", "--layers", "99999999999"], "write all, or"),
    ("demo", ["--output", "b", "--images", "0"], "too small"),
    ("check", ["--config", CONFIG, "--threads", "-2"], "too small"),
]


@pytest.mark.parametrize(("command", "arguments", "message"), OPTIONS)
def test_an_option_of_the_wrong_kind_ends_with_2_before_any_work(
    command, arguments, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        run_command(command, arguments)
    assert caught.value.code == 2
    said = capsys.readouterr().err.strip()
    assert message in said and len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("device", ["gpuu", "meta", "cuda:99", ""])
def test_a_device_that_is_not_there_is_a_mistake(device):
    with pytest.raises(UserError, match="device"):
        choose_device(device)
