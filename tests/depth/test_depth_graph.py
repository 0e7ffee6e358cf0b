"""The network of a depth model as a graph: the same depth at every size, in every engine, and through `use_engine`."""

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS

import pe_spatial.depth.model  # noqa: F401 - registers
from pe_spatial.common.errors import OptionError
from pe_spatial.engines.models import equip, shed
from pe_spatial.export import ExportOptions
from pe_spatial.export.graphs import onnx_of, program_of

ENCODER = {"base": "PE-Spatial-T16-512", "name": "tiny", "depth": 2, "width": 48, "heads": 3, "image_size": 64}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = {
        "type": "DepthModel",
        "backbone": {"type": "PEBackbone", "variant": ENCODER},
        "head": {"type": "DPTDepthHead", "depth_range": [0.1, 10.0], "channels": 16},
        "losses": [{"type": "ScaleInvariantLogLoss", "invariance": 0.5}],
    }
    return MODELS.build(config).eval()


@pytest.mark.parametrize("size", [None, (64, 96)])
def test_onnx_runtime_gives_the_same_at_every_size_and_batch(model, size):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    graph = model.graph()
    options = ExportOptions(image_size=size, batch=None if size is None else 3).fit(graph)
    proto = onnx_of(program_of(graph, options), graph).model_proto
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    trials = [(3, *size)] if size else [(1, 64, 64), (3, 48, 80), (2, 96, 64)]
    for batch, height, width in trials:
        images = torch.randn(batch, 3, height, width)
        (found,) = session.run(["depth"], {"images": images.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(found, model.raw(images).numpy(), atol=1e-4)


def test_an_engine_takes_the_place_of_the_network(model):
    images, graph = torch.randn(2, 3, 64, 64), model.graph()
    with torch.no_grad():
        expected = model.raw(images)
        model.use_engine(lambda images: (graph.module(images)[0] + 1,))
        assert torch.equal(model.raw(images), expected + 1)
        assert torch.equal(graph.module(images)[0], expected)  # the graph does not run the engine
    model.use_engine(None)
    with pytest.raises(OptionError, match="this model has one graph"):
        model.graph("raw")


def test_compiled_it_gives_the_same(model, monkeypatch):
    whole = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, **_: whole(module, backend="eager", fullgraph=True))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.raw(images)
        equip(model, "checkpoint.pth", "compile", torch.device("cpu"))
        torch.testing.assert_close(model.raw(images), expected)
    model.use_engine(None)


def test_a_model_without_weights_keeps_its_settings(model):
    from copy import deepcopy

    empty = deepcopy(model)
    shed(empty)
    assert not list(empty.parameters()) and empty.head.depth_range == model.head.depth_range
    assert empty.data_preprocessor is not None
