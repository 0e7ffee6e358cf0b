"""Mask R-CNN as a graph: its form of fixed sizes finds what eager prediction finds, here and in ONNX Runtime."""

import copy
import logging
import warnings

import pytest
import torch
from conftest import model_settings
from mmengine.structures import BaseDataElement
from torchvision.ops import box_iou

from pe_spatial.common.errors import OptionError
from pe_spatial.common.graphs import Exportable
from pe_spatial.data import decode_masks
from pe_spatial.detection.mask_rcnn import MaskRCNN
from pe_spatial.detection.mask_rcnn.pooler import RoIPooler
from pe_spatial.detection.nms import Suppression, set_apart, survivors
from pe_spatial.engines.bridge import engine_of
from pe_spatial.engines.header import Header

ANY = torch.export.Dim.DYNAMIC
SIZES = [(96, 128), (50, 33), (70, 128)]  # of images that are padded to 96 x 128


def build(**changes) -> MaskRCNN:
    """An untrained model with three levels whose heads say something."""
    torch.manual_seed(0)
    settings = model_settings(**changes)
    settings["neck"] = {**settings["neck"], "levels": (4, 5, 6)}
    settings["rpn"] = {**settings["rpn"], "anchor_sizes": (16, 32, 64)}
    model = MaskRCNN(**settings).eval()
    with torch.no_grad():
        for parameter in model.roi_heads.box_predictor.parameters():
            parameter.mul_(30)
        for head in (model.rpn.head.objectness, model.rpn.head.deltas):
            head.weight.mul_(30)
    return model


def roi_heads(**changes):
    return {**model_settings()["roi_heads"], **changes}


@pytest.fixture(scope="module")
def model() -> MaskRCNN:
    return build()


def images(number, size=(96, 128), seed=1):
    return torch.randn(number, 3, *size, generator=torch.Generator().manual_seed(seed))


def tensor_of(sizes):
    return torch.tensor(sizes, dtype=torch.float32)


def assert_found(found, model, inputs, sizes, atol=1e-5):
    """The outputs of a graph are the detections of `find`, then zeros."""
    expected = model.find(inputs, sizes)
    assert len(expected) == len(inputs)
    for i, detections in enumerate(expected):
        count = len(detections.boxes)
        for part, wanted in zip(found, detections, strict=False):
            torch.testing.assert_close(part[i, :count], wanted, atol=atol, rtol=0)
            assert part[i].dtype == wanted.dtype and not part[i, count:].any()
    return sum(len(detections.boxes) for detections in expected)


@torch.no_grad()
def run(model, inputs, sizes, kind=""):
    return model.graph(kind).module(inputs, tensor_of(sizes))


# --- the form of fixed sizes ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", [1, 3])
def test_it_finds_what_eager_prediction_finds(model, number):
    found = run(model, images(number), SIZES[:number])
    assert [tuple(part.shape) for part in found] == [(number, 10, *rest) for rest in ((4,), (), (), (28, 28))]
    with torch.no_grad():
        assert assert_found(found, model, images(number), SIZES[:number]) == 10 * number


@pytest.mark.parametrize("threshold", [0.6, 1.0])
def test_places_without_a_detection_are_zero(threshold):
    model = build(roi_heads=roi_heads(score_threshold=threshold, max_detections=20))
    found = run(model, images(3), SIZES)
    with torch.no_grad():
        count = assert_found(found, model, images(3), SIZES)
    assert (0 < count < 60) if threshold < 1 else count == 0


def test_no_proposal_at_all_gives_no_detection(model):
    """Offsets that are not finite leave no proposal, as in eager prediction."""
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.rpn.head.deltas.bias.fill_(torch.inf)
        assert assert_found(run(broken, images(1), SIZES[:1]), broken, images(1), SIZES[:1]) == 0


def test_of_equal_scores_any_box_may_win_but_only_one(model):
    """The class head says the same of every proposal; which box suppresses the other is then open."""
    tied = copy.deepcopy(model)
    with torch.no_grad():
        tied.roi_heads.box_predictor.cls_score.weight.zero_()
        expected = tied.find(images(2), SIZES[:2])
    boxes, scores, labels, _ = run(tied, images(2), SIZES[:2])
    for i, detections in enumerate(expected):
        assert len(detections.scores.unique()) < len(detections.scores) == 10
        torch.testing.assert_close(scores[i], detections.scores)
        same = labels[i, :, None] == labels[i]
        assert box_iou(boxes[i], boxes[i]).masked_select(same.triu(1)).max() <= 0.5


def test_without_masks_there_are_three_outputs():
    model = build(roi_heads={**roi_heads(), "masks": False})
    graph = model.graph()
    assert graph.outputs == ("boxes", "scores", "labels")
    found = run(model, images(2), SIZES[:2])
    with torch.no_grad():
        assert_found(found, model, images(2), SIZES[:2])


def test_raw_outputs_are_what_detections_are_chosen_from(model):
    boxes, scores = run(model, images(3), SIZES, "raw")
    assert boxes.shape == (3, 30, 3, 4) and scores.shape == (3, 30, 3)
    for i, (height, width) in enumerate(SIZES):
        assert boxes[i].min() >= 0
        assert boxes[i, ..., 0::2].max() <= width and boxes[i, ..., 1::2].max() <= height
        with torch.no_grad():
            (found,) = model.find(images(3)[i : i + 1], SIZES[i : i + 1])
        rows = boxes[i].transpose(0, 1)[found.labels]  # [D, P, 4]
        near = (rows - found.boxes[:, None]).abs().amax(2).min(1)
        assert near.values.max() < 1e-4
        torch.testing.assert_close(scores[i][near.indices, found.labels], found.scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["", "raw"])
def test_soft_suppression_has_a_raw_graph_only(kind):
    model = build(roi_heads=roi_heads(nms={"method": "linear"}))
    if kind:
        assert model.graph(kind).outputs == ("boxes", "scores")
    else:
        with pytest.raises(OptionError, match="'linear'.*kind 'raw'"):
            model.graph()


def test_a_graph_that_does_not_exist_is_named(model):
    with pytest.raises(OptionError, match="'logits'"):
        model.graph("logits")


def test_a_file_of_one_size_takes_smaller_images_and_leaves_masks_whole(model):
    """What pads the images cuts maps, and the cells of a mask are none of the image."""
    graph = model.graph()

    class OneSize:
        @torch.no_grad()
        def run(self, arrays):
            inputs = [torch.from_numpy(array) for array in arrays]
            assert inputs[0].shape == (2, 3, 96, 128)
            return [part.numpy() for part in graph.module(*inputs)]

    facts = {"kind": "", "config": "{}", "metainfo": {}, "preprocessing": {}, "source": {}}
    header = Header(graph.inputs, graph.outputs, graph.multiple, 2, (96, 128), "fp32", **facts)
    inside = [(70, 90), (80, 112), (64, 64)]
    found = engine_of(OneSize(), header)(images(3, (80, 112)), tensor_of(inside))
    assert found[3].shape == (3, 10, 28, 28)
    whole = torch.nn.functional.pad(images(3, (80, 112)), (0, 16, 0, 16))
    with torch.no_grad():
        assert assert_found(found, model, whole, inside) > 0


def test_the_network_compiles_as_one_graph(model):
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        for found, wanted in zip(compiled(images(1)), model(images(1)), strict=True):
            torch.testing.assert_close(found, wanted)


# --- its parts --------------------------------------------------------------------------------------------------------
def test_crops_are_those_of_the_eager_pooler():
    """Of boxes of every level, of one without area, and of one whose image is not the first."""
    pooler = RoIPooler(7, (4, 8))
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(2, 3, 256 // s, 256 // s, generator=generator) for s in pooler.strides]
    corner = torch.rand(2, 40, 2, generator=generator) * 60
    side = 2 ** (torch.rand(2, 40, 2, generator=generator) * 6 + 2)
    boxes = torch.cat([corner, (corner + side).clamp(max=256)], 2)
    boxes[1, 3] = torch.tensor([5.0, 5, 5, 9])
    assert set(pooler.levels(boxes.reshape(-1, 4)).tolist()) == {0, 1}
    torch.testing.assert_close(pooler.fixed(features, boxes), pooler(features, list(boxes)))


@pytest.mark.parametrize("classes", [1, 3, 80])
def test_suppression_in_fixed_sizes_is_suppression(classes):
    generator = torch.Generator().manual_seed(classes)
    corner = torch.rand(300, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + 5 + torch.rand(300, 2, generator=generator) * 30], 1)
    scores = torch.rand(300, generator=generator)
    labels = torch.randint(classes, (300,), generator=generator)
    suppress = Suppression("nms", 0.5)
    keep, wanted = suppress(boxes, scores, labels)
    absent = torch.cat([scores, torch.full((9,), -torch.inf)])  # places without a box change nothing
    box, score, label = suppress.fixed(
        torch.cat([boxes, torch.zeros(9, 4)]), absent, torch.cat([labels, torch.zeros(9).long()]), classes, 309
    )
    count = len(keep)
    torch.testing.assert_close(score[:count], wanted)
    assert torch.equal(box[:count], boxes[keep]) and torch.equal(label[:count], labels[keep])
    assert not score[count:].any() and not box[count:].any()


def test_a_graph_of_suppression_holds_where_one_box_survives():
    """torchvision tells torch.export that there are two at least."""

    class Survivors(torch.nn.Module):
        def forward(self, boxes, scores):
            return survivors(boxes, scores, 0.5)

    scores = torch.rand(6, generator=torch.Generator().manual_seed(0))
    graph = torch.export.export(Survivors(), (torch.rand(6, 4), scores), strict=False).module()
    found = graph(torch.tensor([[0.0, 0, 1, 1]]).repeat(6, 1), scores)
    assert found.tolist() == [i == int(scores.argmax()) for i in range(6)]


def test_classes_that_are_set_apart_do_not_overlap():
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(7, 1)
    moved = set_apart(boxes, torch.arange(7), 7)
    for i in range(7):
        apart = (moved[:, :2] > moved[i, 2:]).any(1) | (moved[:, 2:] < moved[i, :2]).any(1)
        assert apart.tolist() == [j != i for j in range(7)]
    torch.testing.assert_close(moved[:, 2:] - moved[:, :2], boxes[:, 2:] - boxes[:, :2])


# --- exported ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def program(model):
    """Two images of any size."""
    graph = model.graph()
    assert isinstance(model, Exportable) and graph.free_size and not graph.free_batch
    size = tuple(side * graph.multiple for side in graph.example)
    example = (images(2, size), tensor_of([size] * 2))
    shapes = {"inputs": ({2: ANY, 3: ANY}, None)}
    return torch.export.export(graph.module, example, dynamic_shapes=shapes, strict=False)


def test_the_exported_program_holds_at_other_sizes(model, program):
    module = program.module()
    for size in ((96, 128), (208, 144)):
        inside = [(size[0], size[1] - 9), (size[0] // 2, size[1])]
        with torch.no_grad():
            assert assert_found(module(images(2, size), tensor_of(inside)), model, images(2, size), inside) > 0


@pytest.fixture(scope="module")
def onnx_file(model, program, tmp_path_factory):
    pytest.importorskip("onnxscript")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    graph, path = model.graph(), tmp_path_factory.mktemp("graph") / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = {"input_names": graph.inputs, "output_names": graph.outputs}
        exported = torch.onnx.export(program, dynamo=True, verbose=False, optimize=False, **names)
    path.write_bytes(exported.model_proto.SerializeToString())
    return path


@pytest.fixture(scope="module")
def engine(onnx_file):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(onnx_file))

    def run_engine(inputs, image_sizes):
        fed = {"images": inputs.numpy(), "image_sizes": image_sizes.numpy()}
        return tuple(map(torch.from_numpy, session.run(None, fed)))

    return run_engine


@pytest.mark.parametrize("size", [(192, 160), (96, 128), (32, 48)])
def test_onnx_runtime_finds_the_same_at_every_size(model, engine, size):
    inside = [(size[0], size[1] - 9), (size[0] // 2, size[1])]
    with torch.no_grad():
        assert assert_found(engine(images(2, size), tensor_of(inside)), model, images(2, size), inside, 1e-4) > 0


def test_prediction_with_an_engine_is_prediction(model, engine):
    """The masks at the size of the photograph too."""

    def samples():
        return [
            BaseDataElement(metainfo={"img_shape": size, "ori_shape": tuple(3 * s for s in size)}) for size in SIZES[:2]
        ]

    replaced = copy.copy(model)
    replaced.use_engine(engine)
    with torch.no_grad():
        expected, found = (each.predict(images(2), samples()) for each in (model, replaced))
    for sample, other in zip(expected, found, strict=True):
        one, two = sample.pred_instances, other.pred_instances
        assert len(one) and torch.equal(one.labels, two.labels)
        torch.testing.assert_close(two.bboxes, one.bboxes, atol=1e-3, rtol=0)
        torch.testing.assert_close(two.scores, one.scores, atol=1e-4, rtol=0)
        assert (decode_masks(one.masks) != decode_masks(two.masks)).float().mean() < 1e-3


def test_openvino_finds_the_same(model, onnx_file):
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(onnx_file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    result = compiled([images(2).numpy(), tensor_of(SIZES[:2]).numpy()])
    found = [torch.from_numpy(result[i]) for i in range(4)]
    with torch.no_grad():
        assert assert_found(found, model, images(2), SIZES[:2], 1e-3) > 0
