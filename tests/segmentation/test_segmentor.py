"""Heads of mmseg and ours over PE: linked, of any size, judged in the frame of the image."""

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement, PixelData
from torch.nn import functional as F

import pe_spatial.backbones
import pe_spatial.data  # noqa: F401 - registers DensePreprocessor
from pe_spatial.segmentation import LinearHead, SemanticSegmentor
from pe_spatial.segmentation.semantic import SemanticModel

TINY = {"name": "tiny", "patch_size": 8, "width": 32, "depth": 3, "heads": 2, "mlp_ratio": 2, "image_size": 32}
ENTROPY = {"type": "CrossEntropyLoss", "avg_non_ignore": True}
PLAIN = {"channels": 16, "norm_cfg": {"type": "BN"}, "loss_decode": ENTROPY}
PYRAMID = {"type": "SimpleFeaturePyramid", "out_channels": 16}
HEADS = {
    "linear": {"decode_head": {"type": "LinearHead"}},
    "upernet": {
        "decode_head": {"type": "mmseg.UPerHead", "in_index": [0, 1, 2, 3], "pool_scales": [1, 2], **PLAIN},
        "auxiliary_head": [{"type": "mmseg.FCNHead", "in_index": 2, "num_convs": 1, **PLAIN}],
        "neck": PYRAMID,
    },
    "setr": {"decode_head": {"type": "mmseg.SETRUPHead", "num_convs": 2, "up_scale": 2, **PLAIN}},
    "segmenter": {
        "decode_head": {
            "type": "mmseg.SegmenterMaskTransformerHead",
            "channels": 16,
            "num_layers": 1,
            "num_heads": 2,
            "embed_dims": 16,
            "loss_decode": ENTROPY,
        }
    },
}


def model(kind="linear", patch_size=8, cls_token=True, **options):
    torch.manual_seed(0)
    variant = {**TINY, "patch_size": patch_size, "image_size": 4 * patch_size, "cls_token": cls_token}
    settings = {"backbone": {"type": "PEBackbone", "variant": variant}, "num_classes": 5, **HEADS[kind], **options}
    built = MODELS.build({"type": "SemanticSegmentor", **settings})
    for parameter in built.decode_head.parameters():  # as drawn, the scores would hardly differ
        torch.nn.init.normal_(parameter, std=0.3)
    return built.eval()


def sample(size, frame=None, label=True):
    element = BaseDataElement(metainfo={"img_shape": size, "ori_shape": frame or size})
    if label:
        target = torch.randint(0, 5, (1, *size), generator=torch.Generator().manual_seed(0))
        element.set_field(PixelData(data=target), "gt_sem_seg", dtype=PixelData)
    return element


def images(*size, batch=1):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", HEADS)
def test_contract(kind):
    built = model(kind)
    assert isinstance(built, SemanticModel) and built.stride == 8
    with torch.no_grad():
        assert built.segment_logits(images(29, 37)).shape == (1, 5, 29, 37)
        assert torch.equal(built.segment_logits(images(32, 40)), built.encode_decode(images(32, 40)))
        found = built(images(32, 40), [sample((32, 40), frame=(50, 61), label=False)], mode="predict")[0].pred_sem_seg
    assert found.data.shape == (1, 50, 61) and found.data.dtype == torch.int64
    probabilities = built.probabilities(built.segment_logits(images(16, 16)))
    torch.testing.assert_close(probabilities.sum(1), torch.ones(1, 16, 16))
    losses = built.train()(images(32, 32, batch=2), [sample((32, 32))] * 2, mode="loss")
    total, logged = built.parse_losses(losses)
    total.backward()
    assert total.isfinite() and all("loss" in key or "acc" in key for key in logged)
    missing = [name for name, p in built.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing


def test_linear_head_is_batch_norm_and_a_matrix():
    torch.manual_seed(0)
    head = LinearHead(in_channels=6, num_classes=4).eval()
    head.norm.running_mean.normal_()
    head.norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 6, 3, 5)
    mean, var = (stat[:, None, None] for stat in (head.norm.running_mean, head.norm.running_var))
    expected = torch.einsum("kc,bchw->bkhw", head.conv_seg.weight[:, :, 0, 0], (x - mean) / (var + 1e-5).sqrt())
    torch.testing.assert_close(head([x]), expected + head.conv_seg.bias[:, None, None])


def test_a_frozen_encoder_gets_no_gradient_and_does_not_move():
    variant = {**TINY, "cls_token": False}
    built = model(backbone={"type": "PEBackbone", "variant": variant, "frozen": True}).train()
    before = {name: value.clone() for name, value in built.backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in built.parameters() if p.requires_grad], lr=1.0)
    losses = built(images(32, 32, batch=2), [sample((32, 32))] * 2, mode="loss")
    built.parse_losses(losses)[0].backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in built.backbone.state_dict().items())
    assert built.decode_head.conv_seg.weight.grad.abs().sum() > 0


def test_padding_on_the_way_in_is_cut_off_where_it_was_added():
    """With patches of 14 an image of 30 becomes 42; what lies in the first 30 is that of the padded image."""
    built = model(patch_size=14)
    inputs = images(30, 56)
    padded = F.pad(inputs, (0, 0, 0, 12))
    with torch.no_grad():
        expected = F.interpolate(built.score_map(padded), size=(42, 56), mode="bilinear", align_corners=False)
        torch.testing.assert_close(built.segment_logits(inputs), expected[:, :, :30])


def test_a_padded_batch_is_judged_in_the_frame_of_its_images():
    """The head sees cells one by one here, so that padding cannot change them."""
    built = model("linear")
    built.backbone.forward = lambda x: (F.avg_pool2d(x, 8).repeat(1, 11, 1, 1)[:, :32],)
    small, large = images(16, 24), images(32, 40)
    batch = torch.cat([F.pad(small, (0, 16, 0, 16)), large])
    together = built(batch, [sample((16, 24), (33, 47), False), sample((32, 40), None, False)], mode="predict")
    # the last row of cells of the small image is interpolated towards the padding: beside it, nothing changes
    alone = built(small, [sample((16, 24), (33, 47), False)], mode="predict")[0].pred_sem_seg.data
    assert together[0].pred_sem_seg.data.shape == (1, 33, 47)
    assert torch.equal(together[0].pred_sem_seg.data[:, :24, :38], alone[:, :24, :38])
    alone = built(large, [sample((32, 40), None, False)], mode="predict")[0].pred_sem_seg.data
    assert torch.equal(together[1].pred_sem_seg.data, alone)


def test_a_window_that_covers_the_image_changes_nothing():
    whole, windowed = model(), model(window={"size": [40, 48], "stride": [20, 20]})
    inputs = images(32, 40)
    with torch.no_grad():
        first, second = (
            each(inputs, [sample((32, 40), (64, 80), False)], mode="predict")[0] for each in (whole, windowed)
        )
    assert torch.equal(first.pred_sem_seg.data, second.pred_sem_seg.data)
    assert len(first.pred_sem_seg.data.unique()) > 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_classes": 0}, "at least one class"),
        (
            {"decode_head": {"type": "LinearHead", "num_classes": 4}},
            "decode_head.num_classes is 4, but the model sets 5",
        ),
        ({"decode_head": {"type": "LinearHead", "in_channels": 7}}, "in_channels is 7, but the model sets 32"),
        ({"decode_head": {"type": "LinearHead", "in_index": 1}}, "not one of the 1 maps"),
        ({"window": {"sise": 8}}, "window has no option 'sise'; did you mean 'size'"),
        ({"neck": {**PYRAMID, "stride": 16}}, "neck.stride is 16, but the model sets 8"),
    ],
)
def test_what_contradicts_itself_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        model(**changes)


def test_classes_are_compared_with_the_data():
    with pytest.raises(ValueError, match=r"num_classes=5, the dataset has 2 classes \(a, b\); set model.num_classes=2"):
        model().check_classes({"classes": ("a", "b")})
    model().check_classes({"classes": tuple("abcde")})


def test_it_is_mmsegs_encoder_decoder():
    """The losses of our model are those of mmseg's own on the same weights."""
    from mmengine.registry import DefaultScope
    from mmseg.models import EncoderDecoder

    ours = model("setr").train()
    with DefaultScope.overwrite_default_scope("mmseg"):
        theirs = EncoderDecoder(
            backbone={"type": "PEBackbone", "variant": {**TINY, "cls_token": True}},
            decode_head={**HEADS["setr"]["decode_head"], "type": "SETRUPHead", "in_channels": 32, "num_classes": 5},
        )
    theirs.load_state_dict(ours.state_dict())
    torch.manual_seed(0)
    expected = theirs.train().loss(images(32, 32, batch=2), [sample((32, 32))] * 2)["decode.loss_ce"]
    torch.manual_seed(0)
    found = ours.loss(images(32, 32, batch=2), [sample((32, 32))] * 2)["decode.loss_ce"]
    torch.testing.assert_close(found, expected)
    assert isinstance(ours, EncoderDecoder) and isinstance(ours, SemanticSegmentor)


def test_a_large_picture_gets_the_labels_of_the_enlarged_scores_without_them():
    built, inputs, frame = model("linear"), images(32, 40), (2200, 2000)
    cut = sample((30, 36), frame, label=False)  # the rest is padding
    with torch.no_grad():
        found = built(inputs, [cut], mode="predict")[0].pred_sem_seg.data
        scores = built.segment_logits(inputs)[..., :30, :36]
    expected = torch.nn.functional.interpolate(scores, frame, mode="bilinear").argmax(1)
    assert found.shape == (1, *frame) and found.dtype == expected.dtype and len(found.unique()) > 1
    assert (found != expected).float().mean() < 1e-5
    recorded = built(inputs, [sample((30, 36), frame, label=False)], mode="predict")[0].pred_sem_seg.data
    assert torch.equal(recorded, found)  # gradients are recorded, and nothing asks for them
