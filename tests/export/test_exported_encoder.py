"""An exported encoder is a backbone: features and tracks are those of the encoder itself."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from small_checkpoints import tracked_dataset, write_videos

from pe_spatial import FeatureExtractor
from pe_spatial.backbones import PEBackbone
from pe_spatial.commands.shell import run_command
from pe_spatial.common.errors import CheckpointError, OptionError
from pe_spatial.common.safe_yaml import parse
from pe_spatial.common.tensors import write_tensor_file
from pe_spatial.engines.sessions import is_installed
from pe_spatial.inference import exported_backbone
from pe_spatial.inference.exported_backbone import ExportedBackbone

pytest.importorskip("onnxruntime")
TINY = "{base: PE-Spatial-T16-512, name: tiny, depth: 3, width: 48, heads: 3, image_size: 64, patch_size: 8}"
HEAD = "custom_imports: {imports: [pe_spatial.tracking]}\ndefault_scope: mmengine\n"
ENGINES = [name for name in ("onnxruntime", "openvino") if is_installed(name)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Weights, the section of a backbone, its export, pictures and two videos with a config."""
    place = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    encoder = PEBackbone(parse(TINY)).encoder
    for weights in encoder.parameters():  # a new encoder tells places apart hardly at all
        torch.nn.init.normal_(weights, std=0.1) if weights.ndim > 1 else None
    write_tensor_file(encoder.state_dict(), place / "tiny.safetensors")
    write_videos(place, frames=6)
    model = {
        "type": "VideoTracker",
        "backbone": parse(section(place, [-1])),
        "resizing": {"short_side": 64},
        "propagation": {"radius": 4, "topk": 3},
    }
    (place / "tracker.yaml").write_text(HEAD + f"model: {json.dumps(model)}\n" + tracked_dataset(place))
    for name, layers in (("last", [-1]), ("two", [0, 2])):
        arguments = ["--encoder", section(place, layers), "--images", str(place / "JPEGImages/480p/first")]
        assert run_command("export", [*arguments, "--output", str(place / name), "--to", "onnx"]) == 0
    return place


def section(place, layers):
    return f"{{type: PEBackbone, variant: {TINY}, weights: {place / 'tiny.safetensors'}, layers: {layers}}}"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("batch", [1, 3])
def test_its_maps_are_those_of_the_encoder(place, engine, batch):
    exported = ExportedBackbone(place / "two/model.onnx", engine)
    encoder = FeatureExtractor(parse(section(place, [0, 2])), device="cpu").encoder.backbone
    for name in ("channels", "strides", "layers", "patch_size", "mean", "std", "image_size"):
        assert getattr(exported, name) == getattr(encoder, name)
    for size in ((64, 64), (40, 88)):
        images = torch.randn(batch, 3, *size)
        with torch.no_grad():
            for ours, theirs in zip(exported(images), encoder(images), strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    few = ExportedBackbone(place / "two/model.onnx", engine, layers=[-1])
    assert few.layers == (2,) and torch.equal(few(images)[0], exported(images)[1])
    half = few(images.bfloat16())[0]
    assert half.dtype == torch.bfloat16


def test_features_of_pictures_are_those_of_the_encoder(place, tmp_path):
    file = place / "two/model.onnx"
    picture = place / "JPEGImages/480p/first/00000.png"
    exported, encoder = (FeatureExtractor(each, device="cpu") for each in (file, parse(section(place, [0, 2]))))
    ours, theirs = exported(picture), encoder(picture)
    for name in ("layer_0", "layer_2"):
        np.testing.assert_allclose(ours[name].numpy(), theirs[name].numpy(), atol=1e-4)
    assert exported.description["encoder"] == "tiny"
    assert exported.description["weights"] != FeatureExtractor(place / "last/model.onnx").description["weights"]
    arguments = ["--encoder", str(file), "--input", str(picture), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert run_command("features", arguments) == 0


def test_tracks_and_their_scores_are_those_of_the_encoder(place, tmp_path):
    def track(name, *weights):
        arguments = ["--config", str(place / "tracker.yaml"), "--output", str(tmp_path / name), "--device", "cpu"]
        assert run_command("track", [*arguments, "--no-pictures", *weights]) == 0
        masks = [np.array(Image.open(path)) for path in sorted((tmp_path / name).glob("*/*.png"))]
        return json.loads((tmp_path / name / "scores.json").read_text())["global"], np.stack(masks)

    scores, masks = track("torch")
    of_file, same = track("file", "--weights", str(place / "last/model.onnx"))
    assert of_file == pytest.approx(scores, abs=1e-3) and scores["J&F"] > 0.2
    assert (masks == same).mean() > 0.999 and masks.any()


def test_the_file_of_a_whole_model_is_no_encoder(place, monkeypatch):
    header = exported_backbone.read_header(place / "two/model.onnx")
    other = replace(header, preprocessing={**header.preprocessing, "task": "segmentation"})
    monkeypatch.setattr(exported_backbone, "read_header", lambda path: other)
    with pytest.raises(CheckpointError, match="holds a model of segmentation, not an encoder alone"):
        ExportedBackbone(place / "two/model.onnx")


def test_what_is_wrong_is_named(place, tmp_path, capfd):
    file = place / "two/model.onnx"
    with pytest.raises(OptionError, match=r"maps of the layers \[0, 2\], not of 1"):
        ExportedBackbone(file, layers=[1])
    with pytest.raises(OptionError, match="the norm is fixed"):
        FeatureExtractor(file, norm=True)
    alone = tmp_path / "model.onnx"
    alone.write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match=r"no PROOF\.json"):
        ExportedBackbone(alone)
    arguments = ["--config", str(place / "tracker.yaml"), "--output", str(tmp_path / "out"), "--weights", str(file)]
    assert run_command("track", arguments) == 2
    assert "has layers [0, 2], but the config asks for [2]" in capfd.readouterr().err
    color = tmp_path / "color.yaml"
    color.write_text(
        (place / "tracker.yaml").read_text().replace(json.dumps(parse(section(place, [-1]))), "{type: RawColor}")
    )
    assert run_command("track", ["--config", str(color), *arguments[2:]]) == 2
    assert "cannot stand in for RawColor" in capfd.readouterr().err
