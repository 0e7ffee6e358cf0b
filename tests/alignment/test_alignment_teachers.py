"""Teachers: layers, exact masks, and tokens that all look at."""

import pytest
import torch
from alignment_scenes import CORE, batch, scene
from mmengine.structures import BaseDataElement, InstanceData
from torch.nn import functional as F

from pe_spatial.alignment.global_tokens import attended_by, watch_global_tokens
from pe_spatial.alignment.teachers import InstanceMaskTeacher, LayerTeacher, block_number
from pe_spatial.backbones import VisionTransformer, get_variant, rotary_table


@pytest.mark.parametrize(
    ("layer", "depth", "number"),
    [(0.82, 50, 40), (40, 50, 40), (-10, 50, 40), (1.0, 12, 11), (0.82, 6, 4), (0.01, 12, 0)],
)
def test_layers_by_number_or_fraction(layer, depth, number):
    """0.82 of PE-Core-G's 50 blocks is the paper's 41, counted from 1."""
    assert block_number(layer, depth) == number


@pytest.mark.parametrize("layer", [0.0, 1.5, 50, -51])
def test_layers_that_do_not_exist(layer):
    with pytest.raises(ValueError, match=str(layer)):
        block_number(layer, 50)


def test_a_teacher_keeps_no_block_that_it_does_not_need():
    teacher = LayerTeacher({**CORE, "ln_post": True, "attn_pool": True, "pool_heads": 2, "output_dim": 4}, layer=1)
    names = {name.split(".")[2] for name in teacher.state_dict() if "resblocks" not in name}
    assert names == {"positional_embedding", "conv1", "ln_pre"}
    assert len(teacher.backbone.encoder.transformer.resblocks) == 2
    assert teacher.train() is teacher
    assert not teacher.training


def test_an_unknown_type_is_refused():
    with pytest.raises(ValueError, match="float16"):
        LayerTeacher(CORE, dtype="float16")


def logits(masks, grid):
    sample = BaseDataElement(gt_instances=InstanceData(masks=masks))
    return InstanceMaskTeacher()(torch.zeros(1, 3, *masks.shape[1:]), [sample], grid)[0]


def test_exact_masks_are_those_of_a_prompt_in_every_cell():
    """The compact channels have the cosines of a channel per prompt, +1 inside its segment and -1 outside."""
    masks = torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[0, :16, :16] = masks[1, 8:, 24:] = masks[2, 20:, :12] = True
    segments = torch.cat((masks, ~masks.any(0, keepdim=True))).float()
    cover = F.avg_pool2d(segments, 4) * 2 - 1  # [4, 8, 8]
    hit = segments[:, 2::4, 2::4].argmax(0)  # the segment under each prompt
    expected = cover[hit.flatten()].flatten(1)  # a channel per prompt
    ours = logits(masks, (8, 8)).flatten(1)
    torch.testing.assert_close(*(F.normalize(x, dim=0).T @ F.normalize(x, dim=0) for x in (ours, expected)))


def test_images_with_fewer_instances_are_filled_up_without_effect():
    few, many = scene(0), scene(1)
    few["data_samples"].gt_instances = few["data_samples"].gt_instances[:1]
    data = batch(few, many)
    teacher, inputs = InstanceMaskTeacher(), torch.zeros(2, 3, 32, 32)
    together = teacher(inputs, data["data_samples"], (4, 4))
    alone = teacher(inputs[:1], data["data_samples"][:1], (4, 4))
    assert together.shape == (2, 3, 4, 4)
    assert torch.equal(together[:1, :2], alone)
    assert not together[0, 2].any()


def test_an_image_without_instances_is_one_segment():
    flat = logits(torch.zeros(0, 16, 16, dtype=torch.bool), (2, 2))
    assert flat.shape == (1, 2, 2)
    assert (flat == flat[0, 0, 0]).all()


def test_padding_belongs_to_no_instance():
    padded = InstanceMaskTeacher()(torch.zeros(1, 3, 32, 48), [scene(0)["data_samples"]], (4, 6))
    assert (padded[0, :2, :, 4:] < 0).all()
    assert (padded[0, 2, :, 4:] > 0).all()


def test_samples_without_masks_are_named():
    with pytest.raises(ValueError, match=r"a.png: InstanceMaskTeacher needs gt_instances.masks.*LoadInstances"):
        InstanceMaskTeacher()(torch.zeros(1, 3, 8, 8), [BaseDataElement(metainfo={"img_path": "a.png"})], (1, 1))


def test_attention_is_counted_as_the_plain_formula_does():
    torch.manual_seed(0)
    encoder = VisionTransformer(get_variant(CORE))
    layer, x = encoder.transformer.resblocks[0].attn, 4 * torch.randn(2, 16, 16)
    rope = rotary_table(4, 4, 8, torch.device("cpu"))
    weights = []
    original = F.scaled_dot_product_attention

    def spy(q, k, v, attn_mask=None, is_causal=False):
        weights.append((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1).mean(1))
        return original(q, k, v, attn_mask=attn_mask, is_causal=is_causal)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", spy)
        layer(x, rope)
    attends = (weights[0] >= 4 / 16) & ~torch.eye(16, dtype=torch.bool)
    assert attends.any()
    torch.testing.assert_close(attended_by(layer, x, rope), attends.float().sum(1) / 15)


@pytest.mark.parametrize("cls_token", [False, True])
def test_a_token_that_all_look_at_is_found(cls_token):
    torch.manual_seed(0)
    encoder = VisionTransformer(get_variant({**CORE, "cls_token": cls_token, "depth": 2})).eval()
    attention = encoder.transformer.resblocks[1].attn
    with torch.no_grad(), watch_global_tokens(encoder) as shares:
        encoder.forward_features(torch.randn(3, 3, 32, 32))
    assert [share.shape for share in shares] == [(3,), (3,)]
    assert sum(float(share.sum()) for share in shares) == 0
    with torch.no_grad():  # all queries point where one key does; without rotation, for positions would turn them
        attention.in_proj_weight.zero_()
        attention.in_proj_weight[16, 0] = 50
        attention.in_proj_bias[:16] = 1
        x = torch.zeros(1, 16, 16)
        x[0, 5, 0] = 1
        rope = torch.zeros(16, 4, 2)
        rope[..., 0] = 1
        found = attended_by(attention, x, rope)[0]
    assert (found > 0.5).nonzero().flatten().tolist() == [5]
