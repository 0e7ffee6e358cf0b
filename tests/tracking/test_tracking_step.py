"""A step of the tracker as a graph: compiled or exported it gives what the tracker gives."""

import re
from pathlib import Path

import pytest
import torch

from pe_spatial.common.graphs import NetworkGraph
from pe_spatial.export.graphs import onnx_of
from pe_spatial.tracking.decoding import Decoding, decode
from pe_spatial.tracking.label_tracker import LabelTracker
from pe_spatial.tracking.model import VideoTracker
from pe_spatial.tracking.propagation import Propagation, unit
from pe_spatial.tracking.tracking_step import TrackingStep

GRID, INPUT, FRAME = (6, 10), (48, 80), (50, 83)
HOWS = [Propagation(radius=2), Propagation(radius=2.5, shape="circle", topk=3), Propagation(radius=None)]
DECODINGS = [Decoding(), Decoding(upsampling="nearest", at_frame_size=True), Decoding(stretch=False)]
TINY = {"name": "tiny", "patch_size": 8, "width": 32, "depth": 2, "heads": 2, "mlp_ratio": 2, "image_size": 64}


def in_the_midst(how, decoding):
    """A tracker that has followed two objects for a few frames, and the features of the next one."""
    random = torch.Generator().manual_seed(0)
    clip = [unit(torch.randn(*GRID, 16, generator=random)) for _ in range(5)]
    mask = torch.zeros(FRAME, dtype=torch.int64)
    mask[10:30, 10:40], mask[20:45, 50:70] = 4, 9
    tracker = LabelTracker(how, decoding, recent=3)
    for number, features in enumerate(clip[:-1]):
        tracker.step(features, INPUT, FRAME, mask if number == 0 else None)
    return tracker, clip[-1]


def step_of(tracker):
    return TrackingStep(tracker.propagation, tracker.decoding, INPUT, FRAME)


def compiled(step, inputs):
    torch._dynamo.reset()
    return torch.compile(step, fullgraph=True, backend="aot_eager")


def exported(step, inputs):
    return torch.export.export(step, inputs, strict=False).module()


@pytest.mark.parametrize("decoding", DECODINGS)
@pytest.mark.parametrize("how", HOWS)
def test_it_is_the_step_of_the_tracker(how, decoding):
    tracker, features = in_the_midst(how, decoding)
    keys, labels = tracker.memory.keys.clone(), tracker.memory.labels.clone()
    shares, winner = step_of(tracker)(features, keys, labels)
    assert torch.equal(torch.tensor([0, 4, 9])[winner].byte(), tracker.step(features, INPUT, FRAME))
    latest = max(range(len(tracker.memory.slots)), key=lambda number: tracker.memory.slots[number].frame)
    assert torch.equal(shares, tracker.memory.labels[:, :, latest])


@pytest.mark.parametrize("graph", [compiled, exported])
@pytest.mark.parametrize(("how", "decoding"), list(zip(HOWS, DECODINGS, strict=True)))
def test_a_graph_of_it_gives_the_same(how, decoding, graph):
    tracker, features = in_the_midst(how, decoding)
    inputs = (features, tracker.memory.keys, tracker.memory.labels)
    step = step_of(tracker)
    shares, winner = graph(step, inputs)(*inputs)
    torch.testing.assert_close(shares, step(*inputs)[0], atol=1e-5, rtol=0)
    assert torch.equal(winner, step(*inputs)[1]) and len(winner.unique()) > 1


@pytest.mark.parametrize("graph", [compiled, exported])
def test_a_graph_holds_for_other_values(graph):
    tracker, features = in_the_midst(HOWS[0], DECODINGS[0])
    inputs = (features, tracker.memory.keys, tracker.memory.labels)
    made = graph(step_of(tracker), inputs)
    others = (features.flip(0), tracker.memory.keys.flip(1), torch.zeros_like(tracker.memory.labels))
    for ours, theirs in zip(made(*others), step_of(tracker)(*others), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("graph", [compiled, exported])
def test_with_its_encoder(graph):
    torch.manual_seed(0)
    backbone = {"type": "PEBackbone", "variant": {**TINY, "cls_token": True}}
    tracker = VideoTracker(backbone, {"short_side": 48}, {"radius": 2}, recent=2)
    frame = torch.randint(0, 256, (3, 48, 80), dtype=torch.uint8)
    maps, _ = tracker.maps([frame])
    inputs = (
        tracker.normalize({"inputs": [frame]})["inputs"],
        torch.stack([maps[0][0]] * 2, 2),
        torch.rand(6, 10, 2, 3),
    )
    features, shares = tracker(inputs)
    assert torch.equal(features, maps[0][0])
    with torch.no_grad():
        found = graph(tracker, (inputs,))(inputs)
    for ours, theirs in zip((features, shares), found, strict=True):
        torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)


def test_an_even_channel_is_zero_everywhere():
    channels = torch.stack((torch.full((4, 5), 0.3), torch.full((4, 5), 0.3)), dim=-1)
    assert not decode(channels, Decoding(), (8, 10), (8, 10)).any()  # equal: the earlier one, the background


@pytest.mark.parametrize(("how", "decoding"), list(zip(HOWS, DECODINGS, strict=True)))
def test_onnx_runtime_gives_the_same(how, decoding):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    tracker, features = in_the_midst(how, decoding)
    step, inputs = step_of(tracker), (features, tracker.memory.keys, tracker.memory.labels)
    graph = NetworkGraph(step, ("features", "keys", "labels"), ("shares", "winner"), multiple=1)
    proto = onnx_of(torch.export.export(step, inputs, strict=False), graph).model_proto
    session = runtime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    shares, winner = session.run(None, {name: value.numpy() for name, value in zip(graph.inputs, inputs, strict=True)})
    torch.testing.assert_close(torch.from_numpy(shares), step(*inputs)[0], atol=1e-5, rtol=0)
    assert torch.equal(torch.from_numpy(winner), step(*inputs)[1])


def test_the_example_of_the_page_runs():
    page = (Path(__file__).parents[2] / "docs/export.md").read_text(encoding="utf-8")
    (code,) = (each for each in re.findall(r"```python\n(.*?)```", page, re.S) if "TrackingStep" in each)
    names = {}
    exec(compile(code, "docs/export.md", "exec"), names)
    assert names["shares"].shape == (6, 10, 2) and names["winner"].shape == (48, 80)
