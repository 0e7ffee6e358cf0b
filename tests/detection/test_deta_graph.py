"""DETA as a graph: what is exported finds what the model finds, here, in ONNX Runtime and in OpenVINO."""

import copy
import logging
import warnings

import pytest
import torch
from mmengine.structures import BaseDataElement
from test_deta_model import settings
from torchvision.ops import batched_nms

from pe_spatial.common.errors import OptionError
from pe_spatial.common.graphs import Exportable
from pe_spatial.detection.deta import DETA
from pe_spatial.detection.deta.boxes import to_corners
from pe_spatial.detection.deta.deformable import _sum_grid_samples, deformable_attention
from pe_spatial.detection.deta.proposals import select_per_level
from pe_spatial.detection.deta.tokens import TokenGrid

ANY = torch.export.Dim.DYNAMIC
SIZES = [(96, 128), (50, 33), (70, 128)]  # of images that are padded to 96 x 128
SUPPRESSION = {"type": "NMSPostprocess", "threshold": 0.3, "max_detections": 60}


def build(**changes) -> DETA:
    """An untrained model whose heads say something."""
    torch.manual_seed(0)
    model = DETA(**settings(**{"postprocess": SUPPRESSION, **changes})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "_embed." in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def model() -> DETA:
    return build()


def images(number, size=(96, 128), seed=1):
    return torch.randn(number, 3, *size, generator=torch.Generator().manual_seed(seed))


def tensor_of(sizes):
    return torch.tensor(sizes, dtype=torch.float32)


def samples(sizes, scale=1):
    return [BaseDataElement(metainfo={"img_shape": s, "ori_shape": tuple(scale * side for side in s)}) for s in sizes]


@torch.no_grad()
def run(model, inputs, sizes, kind=""):
    return model.graph(kind).module(inputs, tensor_of(sizes))


@torch.no_grad()
def assert_last_layer(found, model, inputs, sizes, atol):
    last = model(inputs, samples(sizes)).layers[-1]
    for part, wanted in zip(found, (last.boxes, last.logits), strict=True):
        torch.testing.assert_close(part, wanted, atol=atol, rtol=0)


# --- which graphs there are -------------------------------------------------------------------------------------------
def test_the_graph_ends_with_the_last_layer(model):
    graph = model.graph()
    assert isinstance(model, Exportable)
    assert graph.inputs == ("images", "image_sizes") and graph.outputs == ("boxes", "logits")
    found = run(model, images(3), SIZES)
    assert [tuple(part.shape) for part in found] == [(3, 20, 4), (3, 20, 3)]
    assert_last_layer(found, model, images(3), SIZES, 0)


@pytest.mark.parametrize("number", [1, 3])
def test_the_suppressed_graph_is_the_post_processing(model, number):
    boxes, scores, labels = run(model, images(number), SIZES[:number], "suppressed")
    with torch.no_grad():
        predicted = model.predict(images(number), samples(SIZES[:number]))
    for i, sample in enumerate(predicted):
        wanted, count = sample.pred_instances, len(sample.pred_instances)
        assert 0 < count < 60, "nothing is suppressed"
        torch.testing.assert_close(boxes[i, :count], wanted.bboxes, atol=1e-4, rtol=0)
        torch.testing.assert_close(scores[i, :count], wanted.scores)
        assert torch.equal(labels[i, :count], wanted.labels)
        assert not scores[i, count:].any() and not boxes[i, count:].any()


def test_other_post_processing_stays_outside():
    model = build(postprocess={"type": "SoftNMSPostprocess"})
    assert model.graph().outputs == ("boxes", "logits")
    with pytest.raises(OptionError, match=r"model.postprocess is SoftNMSPostprocess.*kind ''"):
        model.graph("suppressed")
    with pytest.raises(OptionError, match="'raw' is not one of"):
        model.graph("raw")


def test_an_engine_takes_the_place_of_the_network(model):
    replaced, module, calls = copy.copy(model), model.graph().module, []

    def engine(*inputs):
        calls.append(len(inputs))
        return module(*inputs)

    replaced.use_engine(engine)
    with torch.no_grad():
        expected, found = (each.predict(images(2), samples(SIZES[:2], 3)) for each in (model, replaced))
    for sample, other in zip(expected, found, strict=True):
        assert len(sample.pred_instances)
        assert torch.equal(sample.pred_instances.bboxes, other.pred_instances.bboxes)
        assert torch.equal(sample.pred_instances.labels, other.pred_instances.labels)
    assert calls == [2]


def test_the_network_compiles_as_one_graph(model):
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        found, wanted = (each(images(1)).layers[-1] for each in (compiled, model))
    torch.testing.assert_close(found, wanted)


# --- its parts --------------------------------------------------------------------------------------------------------
def select_as_the_authors(logits, corners, grid, number):
    """`select_per_level` of one image with torchvision's suppression of all levels at once, and lists of any length."""
    candidates, first = [], 0
    for rows, columns in grid.shapes:
        level = logits[first : first + rows * columns]
        candidates.append(first + level.topk(min(1000, len(level))).indices)
        first += rows * columns
    index = torch.cat(candidates)
    kept = index[batched_nms(corners[index], logits[index], grid.levels[index], 0.9)]
    if len(kept) < number:
        kept = logits.topk(number).indices
    share = number // len(grid.shapes)
    of_level = grid.levels[kept][:, None] == torch.arange(len(grid.shapes))
    wanted = (of_level & (of_level.cumsum(0) <= share)).any(dim=1)
    wanted |= ~wanted & ((~wanted).cumsum(0) <= number - wanted.sum())
    return kept[wanted]


@pytest.mark.parametrize("number", [20, 150, 300])
@pytest.mark.parametrize("spread", [0.002, 0.3])
def test_queries_are_those_of_a_selection_of_any_length(number, spread):
    """Also where suppression leaves too few, and where a level has more tokens than are considered."""
    shapes = [(40, 32), (20, 16), (5, 4)]
    grid = TokenGrid.of([torch.zeros(1, 1, *shape) for shape in shapes], [(320, 256)] * 3, (320, 256))
    generator = torch.Generator().manual_seed(number)
    logits = torch.randn(3, 1620, generator=generator)
    center = 0.5 + spread * torch.randn(3, 1620, 2, generator=generator)
    boxes = torch.cat([center, 0.1 + 0.1 * torch.rand(3, 1620, 2, generator=generator)], 2)
    chosen = select_per_level(logits, boxes, grid, number)
    for found, own, box in zip(chosen, logits, boxes, strict=True):
        assert torch.equal(found, select_as_the_authors(own, to_corners(box).clamp(0, 1), grid, number))


def test_samples_of_a_grid_are_those_of_the_table():
    """Places inside, on the border and far outside of a level."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(7, 5), (3, 4), (1, 2)]
    value = torch.randn(2, 49, 3, 4, generator=generator)
    locations = torch.rand(2, 11, 3, 3, 2, 2, generator=generator) * 2 - 0.5
    locations[0, 0], locations[0, 1] = 0.0, 1.0
    weights = torch.rand(2, 11, 3, 3, 2, generator=generator)
    found = _sum_grid_samples(value, shapes, locations, weights)
    torch.testing.assert_close(found, deformable_attention(value, shapes, locations, weights))


# --- exported ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def program(model):
    """The suppressed graph, which the other is a part of, of two images of any size."""
    graph = model.graph("suppressed")
    size = tuple(side * graph.multiple for side in graph.example)
    example = (images(2, size), tensor_of([size] * 2))
    shapes = {"inputs": ({2: ANY, 3: ANY}, None)}
    return torch.export.export(graph.module, example, dynamic_shapes=shapes, strict=False)


def assert_suppressed(run_graph, model, size, atol):
    """Scores to `atol`; boxes, in pixels, to ten times that."""
    inside = [(size[0], size[1] - 9), (size[0] // 2, size[1])]
    boxes, scores, labels = run(model, images(2, size), inside, "suppressed")
    with torch.no_grad():
        found = [torch.as_tensor(part) for part in run_graph(images(2, size), tensor_of(inside))]
    torch.testing.assert_close(found[0], boxes, atol=10 * atol, rtol=0)
    torch.testing.assert_close(found[1], scores, atol=atol, rtol=0)
    assert torch.equal(found[2], labels) and (scores > 0).any()


@pytest.mark.parametrize("size", [(96, 128), (208, 144)])
def test_the_exported_program_holds_at_other_sizes(model, program, size):
    assert_suppressed(program.module(), model, size, 1e-5)


@pytest.fixture(scope="module")
def onnx_file(model, program, tmp_path_factory):
    pytest.importorskip("onnxscript")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    graph, path = model.graph("suppressed"), tmp_path_factory.mktemp("graph") / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = {"input_names": graph.inputs, "output_names": graph.outputs}
        exported = torch.onnx.export(program, dynamo=True, verbose=False, optimize=False, **names)
    path.write_bytes(exported.model_proto.SerializeToString())
    return path


@pytest.mark.parametrize("size", [(160, 224), (96, 128), (64, 64)])
def test_onnx_runtime_gives_the_same_at_every_size(model, onnx_file, size):
    session = pytest.importorskip("onnxruntime").InferenceSession(str(onnx_file))

    def run_graph(inputs, image_sizes):
        return session.run(None, {"images": inputs.numpy(), "image_sizes": image_sizes.numpy()})

    assert_suppressed(run_graph, model, size, 1e-4)


def test_openvino_gives_the_same(model, onnx_file):
    core = pytest.importorskip("openvino").Core()
    compiled = core.compile_model(core.read_model(onnx_file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run_graph(inputs, image_sizes):
        result = compiled([inputs.numpy(), image_sizes.numpy()])
        return [result[i] for i in range(3)]

    assert_suppressed(run_graph, model, (96, 128), 1e-4)
