"""The text-aligned head: what is trained, its two losses, and that it learns."""

import json

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement
from PIL import Image
from small_core import WIDER, lively_core
from test_open_vocabulary import images

from pe_spatial.backbones.text import TextAlignedHead, TextAlignedMap
from pe_spatial.common.errors import AnnotationError, ConfigError, OptionError
from pe_spatial.data import CaptionedPictures, PackSample
from pe_spatial.segmentation import OpenVocabularySegmentor
from pe_spatial.training.config import load_config
from pe_spatial.zero_shot.training import SMALL_CORE

SPATIAL = {**{key: WIDER[key] for key in ("width", "depth", "heads", "mlp_ratio")}, "name": "spatial", "patch_size": 4}
BACKBONE = {"type": "PEBackbone", "variant": {**SPATIAL, "image_size": 16, "cls_token": False}}


@pytest.fixture(scope="module")
def core():
    return lively_core(WIDER, 2)


def build(core, **losses):
    torch.manual_seed(0)
    return TextAlignedHead(core, BACKBONE, **(losses or {"map_loss": {}}))


def test_only_blocks_norm_and_projection_are_trained(core):
    head = build(core)
    trained = {name.split(".")[0] for name, parameter in head.named_parameters() if parameter.requires_grad}
    assert trained == {"blocks", "norm", "proj"}
    assert not head.core.training and not head.backbone.training and head.blocks.training
    assert head(images(16, 24)).shape == (2, 12, 4, 6)


def test_the_loss_of_maps_is_one_minus_the_cosine_with_the_map_of_the_core(core):
    head, x = build(core), images(32, 32)
    larger = torch.nn.functional.interpolate(x, (64, 64), mode="bilinear", antialias=True)  # as many patches, of 8
    target = TextAlignedMap(core)(larger)
    expected = 1 - torch.nn.functional.cosine_similarity(head(x), target, dim=1).mean()
    torch.testing.assert_close(head.loss(x)["loss_map"], expected)
    mixed = build(core, map_loss={"affinity": "backbone", "weight": 2.0})
    target = TextAlignedMap(core, mixed.backbone)(larger)
    expected = 2 - 2 * torch.nn.functional.cosine_similarity(mixed(x), target, dim=1).mean()
    torch.testing.assert_close(mixed.loss(x)["loss_map"], expected)


def test_the_loss_of_maps_falls_and_leaves_what_is_frozen(core):
    head, x = build(core), images(16, 16)
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in head.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(30):
        loss = sum(head.loss(x).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    for name, tensor in head.state_dict().items():
        frozen = name.split(".")[0] in ("core", "backbone")
        assert torch.equal(before[name], tensor) == frozen or not frozen


def test_captions_are_told_apart_and_equal_ones_are_equal_targets(core):
    pytest.importorskip("ftfy")
    head, x = build(core, caption_loss={"weight": 3.0}), images(16, 16)
    same = head.loss(x, ["a cat", "a cat"])["loss_captions"]
    pooled = torch.nn.functional.normalize(head(x).mean(dim=(2, 3)), dim=-1)
    text = core.encode_text(["a cat"], normalize=True)
    logits = core.logits(pooled, text.expand(2, -1))
    rows = torch.nn.functional.cross_entropy(logits.T, torch.full((2, 2), 0.5))
    torch.testing.assert_close(same, 1.5 * (np.log(2) + rows))
    with pytest.raises(OptionError, match="caption_loss needs pictures with captions .dataset CaptionedPictures."):
        head.loss(x)


def test_the_segmenter_hands_the_captions_of_samples_on(core):
    pytest.importorskip("ftfy")
    maps = {"type": "TextAlignedHead", "core": {"variant": WIDER}, "backbone": BACKBONE, "caption_loss": {}}
    model = OpenVocabularySegmentor(maps, classes=["cat", "dog"])
    samples = [BaseDataElement(metainfo={"captions": (text,)}) for text in ("a cat", "a dog")]
    losses = model(images(16, 16), samples, mode="loss")
    torch.testing.assert_close(losses, model.maps.loss(images(16, 16), ["a cat", "a dog"]))
    with pytest.raises(OptionError, match="caption_loss needs pictures with captions"):
        model(images(16, 16), [BaseDataElement()] * 2, mode="loss")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"map_loss": None}, "neither map_loss nor caption_loss"),
        ({"map_loss": {}, "blocks": 0}, "blocks"),
        ({"map_loss": {"wieght": 1}}, "map_loss has no option 'wieght'; did you mean"),
        ({"map_loss": {}, "backbone": {**BACKBONE, "layers": [0, 1]}}, "needs one map; give one layer"),
    ],
)
def test_what_cannot_be(core, options, message):
    with pytest.raises((ConfigError, OptionError), match=message):
        TextAlignedHead(core, **{"backbone": BACKBONE, **options})


# --- pictures with captions -------------------------------------------------------------------------------------------
def write(folder, content):
    (folder / "captions.json").write_text(json.dumps(content))
    return {"ann_file": "captions.json", "data_root": str(folder), "data_prefix": {"img_path": "pictures"}}


def test_captions_reach_the_metainfo_of_a_sample(tmp_path):
    (tmp_path / "pictures/a").mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(tmp_path / "pictures/a/1.png")
    options = write(tmp_path, {"a/1.png": ["a cat", "cat"]})
    dataset = CaptionedPictures(pipeline=[{"type": "LoadImage"}, {"type": "PackSample"}], **options)
    packed = dataset[0]
    assert packed["data_samples"].captions == ("a cat", "cat")
    assert packed["inputs"].shape == (3, 6, 8)
    assert "captions" not in PackSample()({"img": packed["inputs"]})["data_samples"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "0 of 0 pictures have no captions"),
        ({"a.png": []}, "1 of 1 pictures have no captions .a.png."),
        ({"a.png": "a cat"}, "1 of 1 pictures have no captions"),
        ({"a.png": ["a", " "]}, "1 of 1 pictures have no captions"),
        ({"../a.png": ["a"]}, "is outside its folder"),
    ],
)
def test_files_that_are_none_of_captions(tmp_path, content, message):
    with pytest.raises(AnnotationError, match=message):
        CaptionedPictures(**write(tmp_path, content))


@pytest.mark.parametrize("name", ["open_vocabulary_words", "text_aligned_words"])
def test_the_configs_of_the_demo_describe_its_model(name):
    maps = load_config(f"demo/{name}.yaml").model.maps
    assert maps.core.variant == SMALL_CORE
    assert "backbone" not in maps or maps.backbone.variant == SMALL_CORE
