"""The mask decoder as a graph: the score map of a model of classes, the masks of all queries of one of objects."""

import copy
import logging
import warnings

import pytest
import torch
from mmengine.structures import BaseDataElement
from small_segmenters import build, settings

from pe_spatial.common.errors import OptionError
from pe_spatial.common.graphs import Exportable

ANY = torch.export.Dim.DYNAMIC
CLASSES = {"num_queries": 6, "num_blocks": 2}
OBJECTS = {**CLASSES, "things": [2, 3], "outputs": ["semantic", "instance", "panoptic"], "least_score": 0.0}
KINDS = {"classes": CLASSES, "objects": OBJECTS}
OUTPUTS = {"classes": ("scores",), "objects": ("logits", "class_logits")}
SIZES = [(1, 64, 48), (3, 40, 56), (2, 32, 32)]  # images, height, width; the last is the native grid


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def model(kind):
    return build(settings("MaskDecoder", **KINDS[kind]))


def images(number, height, width):
    return torch.randn(number, 3, height, width, generator=torch.Generator().manual_seed(height))


@torch.no_grad()
def outputs_of(model, kind, inputs):
    return [model.score_map(inputs)] if kind == "classes" else list(model(inputs))


def assert_same(found, model, kind, inputs, atol):
    for part, wanted in zip(found, outputs_of(model, kind, inputs), strict=True):
        torch.testing.assert_close(torch.as_tensor(part), wanted, atol=atol * float(wanted.abs().max()), rtol=0)


def predict(model, inputs):
    samples = [BaseDataElement(metainfo={"img_shape": (40, 50), "ori_shape": (80, 100)}) for _ in inputs]
    with torch.no_grad():
        return model.predict(inputs, samples)


def test_its_outputs_are_named(model, kind):
    graph = model.graph()
    assert isinstance(model, Exportable)
    assert graph.outputs == OUTPUTS[kind] and graph.multiple == 8 and graph.free_batch and graph.free_size
    assert_same(graph.module(images(2, 40, 56)), model, kind, images(2, 40, 56), 0)
    with pytest.raises(OptionError, match="'raw'"):
        model.graph("raw")


def test_prediction_with_an_engine_is_prediction(model, kind):
    """Also of a picture that is padded, at the size of its photograph; and of windows."""
    replaced, module, calls = copy.copy(model), model.graph().module, []

    def engine(inputs):
        calls.append(len(inputs))
        return module(inputs)

    replaced.use_engine(engine)
    inputs = images(2, 40, 56)
    for sample, other in zip(predict(model, inputs), predict(replaced, inputs), strict=True):
        assert torch.equal(sample.pred_sem_seg.data, other.pred_sem_seg.data)
        if kind == "objects":
            assert torch.equal(sample.pred_panoptic.data, other.pred_panoptic.data)
            assert torch.equal(sample.pred_instances.scores, other.pred_instances.scores)
    assert calls == [2]
    with torch.no_grad():
        torch.testing.assert_close(replaced.segment_logits(inputs), model.segment_logits(inputs))
    assert calls == [2, 2]


def test_the_network_compiles_as_one_graph(model):
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images(1, 40, 56)), model(images(1, 40, 56)))


# --- exported: of a model of classes, whose graph is the other one and the sum of its masks ---------------------------
@pytest.fixture(scope="module")
def segmenter():
    return build(settings("MaskDecoder", **CLASSES))


@pytest.fixture(scope="module")
def program(segmenter):
    """Of any number of images of any size."""
    graph = segmenter.graph()
    example = images(2, *(side * graph.multiple for side in graph.example))
    shapes = {"inputs": (dict.fromkeys((0, 2, 3), ANY),)}
    return torch.export.export(graph.module, (example,), dynamic_shapes=shapes, strict=False)


@pytest.mark.parametrize("size", SIZES)
def test_the_exported_program_holds_at_other_sizes(segmenter, program, size):
    with torch.no_grad():
        assert_same(program.module()(images(*size)), segmenter, "classes", images(*size), 1e-5)


@pytest.fixture(scope="module")
def onnx_file(segmenter, program, tmp_path_factory):
    pytest.importorskip("onnxscript")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    graph, path = segmenter.graph(), tmp_path_factory.mktemp("graph") / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = {"input_names": graph.inputs, "output_names": graph.outputs}
        exported = torch.onnx.export(program, dynamo=True, verbose=False, optimize=False, **names)
    path.write_bytes(exported.model_proto.SerializeToString())
    return path


def test_onnx_runtime_gives_the_same_at_every_size(segmenter, onnx_file):
    session = pytest.importorskip("onnxruntime").InferenceSession(str(onnx_file))
    for size in SIZES:
        found = session.run(None, {"images": images(*size).numpy()})
        assert_same(found, segmenter, "classes", images(*size), 1e-4)


def test_openvino_gives_the_same(segmenter, onnx_file):
    core = pytest.importorskip("openvino").Core()
    compiled = core.compile_model(core.read_model(onnx_file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for size in SIZES:
        result = compiled([images(*size).numpy()])
        assert_same([result[0]], segmenter, "classes", images(*size), 1e-3)
