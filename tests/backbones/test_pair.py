"""Both halves of PE-Core come out of every layout they travel in, or the file is named with its remedy."""

import json
from pathlib import Path

import pytest
import torch
from small_core import TINY

from pe_spatial.backbones import PEBackbone, PECore
from pe_spatial.backbones.weights import load_core, to_timm
from pe_spatial.common.tensors import WeightsError, write_tensor_file

KEYS = Path(__file__).parents[1] / "data" / "keys"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return PECore(TINY)


def halves(model):
    state = model.state_dict()
    image = {key.removeprefix("visual."): tensor for key, tensor in state.items() if key.startswith("visual.")}
    return {key: tensor for key, tensor in state.items() if not key.startswith("visual.")}, image


def prefixed(prefix, state):
    return {prefix + key: tensor for key, tensor in state.items()}


def open_clip_layout(model):
    text, image = halves(model)
    scale = text.pop("logit_scale")
    return {"logit_scale": scale, **prefixed("visual.trunk.", to_timm(image)), **prefixed("text.", text)}


def layouts(model):
    state = model.state_dict()
    heads = {"criterion.weight": torch.ones(2)}
    return {
        "official": (state, 0),
        "official, wrapped": ({"state_dict": prefixed("module.", state), "epoch": 3}, 0),
        "official, in a model of one's own": (prefixed("model.", state) | heads, 1),
        "official, with the mask of old files": ({**state, "attn_mask": torch.ones(16, 16)}, 1),
        "open_clip": (open_clip_layout(model), 1),
        "open_clip, wrapped": ({"state_dict": prefixed("module.", open_clip_layout(model))}, 1),
    }


@pytest.mark.parametrize("name", layouts(PECore(TINY)))
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_every_layout_gives_both_halves(tmp_path, model, name, suffix):
    content, ignored = layouts(model)[name]
    path = tmp_path / f"core{suffix}"
    if suffix == ".pt":
        torch.save(content, path)
    else:
        write_tensor_file(content.get("state_dict", content), path)
    with torch.device("meta"):
        found = PECore(TINY)
    report = load_core(found, path)
    for key, tensor in model.state_dict().items():
        assert torch.equal(found.state_dict()[key], tensor), key
    assert report.tensors == len(model.state_dict())
    assert report.parameters == sum(tensor.numel() for tensor in model.state_dict().values())
    assert len(report.ignored) == ignored
    assert "text tower" not in str(report)


def test_weights_of_a_folder_are_loaded_at_construction_and_the_image_half_alone_too(tmp_path, model):
    write_tensor_file(model.state_dict(), tmp_path / "core.safetensors")
    x = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        found = PECore(TINY, weights=str(tmp_path)).encode_image(x)
        # the kernels of some processors add up by where weights lie in memory
        torch.testing.assert_close(found, model.encode_image(x), atol=1e-6, rtol=1e-6)
    backbone = PEBackbone(TINY, weights=str(tmp_path))
    assert torch.equal(backbone.encoder.proj, model.visual.proj)


@pytest.mark.parametrize("name", [path.stem for path in sorted(KEYS.glob("CLIP_*.json"))])
def test_released_files_fit(tmp_path, monkeypatch, name):
    """Of meta tensors with the published keys and shapes."""
    shapes = json.loads((KEYS / f"{name}.json").read_text())
    tensors = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    path = tmp_path / "core.pt"
    path.touch()
    monkeypatch.setattr("pe_spatial.backbones.weights.content.read_tensor_file", lambda _: tensors)
    for module in ("loading", "pair"):
        monkeypatch.setattr(f"pe_spatial.backbones.weights.{module}.check_values", lambda *_: None)
    with torch.device("meta"):
        report = load_core(PECore(name.removeprefix("CLIP_")), path)
    assert report.tensors == len(shapes)
    assert report.ignored == {}


def test_half_precision_is_cast_and_said(tmp_path, model):
    path = tmp_path / "core.pt"
    torch.save({key: tensor.half() for key, tensor in model.state_dict().items()}, path)
    with torch.device("meta"):
        found = PECore(TINY)
    assert "cast from float16 to float32" in str(load_core(found, path))
    assert found.text_projection.dtype == torch.float32


def bad(model):
    text, image = halves(model)
    state = model.state_dict()
    wide = {**state, "positional_embedding": torch.zeros(20, 16)}
    gone = {key: tensor for key, tensor in state.items() if key != "ln_final.bias"}
    more = {**state, "transformer.resblocks.0.ls_1.gamma": torch.ones(16)}
    return {
        "image alone": (image, "no text tower: token_embedding.weight is not .* or use PEBackbone"),
        "image alone, as in CLIP": (prefixed("visual.", image), "no text tower"),
        "timm alone": (to_timm(image), "no text tower"),
        "text alone": (text, "no Perception Encoder among"),
        "another context": (wide, r"does not fit tiny: .*positional_embedding is \[20, 16\], not .*context 20"),
        "released context": ({**state, "positional_embedding": torch.zeros(32, 512)}, "context 32, width 512 and 1"),
        "one missing": (gone, r"missing \(ln_final.bias\)"),
        "one too many": (more, r"unexpected \(transformer.resblocks.0.ls_1.gamma"),
        "another loss": ({**state, "logit_bias": torch.ones(())}, r"unexpected \(logit_bias\)"),
        "one too many in open_clip": (
            {**open_clip_layout(model), "text.cls_emb": torch.ones(16)},
            r"unexpected \(cls_emb\)",
        ),
        "not a number": ({**state, "text_projection": torch.full((16, 12), torch.nan)}, "NaN or Inf in 1 tensor"),
        "whole numbers": ({**state, "ln_final.bias": torch.ones(16, dtype=torch.int8)}, "quantized"),
    }


@pytest.mark.parametrize("name", bad(PECore(TINY)))
def test_files_that_do_not_fit_are_named(tmp_path, model, name):
    content, message = bad(model)[name]
    torch.save(content, tmp_path / "core.pt")
    with pytest.raises(WeightsError, match=message):
        PECore(TINY, weights=str(tmp_path / "core.pt"))
