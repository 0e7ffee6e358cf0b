"""The authors' DETA checkpoints: every key has its place, classes find theirs, and starting from another checkpoint."""

import json

import pytest
import torch
from mmengine.registry import MODELS

from pe_spatial.commands.benchmark.fidelity import GOLDEN
from pe_spatial.commands.benchmark.fidelity.deta import official_weights
from pe_spatial.commands.benchmark.fidelity.rule import ENCODER
from pe_spatial.commands.shell import run_command
from pe_spatial.common.errors import CheckpointError, ConfigError
from pe_spatial.common.tensors import WeightsError
from pe_spatial.detection.deta.conversion import from_authors, is_deta
from pe_spatial.detection.deta.start import compare_sizes, drop_parts
from pe_spatial.inference.predictor import Predictor
from pe_spatial.training.config import load_config

COCO = [*range(1, 12), *range(13, 26), 27, 28, *range(31, 45), *range(46, 66), 67, 70, *range(72, 83), *range(84, 91)]
RECIPE = "deta_pe_spatial_g_coco_3ep_1824px.yaml"


def on_meta(name):
    shapes = json.loads((GOLDEN / "keys" / name).read_text())
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def build_on_meta(config):
    config.model.backbone.weights = None
    with torch.device("meta"):
        return MODELS.build(config.model)


def test_every_key_of_the_released_checkpoint_is_accounted_for():
    assert len(COCO) == 80
    theirs = on_meta("deta_coco_1824pix.json")
    ours, dropped = from_authors(theirs, COCO)
    expected = build_on_meta(load_config(RECIPE)).state_dict()
    assert {key: tensor.shape for key, tensor in ours.items()} == {key: t.shape for key, t in expected.items()}
    assert len(ours) + len(dropped) == len(theirs)
    assert {reason.split(",")[0] for reason in dropped.values()} == {"rotary tables", "second name of a head"}
    heads = [key for key in dropped if "freqs" not in key]
    assert len(heads) == 7 * (2 + 6)  # decoder layers and encoder: a class head of 2 tensors, a box head of 6
    assert is_deta(list(theirs)) and not is_deta(list(ours))


def test_columns_follow_the_category_ids():
    weights = official_weights(GOLDEN)
    ours, _ = from_authors(weights, [3, 7, 90])
    for layer in range(2):
        expected = weights[f"class_embed.{layer}.weight"][[3, 7, 90]]
        assert torch.equal(ours[f"transformer.class_embed.{layer}.weight"], expected)
    # objectness stays in the first place
    assert torch.equal(ours["transformer.class_embed.2.bias"], weights["class_embed.2.bias"][[0, 7, 90]])
    whole, _ = from_authors(weights)
    assert torch.equal(whole["transformer.class_embed.0.bias"], weights["class_embed.0.bias"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transformer.reference_points.weight": torch.zeros(2, 2)}, None),
        ({"query_embed.weight": torch.zeros(2, 2)}, "1 keys cannot be converted .query_embed.weight"),
        ({"transformer.decoder.class_embed.0.bias": torch.ones(91)}, "differs from class_embed.0.bias"),
    ],
)
def test_other_checkpoints_are_refused(change, message):
    weights = {**official_weights(GOLDEN), **change}
    if message is None:  # named like a part of the transformer: left to the strict load
        assert set(change) <= set(from_authors(weights)[0])
        return
    with pytest.raises(WeightsError, match=message):
        from_authors(weights)


def test_category_ids_beyond_the_heads():
    with pytest.raises(WeightsError, match=r"91 columns.* ids 1 to 365 of 365 classes"):
        from_authors(official_weights(GOLDEN), range(1, 366))


# --- the tool ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def small_recipe(tmp_path):
    """A config of the golden model with three of COCO's classes."""
    categories = [{"id": number, "name": name} for number, name in ((3, "car"), (7, "train"), (90, "brush"))]
    (tmp_path / "classes.json").write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    base = GOLDEN.parents[1] / "configs" / "demo" / "deta_tiny_shapes.yaml"
    path = tmp_path / "golden.yaml"
    path.write_text(
        f"_base_: [{base}]\n"
        "model:\n"
        "  num_classes: 3\n"
        f"  backbone: {{variant: {json.dumps(ENCODER)}, window: 8, global_blocks: [1, 3], rope: 16, pos_embed: tile}}\n"
        "  neck: {out_channels: 256, levels: 5}\n"
        "  data_preprocessor: {pad_to: [256, 256]}\n"
        "  transformer: {num_queries: 100, anchor_size: 0.05, layer: {heads: 8, points: 4, ffn_channels: 128}}\n"
        f"train_dataloader: {{dataset: {{data_root: {tmp_path}, ann_file: classes.json}}}}\n"
        "val_dataloader: {dataset: {pipeline: [{type: LoadImage}, "
        "{type: torchvision.transforms.v2.Resize, size: null, max_size: 256}, {type: PackSample}]}}\n"
    )
    return path


def test_a_converted_checkpoint_predicts(small_recipe, tmp_path, capsys):
    source, target = tmp_path / "authors.pth", tmp_path / "ours.pth"
    torch.save({"model": official_weights(GOLDEN), "epoch": 2}, source)
    assert (
        run_command(
            "convert",
            ["--input", str(source), "--output", str(target), "--to", "pe_spatial", "--config", str(small_recipe)],
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "Read a DETA of" in printed and "second name of a head" in printed and "3 categories" in printed
    predictor = Predictor(target, device="cpu")
    assert predictor.classes == ("car", "train", "brush")
    found = predictor(torch.randint(0, 256, (3, 60, 80), dtype=torch.uint8)).pred_instances
    assert len(found) > 0 and found.bboxes.isfinite().all()


def test_a_config_of_another_model(tmp_path, capsys):
    source = tmp_path / "authors.pth"
    torch.save({"model": official_weights(GOLDEN)}, source)
    options = ["--to", "pe_spatial", "--config", RECIPE]
    assert run_command("convert", ["--input", str(source), "--output", str(tmp_path / "ours.pth"), *options]) == 2
    assert "does not fit the model" in capsys.readouterr().err


# --- starting from another number of classes or levels ----------------------------------------------------------------
def demo_on_meta(*overrides):
    return build_on_meta(load_config("demo/deta_tiny_shapes.yaml", overrides))


def test_another_number_of_classes_offers_new_heads_by_name():
    model, state = demo_on_meta(), demo_on_meta("model.num_classes=5").state_dict()
    with pytest.raises(CheckpointError, match=r"a.pth has 5 classes, the model 3; .*reinitialize=\[class_embed\]"):
        compare_sizes(model, state, "a.pth", starts=True)
    with pytest.raises(CheckpointError, match=r"the model 3; set model.num_classes=5"):
        compare_sizes(model, state, "a.pth", starts=False)  # what is not trained cannot be scored
    dropped = drop_parts(model, state, ["class_embed"])
    assert len(dropped) == 3 * 2  # two decoder layers and the encoder
    compare_sizes(model, state, "a.pth", starts=True)


def test_another_number_of_levels_has_no_such_offer():
    model, state = demo_on_meta(), demo_on_meta("model.neck.levels=3").state_dict()
    with pytest.raises(CheckpointError, match=r"3 feature levels, the model 4; set model.neck.levels=3"):
        compare_sizes(model, state, "a.pth", starts=True)


def test_a_part_that_does_not_exist():
    model = demo_on_meta()
    with pytest.raises(ConfigError, match=r"no part 'class_embeds'; did you mean 'class_embed'"):
        drop_parts(model, model.state_dict(), ["class_embeds"])
