"""Queries among PE's tokens, what they may look at, and what comes out."""

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch.nn import functional as F

import pe_spatial.backbones
import pe_spatial.data  # noqa: F401 - registers DensePreprocessor
from pe_spatial.backbones.vit import VisionTransformer
from pe_spatial.segmentation.mask_decoder.queries import QueryTokens, attention_mask, masking_probabilities
from pe_spatial.segmentation.semantic import SemanticModel

TINY = {"name": "tiny", "patch_size": 8, "width": 32, "depth": 4, "heads": 2, "mlp_ratio": 2, "image_size": 32}
KINDS = {  # cls token, layer scale: B has the first, G the second
    "cls": {"cls_token": True},
    "layer scale": {"cls_token": False, "layer_scale": 0.1},
}


def backbone(kind="cls", **options):
    return {"type": "PEBackbone", "variant": {**TINY, **KINDS[kind]}, **options}


def model(kind="cls", **options):
    torch.manual_seed(0)
    settings = {"backbone": backbone(kind), "num_queries": 6, "num_blocks": 2, "criterion": {"points": 64}}
    return MODELS.build({"type": "MaskDecoder", "num_classes": 4, **settings, **options}).eval()


def everything(kind="cls", **options):
    return model(kind, things=[2, 3], outputs=["semantic", "instance", "panoptic"], least_score=0.0, **options)


def sample(size=(32, 40), frame=None, instances=True):
    element = BaseDataElement(metainfo={"img_shape": size, "ori_shape": frame or size})
    labels = torch.zeros(1, *size, dtype=torch.int64)
    labels[:, size[0] // 2 :] = 1
    labels[:, :8, :8] = 2
    labels[:, :8, 16:24] = 2
    labels[:, -4:] = 255
    element.set_field(PixelData(data=labels), "gt_sem_seg", dtype=PixelData)
    if instances:
        masks = torch.zeros(2, *size, dtype=torch.bool)
        masks[0, :8, :8] = masks[1, :8, 16:24] = True
        element.gt_instances = InstanceData(labels=torch.tensor([2, 2]), masks=masks)
    return element


def images(*size, batch=1):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


# --- queries and PE ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rope", ["extrapolate", "interpolate"])
@pytest.mark.parametrize("kind", KINDS)
def test_unseen_queries_leave_the_encoder_as_it_is(kind, rope):
    """Where no patch looks at a query, patches end as in the plain encoder: order, positions and ln_pre are right."""
    built = model(kind, backbone=backbone(kind, rope=rope))
    encoder, inputs, grid = built.backbone.encoder, images(24, 40), (3, 5)
    tokens = built.queries.join(encoder, inputs)
    rope = built.queries.rope(encoder, grid, inputs.device)
    count = tokens.shape[1]
    mask = torch.ones(1, 1, count, count, dtype=torch.bool)
    mask[:, :, 6:, :6] = False
    with torch.no_grad():
        for block in range(built.queries.first, encoder.config.depth):
            tokens = encoder.run_block(block, tokens, rope, mask=mask)
        torch.testing.assert_close(tokens[:, 6:], encoder.forward_features(inputs)[0])
        expected = built.backbone(inputs)[0].flatten(2).transpose(1, 2)
    torch.testing.assert_close(built.queries.split(tokens, grid)[1], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_queries_have_no_place(kind):
    """Exchanged queries give exchanged answers, and nothing else changes: all have one and the same rotation."""
    built, order = model(kind), torch.tensor([3, 1, 5, 0, 2, 4])
    with torch.no_grad():
        before = built(images(32, 40))
        built.queries.tokens.copy_(built.queries.tokens[order])
        after = built(images(32, 40))
    torch.testing.assert_close(after.logits, before.logits[:, order])
    torch.testing.assert_close(after.class_logits, before.class_logits[:, order])
    assert not torch.allclose(before.logits[:, 0], before.logits[:, 1])


def test_the_identity_is_the_rotation_of_queries_and_class_token():
    encoder = VisionTransformer(model().backbone.config)
    table = QueryTokens(encoder, 3, 1).rope(encoder, (2, 2), torch.device("cpu"))
    assert torch.equal(table[:4, :, 0], torch.ones(4, 8)) and not table[:4, :, 1].any()  # cos, sin; 3 queries and cls
    assert table[4:, :, 1].any(1).all()


def test_queries_need_blocks_that_attend_globally():
    windowed = {"window": 2, "global_blocks": [3]}
    assert model(backbone=backbone(**windowed), num_blocks=1)(images(32, 40)).logits.shape == (1, 6, 8, 10)
    with pytest.raises(ValueError, match="last 2 blocks uses attention in windows"):
        model(backbone=backbone(**windowed), num_blocks=2)


# --- masked attention -------------------------------------------------------------------------------------------------
def test_a_masked_query_looks_at_its_own_mask_only():
    logits = torch.full((1, 2, 4, 4), -1.0)
    logits[0, 0, :2, :2] = 1.0  # the second query's mask is empty
    mask = attention_mask(logits, (2, 2), tokens=7, probability=1.0)  # 2 queries, cls, 4 patches
    assert mask.shape == (1, 1, 7, 7)
    assert mask[0, 0, 0].tolist() == [True, True, True, True, False, False, False]
    assert mask[0, 0, 1:].all()


def test_masking_happens_as_often_as_asked():
    logits = torch.full((4, 500, 2, 2), -1.0)
    logits[:, :, 0, 0] = 5.0
    assert attention_mask(logits, (2, 2), 510, 0.0) is None
    torch.manual_seed(0)
    mask = attention_mask(logits, (2, 2), 510, 0.3)[:, 0, :500, -4:]
    assert 0.25 < (~mask.all(2)).float().mean() < 0.35


def test_the_schedule_is_that_of_eomt():
    """Its ADE20K config: 39120 steps, block n from step 6520 (n + 1) to 6520 (n + 2)."""
    total, part = 39120, 6520
    for block in range(4):
        start, end = part * (block + 1), part * (block + 2)
        assert masking_probabilities(start / total, 4)[block] == pytest.approx(1)
        assert masking_probabilities(end / total, 4)[block] == pytest.approx(0, abs=1e-9)
        middle = masking_probabilities((start + part * 0.25) / total, 4)
        assert middle[block] == pytest.approx(0.75**0.9)
        assert all(p == 0 for p in middle[:block]) and all(p == 1 for p in middle[block + 1 :])
    assert masking_probabilities(0, 4) == [1] * 4 and masking_probabilities(1, 4) == [0] * 4


def test_evaluation_is_that_of_a_plain_encoder():
    built = model()
    with torch.no_grad():
        before = built(images(32, 40))
        built.masking = [1.0, 1.0]
        assert torch.equal(built(images(32, 40)).logits, before.logits)
        trained = built.train()(images(32, 40))
    assert not torch.equal(trained.logits, before.logits)


# --- the model --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns(kind, checkpointing):
    built = everything(kind, backbone=backbone(kind, checkpointing=checkpointing)).train()
    built.masking = [1.0, 0.5]
    losses = built(images(32, 40, batch=2), [sample(), sample((24, 32))], mode="loss")
    assert set(losses) == {"loss_class", "loss_mask", "loss_dice"}
    sum(losses.values()).backward()
    assert not [name for name, p in built.named_parameters() if p.requires_grad and p.grad is None]


def test_recomputed_blocks_give_the_same_gradient():
    gradients = []
    for checkpointing in (False, True):
        built = model(backbone=backbone(checkpointing=checkpointing)).train()
        built.masking = [1.0, 1.0]
        torch.manual_seed(3)
        sum(built(images(32, 32), [sample((32, 32))], mode="loss").values()).backward()
        gradients.append(built.queries.tokens.grad)
    torch.testing.assert_close(*gradients)


def test_contract():
    built = everything()
    assert isinstance(built, SemanticModel) and built.stride == 8
    with torch.no_grad():
        found = built(images(32, 40, batch=2), [sample(frame=(50, 61)), sample((24, 32))], mode="predict")
        scores = built.segment_logits(images(29, 37))
        assert scores.shape == (1, 4, 29, 37)
        assert built.score_map(images(32, 40)).shape == (1, 4, 8, 10)
    torch.testing.assert_close(built.probabilities(scores).sum(1), torch.ones(1, 29, 37))
    for each, size in zip(found, [(50, 61), (24, 32)], strict=True):
        assert each.pred_sem_seg.data.shape == (1, *size) and each.pred_sem_seg.data.dtype == torch.int64
        assert each.pred_panoptic.data.shape == (1, *size) and each.pred_panoptic.data.dtype == torch.int32
        instances = each.pred_instances
        assert all(tuple(rle["size"]) == size for rle in instances.masks) and set(instances.labels.tolist()) <= {2, 3}
        assert len(instances.bboxes) == len(instances.scores) == len(instances.masks)
        ids, counts = each.pred_panoptic.data.unique(return_counts=True)
        assert dict(zip(ids.tolist(), counts.tolist(), strict=True)) | {0: 0} == {
            0: 0,
            **{segment["id"]: segment["area"] for segment in each.segments},
        }


def test_a_batch_predicts_what_each_image_does():
    built = everything()
    inputs = images(32, 40, batch=2)
    with torch.no_grad():
        both = built(inputs, [sample(), sample()], mode="predict")
        for row, together in zip(inputs, both, strict=True):
            alone = built(row[None], [sample()], mode="predict")[0]
            assert torch.equal(alone.pred_sem_seg.data, together.pred_sem_seg.data)
            torch.testing.assert_close(alone.pred_instances.scores, together.pred_instances.scores)


def test_semantic_labels_are_those_of_the_score_map():
    only, all_outputs = model(), everything()
    all_outputs.load_state_dict(only.state_dict())
    with torch.no_grad():
        first, second = (each(images(32, 40), [sample()], mode="predict")[0] for each in (only, all_outputs))
        expected = F.interpolate(only.score_map(images(32, 40)), (32, 40), mode="bilinear").argmax(1)
    assert torch.equal(first.pred_sem_seg.data, expected)
    assert torch.equal(second.pred_sem_seg.data, expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_classes": 0}, "at least one class"),
        ({"outputs": ["boxes"]}, "must be some of"),
        ({"outputs": ["instance"]}, "set things"),
        ({"things": [4], "outputs": ["panoptic"]}, "thing 4 is not a label of 4 classes"),
        ({"things": [1], "outputs": ["instance"], "window": {"size": [32, 32], "stride": [16, 16]}}, "across windows"),
        ({"num_queries": 0}, "num_queries 0"),
        ({"num_blocks": 4}, "must be from 1 to 3"),
        ({"backbone": backbone(layers=[1])}, "last block; set layers"),
    ],
)
def test_what_contradicts_itself_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        model(**changes)


def test_classes_and_things_are_compared_with_the_data():
    built, names = everything(), tuple("abcd")
    built.check_classes({"classes": names, "is_thing": (False, False, True, True)})
    built.check_classes({"classes": names})
    with pytest.raises(ValueError, match="set model.num_classes=2"):
        built.check_classes({"classes": names[:2]})
    with pytest.raises(ValueError, match=r"things=\[2, 3\], the dataset has \[0\]: a; set model.things"):
        built.check_classes({"classes": names, "is_thing": (True, False, False, False)})
    model().check_classes({"classes": names, "is_thing": (True, False, False, False)})  # semantic only: all the same
