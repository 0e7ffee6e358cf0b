import csv
import json

import pytest
import torch
from mmengine.registry import DATASETS, MODELS
from PIL import Image
from small_checkpoints import tracked_dataset, tracker_config
from test_track import root  # noqa: F401 (a fixture)

from pe_spatial.commands import sweep as sweep_layers
from pe_spatial.commands.shell import run_command
from pe_spatial.tracking.metrics import JFMetric
from pe_spatial.training.config import load_config


def run(root, out, *arguments):  # noqa: F811
    return run_command(
        "sweep", ["--config", str(root / "tiny.yaml"), "--output", str(out), "--device", "cpu", *arguments]
    )


def rows(out):
    with (out / "table.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_layer_scores_as_it_does_alone(root, tmp_path, drawn_charts):  # noqa: F811
    assert run(root, tmp_path / "out") == 0
    table = {int(row["layer"]): float(row["J&F"]) for row in rows(tmp_path / "out")}
    assert table.keys() == {0, 1}
    for layer, expected in table.items():
        config = load_config(root / "tiny.yaml", [f"model.backbone.layers=[{layer}]"])
        torch.manual_seed(0)
        tracker, dataset, metric = (
            MODELS.build(config.model),
            DATASETS.build(config.test_dataloader.dataset),
            JFMetric(),
        )
        for sample in (dataset[n] for n in range(len(dataset))):
            done = tracker.test_step({"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"]]})
            metric.process(None, [item.to_dict() for item in done])
        assert metric.compute_metrics(metric.results)["J&F"] == pytest.approx(expected, abs=2e-3)
    assert Image.open(tmp_path / "out/plot.png").size[0] > 600


def test_variations_are_compared_in_one_table_and_go_on_after_an_interruption(root, tmp_path, monkeypatch):  # noqa: F811
    vary = ("--layers", "-1", "--vary", "model.backbone.rope=extrapolate,interpolate")
    evaluated = []
    evaluate = sweep_layers.evaluate

    def once(task, config, options, setting):
        if len(evaluated) == 1:
            raise KeyboardInterrupt
        evaluated.append(setting)
        return evaluate(task, config, options, setting)

    with monkeypatch.context() as patch:
        patch.setattr(sweep_layers, "evaluate", once)
        assert run(root, tmp_path / "out", *vary) == 130
    monkeypatch.setattr(sweep_layers, "evaluate", lambda *a: evaluated.append(a[-1]) or evaluate(*a))
    assert run(root, tmp_path / "out", *vary) == 0
    assert [item["model.backbone.rope"] for item in evaluated] == ["extrapolate", "interpolate"]
    table = rows(tmp_path / "out")
    assert [row["model.backbone.rope"] for row in table] == ["extrapolate", "interpolate"]
    assert table[0]["J&F"] != table[1]["J&F"] and {row["layer"] for row in table} == {"1"}
    assert (tmp_path / "out/table.md").read_text().startswith("| rope | layer | J&F |")


def test_another_sweep_in_the_folder_and_wrong_layers_are_refused(root, tmp_path, capsys):  # noqa: F811
    (tmp_path / "sweep.json").write_text(json.dumps({"results": {}, "config": "other"}))
    assert run(root, tmp_path) == 2
    assert "another sweep" in capsys.readouterr().err
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/mine.txt").write_text("")
    assert run(root, tmp_path / "notes") == 2
    assert run(root, tmp_path / "new", "--layers", "0,9") == 2
    assert "block 9 does not exist" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        run(root, tmp_path / "new", "--layers", "first")
    assert "--layers: 'first'" in capsys.readouterr().err


def test_a_config_without_a_sweep_is_named(root, tmp_path, capsys):  # noqa: F811
    (tmp_path / "other.yaml").write_text(
        tracker_config().replace("imports: [pe_spatial.tracking]", "imports: [json]") + tracked_dataset(".")
    )
    assert run_command("sweep", ["--config", str(tmp_path / "other.yaml"), "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "images", "metric"),
    [
        ("demo/depth_linear_tiny_shapes.yaml", "depth", "depth/rmse"),
        ("demo/seg_linear_tiny_random.yaml", "labels", "seg/mIoU"),
    ],
)
def test_probes_of_all_layers_are_trained_from_one_command(tmp_path, capsys, config, images, metric):
    data = tmp_path / "data"
    run_command("demo", ["--output", str(data), "--images", "6", "--image-size", "32", "--formats", images])
    changes = [f"{split}_dataloader.dataset.data_root={data}" for split in ("train", "val")]
    changes += ["model.backbone.frozen=true", "model.backbone.variant.depth=2", "train_cfg.max_iters=3"]
    changes += ["train_dataloader.batch_size=2", "param_scheduler=[]"]
    out = tmp_path / "out"
    assert run_command("sweep", ["--config", config, "--output", str(out), *changes]) == 0
    table = rows(out)
    assert [row["layer"] for row in table] == ["0", "1"]
    assert all(float(row[metric]) > 0 for row in table)
    assert Image.open(out / "plot.png").size[0] > 600
    refused = ["--config", config, "--output", str(tmp_path / "other"), "model.backbone.frozen=false", *changes[:2]]
    assert run_command("sweep", refused) == 2
    assert "frozen: true" in capsys.readouterr().err
