"""The whole DETA: images in batches, choice of queries, input that it refuses, precision, learning."""

import pytest
import torch
from conftest import ENCODER
from mmengine.structures import BaseDataElement, InstanceData

from pe_spatial.detection.deta import DETA
from pe_spatial.detection.deta.proposals import select_per_level, select_top_k
from pe_spatial.detection.deta.tokens import TokenGrid, sine_code


def settings(**changes):
    made = {
        "num_classes": 3,
        "backbone": {"type": "PEBackbone", "variant": ENCODER},
        "neck": {"type": "DetaPyramid", "out_channels": 32, "levels": 3},
        "transformer": {
            "num_queries": 20,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "anchor_size": 0.2,
            "layer": {"heads": 2, "points": 2, "ffn_channels": 32},
        },
        "data_preprocessor": {"type": "DensePreprocessor", "size_divisor": 64},
    }
    return {**made, **changes}


def build(**changes):
    torch.manual_seed(0)
    return DETA(**settings(**changes))


def prepared(model, scenes):
    data = {key: [scene[key] for scene in scenes] for key in ("inputs", "data_samples")}
    return model.data_preprocessor(data, True)


def run(model, scenes, mode):
    return model(**prepared(model, scenes), mode=mode)


# --- images in a batch ------------------------------------------------------------------------------------------------
def test_a_padded_image_is_seen_as_it_is_alone():
    """Neither its neighbor in the batch nor the padding changes what is said of an image.

    The pyramid's convolutions and norms see padding, so the transformer is tested on maps that do not.
    """
    model = build().eval()
    generator = torch.Generator().manual_seed(0)
    shapes, wide = ((8, 8), (4, 4), (2, 2)), ((16, 12), (8, 6), (4, 3))
    maps = [torch.randn(1, 32, *shape, generator=generator) for shape in shapes]
    padded = [torch.randn(2, 32, *shape, generator=generator) for shape in wide]
    for own, shared in zip(maps, padded, strict=True):
        shared[:1, :, : own.shape[2], : own.shape[3]] = own
    grid = TokenGrid.of(maps, [(64, 64)], (64, 64))
    both = TokenGrid.of(padded, [(64, 64), (128, 96)], (128, 96))

    def choose(objectness, *rest):
        return select_top_k(
            objectness.masked_fill(rest[1].padding, -torch.inf), *rest
        )  # untrained, all cells look alike

    with torch.no_grad():
        alone = model.transformer(maps, grid, choose).layers[-1]
        shared = model.transformer(padded, both, choose).layers[-1]
    torch.testing.assert_close(shared.logits[:1], alone.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shared.boxes[:1], alone.boxes, atol=1e-5, rtol=1e-5)


def test_detections_are_in_the_original_frame_best_first(make_scene):
    model = build().eval()
    small, large = make_scene(0), make_scene(0, scale=3)
    with torch.no_grad():
        (one,), (three,) = run(model, [small], "predict"), run(model, [large], "predict")
    torch.testing.assert_close(three.pred_instances.bboxes, 3 * one.pred_instances.bboxes)
    scores = one.pred_instances.scores
    assert len(scores) > 0 and (scores.diff() <= 0).all()
    assert one.pred_instances.labels.max() < 3


def test_a_pyramid_of_the_foundation_serves_too(make_scene):
    model = build(neck={"type": "SimpleFeaturePyramid", "out_channels": 32})
    losses = run(model, [make_scene(0)], "loss")
    assert all(value.isfinite() for value in losses.values())


# --- the geometry of tokens -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("inside", "whole"), [((40, 64), (64, 64)), ((33, 17), (64, 96)), ((64, 96), (64, 96))])
def test_padding_is_what_nearest_resizing_makes_of_the_images_mask(inside, whole):
    maps = [torch.zeros(1, 1, whole[0] // s, whole[1] // s) for s in (8, 16, 32)] + [torch.zeros(1, 1, 3, 5)]
    grid = TokenGrid.of(maps, [inside], whole)
    mask = torch.ones(1, 1, *whole)
    mask[..., : inside[0], : inside[1]] = 0
    expected = [torch.nn.functional.interpolate(mask, size=m.shape[-2:]).flatten().bool() for m in maps]
    assert torch.equal(grid.padding[0], torch.cat(expected))


def test_anchors_are_boxes_in_the_centers_of_cells():
    grid = TokenGrid.of([torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 1, 2)], [(16, 32)], (16, 32))
    expected = [[0.375, 0.25, 0.1, 0.1], [0.75, 0.5, 0.2, 0.2]]
    torch.testing.assert_close(grid.anchors(0.1)[0][[1, 9]], torch.tensor(expected))
    assert grid.levels.tolist() == [0] * 8 + [1] * 2


def test_sine_codes_tell_numbers_apart_and_their_length_does_not():
    codes = sine_code(torch.linspace(0, 0.99, 100)[:, None], 64)
    assert codes.shape == (100, 64)
    torch.testing.assert_close(codes.square().sum(-1), torch.full((100,), 32.0))
    assert (torch.pdist(codes) > 0.05).all()


# --- which tokens become queries --------------------------------------------------------------------------------------
def make_tokens(seed=0):
    shapes = [(8, 8), (4, 4), (2, 2)]
    grid = TokenGrid.of([torch.zeros(1, 1, *shape) for shape in shapes], [(64, 64)], (64, 64))
    logits = torch.randn(1, 84, generator=torch.Generator().manual_seed(seed))
    return logits, grid.anchors(0.05), grid


def test_levels_share_the_queries():
    logits, boxes, grid = make_tokens()
    (chosen,) = select_per_level(logits - 5 * grid.levels, boxes, grid, 15)  # the finest level is the surest by far
    assert len(set(chosen.tolist())) == 15
    counts = grid.levels[chosen].bincount().tolist()
    assert counts == [6, 5, 4]  # five each; the coarsest has four, and the best of the others fills up


def test_boxes_that_repeat_a_better_one_are_passed_over():
    logits, boxes, grid = make_tokens()
    boxes = boxes.clone()
    boxes[0, 1] = boxes[0, 0]
    logits[0, :2] = torch.tensor([9.0, 8.0])
    chosen = set(select_per_level(logits, boxes, grid, 12)[0].tolist())
    assert 0 in chosen and 1 not in chosen
    assert {0, 1} <= set(select_top_k(logits, boxes, grid, 12)[0].tolist())


def test_too_few_different_boxes_are_filled_up():
    logits, boxes, grid = make_tokens()
    chosen = select_per_level(logits, boxes[:, :1].expand(-1, 84, -1), grid, 12)  # one box on every level
    assert len(set(chosen[0].tolist())) == 12


# --- input that is refused, or that must not matter -------------------------------------------------------------------
def test_more_queries_than_cells():
    model = build(transformer={**settings()["transformer"], "num_queries": 200})
    with pytest.raises(ValueError, match=r"200 queries .* 84 cells .*num_queries"):
        model(torch.zeros(1, 3, 64, 64))


def crowded(objects):
    corner = torch.rand(objects, 2) * 30
    sample = BaseDataElement(metainfo={"img_shape": (64, 64), "ori_shape": (64, 64), "img_path": "crowd.jpg"})
    boxes, labels = torch.cat([corner, corner + 20], 1), torch.zeros(objects, dtype=torch.int64)
    sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
    return {"inputs": torch.zeros(3, 64, 64, dtype=torch.uint8), "data_samples": sample}


def test_more_objects_than_queries_one_to_one():
    model = build(matching="one_to_one")
    with pytest.raises(ValueError, match=r"crowd.jpg: 25 objects, .* 20 queries; set model.transformer.num_queries"):
        run(model, [crowded(25)], "loss")
    metainfo = {"classes": ("a", "b", "c"), "most_objects": 25}
    with pytest.raises(ValueError, match=r"an image of the training data has 25 objects"):
        model.bind_dataset(metainfo)
    assert run(model, [crowded(20)], "loss")["loss_class"].isfinite()


def test_more_objects_than_queries_by_overlap_is_said_and_trained(monkeypatch):
    model, said = build(), []
    monkeypatch.setattr("pe_spatial.detection.deta.model.print_log", lambda text, *_: said.append(text))
    model.bind_dataset({"classes": ("a", "b", "c"), "most_objects": 20})
    assert not said
    model.bind_dataset({"classes": ("a", "b", "c"), "most_objects": 25})
    assert "25 objects" in said[0] and "20 queries" in said[0]
    assert run(model, [crowded(25)], "loss")["loss_class"].isfinite()


def test_another_number_of_classes_than_the_data():
    with pytest.raises(ValueError, match=r"num_classes=3, the dataset has 2 classes"):
        build().bind_dataset({"classes": ("a", "b")})


def test_labels_beyond_the_head(make_scene):
    scene = make_scene(0)
    scene["data_samples"].gt_instances.labels[0] = 7
    with pytest.raises(ValueError, match=r"labels \d to 7, but the model has num_classes=3, labels 0 to 2"):
        run(build(), [scene], "loss")


def test_boxes_without_area_do_not_count(make_scene):
    model, scene = build(), make_scene(0)
    torch.manual_seed(0)
    expected = run(model, [scene], "loss")
    truth = scene["data_samples"].gt_instances
    flat = torch.tensor([[5.0, 5, 5, 30], [9, 9, 9, 9]])
    scene["data_samples"].gt_instances = InstanceData(
        bboxes=torch.cat([truth.bboxes, flat]), labels=torch.cat([truth.labels, torch.tensor([0, 1])])
    )
    torch.manual_seed(0)
    found = run(model, [scene], "loss")
    assert {key: value.item() for key, value in found.items()} == {key: v.item() for key, v in expected.items()}


@pytest.mark.parametrize("matching", ["iou", "one_to_one"])
def test_images_without_objects_train(make_scene, matching):
    model = build(matching=matching)
    sum(run(model, [make_scene(0, objects=0)], "loss").values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 0}, "must be at least 1"),
        ({"matching": "hungarian"}, "is not one of iou, one_to_one"),
        ({"loss_weights": [1, 5]}, "must be three"),
        ({"neck": {"type": "DetaPyramid", "out_channels": 48}}, "multiple of 32"),
        ({"neck": {"type": "DetaPyramid", "levels": 2}}, "levels is 2"),
        ({"transformer": {"anchor_size": 1.5}}, "anchor_size 1.5"),
        ({"transformer": {"num_queries": 0}}, "num_queries is 0"),
        ({"neck": {"type": "DetaPyramid", "in_channels": 64}}, "neck.in_channels is 64, but the model sets 32"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


def test_learnt_queries_start_from_points_and_the_encoder_proposes_nothing(make_scene):
    model = build(**plain_settings()).eval()
    with torch.no_grad():
        predictions = run(model, [make_scene(0)], "tensor")
    assert predictions.encoder is None
    first, second = predictions.layers
    assert first.references.shape == (1, 20, 2) and second.references.shape == (1, 20, 4)
    torch.testing.assert_close(first.boxes[..., :2], first.references)  # an untrained head moves nothing
    torch.testing.assert_close(first.boxes[..., 2:], torch.full((1, 20, 2), 0.1192), atol=1e-4, rtol=0)
    assert set(run(model, [make_scene(0)], "loss")) == {
        f"loss_{n}{s}" for n in ("class", "bbox", "giou") for s in ("", "_0")
    }


def test_learnt_queries_have_no_boxes_to_overlap():
    with pytest.raises(ValueError, match="learned queries have none; set matching: one_to_one"):
        build(**{**plain_settings(), "matching": "iou"})


# --- precision and memory ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("float32_transformer", [True, False])
def test_bfloat16_comes_near(make_scene, float32_transformer):
    model = build(float32_transformer=float32_transformer).eval()
    scenes = [make_scene(0), make_scene(1)]
    with torch.no_grad():
        expected = run(model, scenes, "tensor").encoder
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = run(model, scenes, "tensor").encoder
    assert found.boxes.dtype == torch.float32  # bf16 tells 256 places apart
    assert found.logits.dtype == (torch.float32 if float32_transformer else torch.bfloat16)
    torch.testing.assert_close(found.logits.float(), expected.logits, atol=0.1, rtol=0.05)
    torch.testing.assert_close(found.boxes, expected.boxes, atol=0.02, rtol=0)


@pytest.mark.parametrize("float32_transformer", [True, False])
def test_bfloat16_trains(make_scene, float32_transformer):
    model = build(float32_transformer=float32_transformer).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = run(model, [make_scene(0)], "loss")
    assert all(value.dtype == torch.float32 for value in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_saving_memory_changes_no_gradient(make_scene):
    gradients = []
    plain = settings()["transformer"]
    for transformer in (plain, {**plain, "checkpointing": True, "layer": {**plain["layer"], "chunk": 16}}):
        model = build(transformer=transformer).train()
        sum(run(model, [make_scene(0)], "loss").values()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-4)


# --- learning ---------------------------------------------------------------------------------------------------------
def plain_settings():
    """Deformable DETR: learned queries, matched one to one."""
    return {"matching": "one_to_one", "transformer": {**settings()["transformer"], "two_stage": False}}


@pytest.mark.parametrize("changes", [{}, {"matching": "one_to_one"}, plain_settings()], ids=["iou", "one", "learned"])
def test_every_parameter_is_reached_and_a_scene_is_learnt(make_scene, changes):
    model = build(**changes).train()
    scene = make_scene(3, objects=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    first = None
    for _ in range(20):
        losses = run(model, [scene], "loss")
        total = sum(losses.values())
        first = first or {key: value.item() for key, value in losses.items()}
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    assert reached == {name for name, p in model.named_parameters() if p.requires_grad}
    assert losses["loss_giou"].item() < 0.7 * first["loss_giou"]
    assert losses["loss_bbox"].item() < 0.7 * first["loss_bbox"]
