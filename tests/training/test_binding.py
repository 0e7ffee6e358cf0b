import pytest
from mmengine.config import Config

from pe_spatial.commands.shell import run_command
from pe_spatial.common.errors import ConfigError
from pe_spatial.training.binding import count_classes
from pe_spatial.training.config import load_config
from pe_spatial.training.launch import evaluate, train

LOADERS = ("train_dataloader",)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    run_command(
        "demo", ["--output", str(folder / "data"), "--images", "6", "--image-size", "32", "--formats", "labels"]
    )
    return folder / "data"


def config_of(data, *changes):
    roots = [f"{split}_dataloader.dataset.data_root={data}" for split in ("train", "val")]
    return load_config("demo/seg_linear_tiny_random.yaml", [*roots, *changes])


def test_a_model_without_a_number_of_classes_takes_that_of_its_data(data, tmp_path):
    short = ["train_cfg.max_iters=1", "train_cfg.val_interval=1", "train_dataloader.batch_size=2", "param_scheduler=[]"]
    config = config_of(data, "model.num_classes=null", "model.backbone.variant.depth=1", *short)
    config.work_dir = str(tmp_path / "run")
    runner = train(config)
    assert runner.model.decode_head.num_classes == 5
    again = config_of(data, "model.num_classes=null", "model.backbone.variant.depth=1")
    again.work_dir = config.work_dir
    assert 0 <= evaluate(again)["seg/mIoU"] <= 100
    assert again.model.num_classes == 5


def test_a_number_that_is_given_stays(data):
    config = config_of(data, "model.num_classes=7")
    count_classes(config, LOADERS)
    assert config.model.num_classes == 7


def test_data_without_classes_are_named(data):
    dataset = {"type": "ImageFolder", "source": str(data / "images" / "train"), "pipeline": []}
    config = Config({"model": {"num_classes": None}, "train_dataloader": {"dataset": dataset}})
    with pytest.raises(ConfigError, match="ImageFolder does not know its classes; set model.num_classes"):
        count_classes(config, LOADERS)
