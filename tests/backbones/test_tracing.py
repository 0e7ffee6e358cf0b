"""Encoders as graphs for any size: what `torch.export` and ONNX make of them equals the encoder."""

import logging
import warnings

import pytest
import torch

from pe_spatial.backbones import PEBackbone

ENCODER = {"base": "PE-Spatial-T16-512", "name": "tiny", "depth": 2, "width": 48, "heads": 3, "image_size": 64}
OPTIONS = {
    "plain": {},
    "bicubic": {"pos_embed": "bicubic"},
    "tile": {"pos_embed": "tile"},
    "interpolate": {"rope": "interpolate"},
    "windows": {"window": 3, "global_blocks": [1]},
    "detector": {"window": 3, "global_blocks": [1], "pos_embed": "tile", "rope": "interpolate"},
}
EXAMPLES = {"native": (64, 64), "other": (80, 112)}
SIZES = [(1, 64, 64), (3, 96, 64), (1, 80, 144)]  # images, height, width; 48 x 48 is a whole window
LESS_THAN_A_WINDOW = (2, 48, 32)  # torch's graphs tell one window from many; those of ONNX do not
DIMENSIONS = {"x": dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)}


@pytest.fixture(scope="module", params=[(name, "native") for name in OPTIONS] + [("detector", "other")], ids="-".join)
def exported(request):
    """(backbone, its graph for any size, exported at one size)."""
    torch.manual_seed(0)
    name, example = request.param
    blocks = {} if "window" in OPTIONS[name] else {"depth": 1}
    backbone = PEBackbone({**ENCODER, **blocks}, **OPTIONS[name]).eval()
    images = torch.randn(2, 3, *EXAMPLES[example])
    return backbone, torch.export.export(backbone, (images,), dynamic_shapes=DIMENSIONS, strict=False).module()


def test_a_graph_exported_at_any_size_holds_at_every_other(exported):
    """The native grid among them, where positions are not resized and no window is padded in eager mode."""
    backbone, graph = exported
    for number, height, width in SIZES:
        images = torch.randn(number, 3, height, width)
        with torch.no_grad():
            torch.testing.assert_close(graph(images)[0], backbone(images)[0], atol=1e-5, rtol=0)


def test_onnx_runtime_gives_the_same_numbers_at_every_size():
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.manual_seed(0)
    backbone = PEBackbone(ENCODER, **OPTIONS["detector"]).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            backbone, (torch.randn(2, 3, 64, 64),), dynamo=True, dynamic_shapes=DIMENSIONS, verbose=False
        )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for number, height, width in (*SIZES, LESS_THAN_A_WINDOW):
        images = torch.randn(number, 3, height, width)
        (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), backbone(images)[0], atol=2e-5, rtol=0)
