"""Detectron2 checkpoints: every key accounted for, nothing lost there and back; and the command line tool."""

import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS

import pe_spatial.detection  # noqa: F401 - registers the detector
from pe_spatial.backbones import VARIANTS, EncoderConfig
from pe_spatial.backbones.weights import load_state_dict
from pe_spatial.backbones.weights.loading import expected_shapes
from pe_spatial.commands.shell import run_command
from pe_spatial.common.tensors import WeightsError, read_tensor_file
from pe_spatial.detection.conversion import RotaryGeometry, from_detectron2, is_detectron2, is_ours, to_detectron2
from pe_spatial.training.checkpoint import load_checkpoint, read_config

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
GEOMETRY = RotaryGeometry(head_dim=16, image_size=256, window=8, global_blocks=(1, 3))
TINY = {"name": "tiny", "patch_size": 16, "width": 64, "depth": 4, "heads": 4, "mlp_ratio": 4.0, "image_size": 128}
TINY |= {"cls_token": False, "layer_scale": 0.1}


def key_list(name):
    path = (
        DATA / "maskrcnn_coco_keys.json" if name == "tiny" else DATA / "keys" / f"d2_mask_rcnn_PEspatial_G_{name}.json"
    )
    return json.loads(path.read_text())


def on_meta(shapes):
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def build_on_meta(variant, classes):
    backbone = {"type": "PEBackbone", "variant": variant}
    with torch.device("meta"):
        return MODELS.build(
            {"type": "MaskRCNN", "num_classes": classes, "backbone": backbone, "neck": {"type": "SimpleFeaturePyramid"}}
        )


def tiny_checkpoint():
    """Values for every key of the tiny detector and its rotary buffers, in Detectron2's names."""
    tensors = {}
    for key, shape in key_list("tiny").items():
        values = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape, dtype=np.float32)
        tensors[key] = torch.from_numpy(values)
    return {**tensors, **GEOMETRY.buffers(tensors)}


# --- keys and shapes --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "variant", "classes"),
    [
        ("coco", {"base": "PE-Spatial-G14-448", "patch_size": 16, "image_size": 512}, 80),
        ("lvis", {"base": "PE-Spatial-G14-448", "patch_size": 16, "image_size": 512}, 1203),
        ("tiny", TINY, 80),
    ],
)
def test_every_key_of_the_model_has_its_counterpart(name, variant, classes):
    theirs = on_meta(key_list(name))
    model = build_on_meta(variant, classes).state_dict()
    ours, dropped = from_detectron2(theirs)
    assert is_detectron2(theirs) and not is_detectron2(model)
    assert is_ours(model) and not is_ours(theirs)
    assert {key: tensor.shape for key, tensor in ours.items()} == {key: tensor.shape for key, tensor in model.items()}
    assert len(ours) + len(dropped) == len(theirs)
    assert all(".rope" in key and key.rsplit(".", 1)[1] in ("freqs_cos", "freqs_sin") for key in dropped)
    back, lost = to_detectron2(model)
    assert not lost
    assert {key: list(tensor.shape) for key, tensor in back.items()} == {
        key: shape for key, shape in key_list(name).items() if key not in dropped
    }


@pytest.mark.parametrize("name", ["coco", "lvis"])
def test_rotary_buffers_have_the_published_names_and_shapes(name):
    published = key_list(name)
    ours, dropped = from_detectron2(on_meta(published))
    assert len(dropped) == 2 * (2 + 50)
    back, _ = to_detectron2(ours, RotaryGeometry(head_dim=96))
    assert {key: list(tensor.shape) for key, tensor in back.items()} == published


def test_there_and_back_is_the_identity():
    theirs = tiny_checkpoint()
    ours, _ = from_detectron2(theirs)
    back, lost = to_detectron2(ours, GEOMETRY)
    assert not lost
    assert set(back) == set(theirs)
    for key, tensor in theirs.items():
        assert torch.equal(back[key], tensor), key
    again, _ = from_detectron2(back)
    assert all(torch.equal(again[key], tensor) for key, tensor in ours.items())


@pytest.mark.parametrize("convert", [from_detectron2, to_detectron2])
def test_a_key_without_counterpart_is_an_error(convert):
    tensors = tiny_checkpoint()
    if convert is to_detectron2:
        tensors, _ = from_detectron2(tensors)
    with pytest.raises(WeightsError, match=r"1 keys cannot be converted \(roi_heads.cascade.1.weight\).*one box stage"):
        convert({**tensors, "roi_heads.cascade.1.weight": torch.ones(1)})


def test_pixel_statistics_are_dropped_with_their_reason():
    _, dropped = from_detectron2({**tiny_checkpoint(), "pixel_mean": torch.full((3, 1, 1), 127.0)})
    assert dropped["pixel_mean"] == "pixel statistics, which the config holds"


def test_what_detection_does_not_use_is_dropped_with_its_reason():
    model = build_on_meta({"base": "PE-Core-T16-384", "depth": 2}, 3).state_dict()
    theirs, dropped = to_detectron2(model, RotaryGeometry(64, 256, 8, (1,)))
    assert len(theirs) - 2 * (2 + 2) + len(dropped) == len(model)
    assert dropped["backbone.encoder.class_embedding"] == "class token, which windows leave out"
    assert dropped["backbone.encoder.attn_pool.probe"] == "head of PE-Core, which detection does not use"
    assert theirs["backbone.net.positional_embedding"].shape == (1, 576, 192)


def test_a_class_token_comes_back_as_zeros():
    torch.manual_seed(0)
    variant = {**TINY, "cls_token": True}
    model = MODELS.build(
        {
            "type": "MaskRCNN",
            "num_classes": 3,
            "backbone": {"type": "PEBackbone", "variant": variant, "window": 4},
            "neck": {"type": "SimpleFeaturePyramid"},
        }
    )
    tensors = model.state_dict()
    theirs, _ = to_detectron2(tensors)
    ours, dropped = from_detectron2(theirs, class_token=True)
    assert not dropped
    assert ours.keys() == tensors.keys()
    table, token = "backbone.encoder.positional_embedding", "backbone.encoder.class_embedding"
    assert torch.equal(ours[table][1:], tensors[table][1:])
    assert not ours[table][0].any() and not ours[token].any()
    assert all(torch.equal(ours[key], tensor) for key, tensor in tensors.items() if key not in (table, token))
    image = torch.randn(1, 3, 64, 64)
    before = model.eval()(image)
    model.load_state_dict(ours)
    assert all(torch.equal(one, two) for one, two in zip(before, model(image), strict=True))


# --- rotary buffers ---------------------------------------------------------------------------------------------------
def rotary_by_definition(side, head_dim, reference):
    """One number at a time: pair i of D/4 turns by 10000^(-4i/D) per position; columns first, then rows."""
    result = np.zeros((side * side, head_dim))
    for row in range(side):
        for column in range(side):
            for channel in range(head_dim):
                axis, pair = divmod(channel // 2, head_dim // 4)
                position = (column, row)[axis] / side * reference + 1
                result[row * side + column, channel] = position * 10000.0 ** (-4 * pair / head_dim)
    return result


def test_rotary_buffers_follow_their_definition():
    tensors = tiny_checkpoint()  # pretraining grid 8, windows of 8, 16 x 16 patches
    for name, side in (("rope_win", 8), ("rope_glb", 16)):
        angles = rotary_by_definition(side, 16, 8)
        for part, function in (("freqs_cos", np.cos), ("freqs_sin", np.sin)):
            assert np.abs(tensors[f"backbone.net.{name}.{part}"].numpy() - function(angles)).max() < 1e-5
    window, everywhere = tensors["backbone.net.rope_win.freqs_cos"], tensors["backbone.net.rope_glb.freqs_cos"]
    assert torch.allclose(everywhere.unflatten(0, (16, 16))[::2, ::2].flatten(0, 1), window)
    for block, expected in enumerate((window, everywhere, window, everywhere)):
        assert torch.equal(tensors[f"backbone.net.transformer.resblocks.{block}.attn.rope.freqs_cos"], expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"global_blocks": (1, 4)}, r"global blocks \[1, 4\] do not all exist: the encoder has blocks 0 to 3"),
        ({"image_size": 250}, "image size 250 is not a multiple of the patch size 16"),
    ],
)
def test_an_impossible_geometry_is_an_error(change, message):
    ours, _ = from_detectron2(tiny_checkpoint())
    with pytest.raises(WeightsError, match=message):
        to_detectron2(ours, replace(GEOMETRY, **change))


# --- the tool ---------------------------------------------------------------------------------------------------------
VARIANT = ["--variant", json.dumps(TINY)]
DETECTOR = ["--image-size", "256", "--window", "8", "--global-blocks", "1", "3"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A folder with a detector, a damaged detector and an encoder."""
    folder = tmp_path_factory.mktemp("sources")
    tensors = tiny_checkpoint()
    torch.save({"model": tensors, "iteration": 7}, folder / "theirs.pth")
    broken = {**tensors, "roi_heads.box_predictor.cls_score.bias": torch.full((81,), float("nan"))}
    torch.save({"model": broken}, folder / "broken.pth")
    encoder = {key: torch.zeros(shape) for key, shape in expected_shapes(EncoderConfig(**TINY)).items()}
    torch.save(encoder, folder / "encoder.pth")
    return folder


@pytest.fixture
def detector(sources):
    return sources / "theirs.pth"


def run(*arguments):
    return run_command("convert", [str(argument) for argument in arguments])


def assert_same(found, expected):
    assert set(found) == set(expected)
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key


def test_tool_takes_a_detector_there_and_back(detector, tmp_path, capsys):
    assert run(detector, tmp_path / "ours.pth", "--to", "pe_spatial") == 0
    assert "Dropped 12 tensors: rotary tables" in capsys.readouterr().out
    model = build_on_meta(TINY, 80)
    model.load_state_dict(read_tensor_file(tmp_path / "ours.pth")["state_dict"], strict=True, assign=True)
    assert run(tmp_path / "ours.pth", tmp_path / "back.pth", "--to", "detectron2", *VARIANT, *DETECTOR) == 0
    assert_same(read_tensor_file(tmp_path / "back.pth")["model"], tiny_checkpoint())


def write_config(path, **model):
    backbone = {"type": "PEBackbone", "variant": TINY, "weights": "PE-Spatial-G14-448"}
    config = {
        "custom_imports": {"imports": ["pe_spatial.detection"]},
        "model": {
            "type": "MaskRCNN",
            "num_classes": 80,
            "backbone": backbone,
            "neck": {"type": "SimpleFeaturePyramid"},
            **model,
        },
        "train_dataloader": {"dataset": {"metainfo": {"classes": ["disc", "box"]}}},
    }
    path.write_text(json.dumps(config))  # JSON is YAML
    return path


def test_classes_of_coco_are_known_without_its_files(detector, tmp_path):
    path = write_config(tmp_path / "coco.yaml")
    content = json.loads(path.read_text())
    content["train_dataloader"]["dataset"] = {"type": "CocoInstances", "data_root": "nowhere", "ann_file": "none.json"}
    path.write_text(json.dumps(content))
    assert run(detector, tmp_path / "ours.pth", "--to", "pe_spatial", "--config", path) == 0
    metainfo = load_checkpoint(tmp_path / "ours.pth")["pe_spatial"]["metainfo"]
    assert len(metainfo["classes"]) == len(metainfo["category_ids"]) == 80
    assert (metainfo["classes"][0], metainfo["category_ids"][0]) == ("person", 1)
    assert (metainfo["classes"][-1], metainfo["category_ids"][-1]) == ("toothbrush", 90)


def test_tool_makes_a_checkpoint_that_describes_itself(detector, tmp_path, capsys):
    config = write_config(tmp_path / "detector.yaml")
    assert run(detector, tmp_path / "ours.pth", "--to", "pe_spatial", "--config", config) == 0
    content = load_checkpoint(tmp_path / "ours.pth")
    described = read_config(content, "ours.pth")
    assert described["model"]["backbone"]["weights"] is None  # nothing is left to fetch
    assert content["pe_spatial"]["metainfo"]["classes"] == ["disc", "box"]
    model = build_on_meta(TINY, 80)
    model.load_state_dict(content["state_dict"], strict=True, assign=True)
    wrong = write_config(tmp_path / "wrong.yaml", num_classes=3)
    assert run(detector, tmp_path / "x.pth", "--to", "pe_spatial", "--config", wrong) == 2
    assert "does not fit the model of" in capsys.readouterr().err
    assert not (tmp_path / "x.pth").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("layout", ["timm", "detectron2"])
def test_tool_takes_an_encoder_there_and_back(detector, tmp_path, layout, suffix):
    start, middle, end = (tmp_path / f"{name}{suffix}" for name in ("start", "middle", "end"))
    assert run(detector, start, "--to", "official", *VARIANT) == 0
    assert run(start, middle, "--to", layout, *VARIANT) == 0
    assert run(middle, end, "--to", "official", *VARIANT) == 0
    found = read_tensor_file(end)
    assert_same(found, read_tensor_file(start))
    assert {key: tensor.shape for key, tensor in found.items()} == expected_shapes(EncoderConfig(**TINY))


def test_tool_finds_the_variant_and_resamples_the_patches(tmp_path, capsys):
    shapes = expected_shapes(VARIANTS["PE-Spatial-T16-512"])
    torch.save({key: torch.zeros(shape) for key, shape in shapes.items()}, tmp_path / "a.pt")
    target = tmp_path / "b.safetensors"
    assert run(tmp_path / "a.pt", target, "--to", "official", "--patch-size", 14, "--dtype", "bfloat16") == 0
    assert "Read PE-Spatial-T16-512: 149 tensors" in capsys.readouterr().out
    config = replace(VARIANTS["PE-Spatial-T16-512"], patch_size=14, image_size=448)
    found, report = load_state_dict(target, config)
    assert (len(found), report.dtype) == (149, "bfloat16")


def test_tool_does_not_overwrite(detector, tmp_path, capsys):
    target = tmp_path / "ours.pth"
    target.write_text("precious")
    assert run(detector, target, "--to", "pe_spatial") == 2
    assert "exists; pass --force" in capsys.readouterr().err
    assert target.read_text() == "precious"
    assert run(detector, target, "--to", "pe_spatial", "--force") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.pth", "x.pth", "--to", "official"], "no weights at"),
        (["theirs.pth", "x.onnx", "--to", "official"], "must end in .pt, .pth, .safetensors"),
        (["theirs.pth", "nowhere/x.pth", "--to", "official"], "nowhere does not exist"),
        (["theirs.pth", "x.pth", "--to", "official"], "do not fit any released encoder; describe the encoder"),
        (["theirs.pth", "x.pth", "--to", "official", "--variant", "PE-Big"], "no encoder 'PE-Big'"),
        (["theirs.pth", "x.pth", "--to", "timm", "--variant", '{"width": 3'], "--variant '{\"width\": 3' is not JSON"),
        (
            ["theirs.pth", "x.pth", "--to", "official", "--variant", "PE-Spatial-G14-448"],
            "does not fit PE-Spatial-G14-448",
        ),
        (["theirs.pth", "x.pth", "--to", "pe_spatial", "--patch-size", "14"], "--patch-size applies to encoders"),
        (["theirs.pth", "x.pth", "--to", "pe_spatial", "--config", "missing.yaml"], "missing.yaml"),
        (["theirs.pth", "x.safetensors", "--to", "pe_spatial", "--config", "a.yaml"], "--config needs --to pe_spatial"),
        (["encoder.pth", "x.pth", "--to", "pe_spatial"], "is neither a Mask R-CNN of Detectron2"),
        (["broken.pth", "x.pth", "--to", "pe_spatial"], "NaN or Inf in 1 tensor"),
    ],
)
def test_tool_names_bad_input(sources, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(sources)
    assert run_command("convert", arguments) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("error: ")  # after what the old spellings are now
    assert message in error
    assert not Path("x.pth").exists()
