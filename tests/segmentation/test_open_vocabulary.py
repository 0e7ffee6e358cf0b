"""The segmenter whose classes are words: which word wins, backgrounds, windows, permutations, and mistakes."""

import math
import sys

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from small_core import WIDER, lively_core

import pe_spatial.segmentation  # noqa: F401 - registers the models
from pe_spatial.backbones.text import Prompts, TextAlignedMap, class_vectors
from pe_spatial.backbones.text.tokenizer import open_tokenizer
from pe_spatial.common.errors import ConfigError, MissingPackage, OptionError
from pe_spatial.segmentation.windows import slide

pytest.importorskip("ftfy")
WORDS = ("road", "set {of} things", "sky", "tree")


@pytest.fixture(scope="module")
def core():
    return lively_core(WIDER, 1)


def build(core, **options):
    options = {"classes": WORDS, **options}
    model = MODELS.build({"type": "OpenVocabularySegmentor", "maps": {"core": {"variant": WIDER}}, **options})
    model.maps.core.load_state_dict(core.state_dict())
    return model.eval()


def images(*size):
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(5))


def samples(count, size):
    return [BaseDataElement(metainfo={"img_shape": size, "ori_shape": size}) for _ in range(count)]


@torch.no_grad()
def test_a_patch_gets_the_word_of_the_largest_cosine_in_the_scale_of_the_model(core):
    model, x = build(core, templates=["a {c}", "two {c}"]), images(32, 40)
    features = torch.nn.functional.normalize(TextAlignedMap(core)(x), dim=1)
    vectors = class_vectors(core, Prompts(WORDS, ("a {c}", "two {c}")))
    expected = (core.logit_scale.exp() * torch.einsum("bdhw,kd->bkhw", features, vectors)).softmax(dim=1)
    torch.testing.assert_close(model.probabilities(model.score_map(x)), expected)
    assert len(expected.argmax(dim=1).unique()) > 1
    sharper = build(core, templates=["a {c}", "two {c}"], scale=1000)
    assert (sharper.score_map(x).argmax(dim=1) == expected.argmax(dim=1)).all()
    assert (sharper.probabilities(sharper.score_map(x)).amax(dim=1) >= expected.amax(dim=1)).all()


@torch.no_grad()
def test_permuted_words_give_permuted_labels(core):
    x, order = images(32, 40), [2, 0, 3, 1]
    first = build(core).predict(x, samples(2, (32, 40)))
    second = build(core, classes=[WORDS[i] for i in order]).predict(x, samples(2, (32, 40)))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.pred_sem_seg.data, torch.tensor(order)[other.pred_sem_seg.data])


@torch.no_grad()
def test_a_window_of_the_whole_picture_changes_nothing(core):
    x = images(40, 48)
    whole = build(core)
    same = build(core, window={"size": [40, 48]})
    torch.testing.assert_close(slide(same.segment_logits, x, same.window), whole.segment_logits(x))
    smaller = build(core, window={"size": 32, "stride": 16})
    assert slide(smaller.segment_logits, x, smaller.window).shape == (2, len(WORDS), 40, 48)


@torch.no_grad()
def test_a_pixel_is_background_where_no_word_is_as_probable_as_the_threshold(core):
    x, threshold = images(32, 40), 0.4
    words = build(core).score_map(x).exp()  # [B, 4, h, w]
    model = build(core, classes=("other", *WORDS), background={"name": "other", "threshold": threshold})
    labels = model.score_map(x).argmax(dim=1)
    expected = torch.where(words.amax(dim=1) < threshold, 0, words.argmax(dim=1) + 1)
    assert torch.equal(labels, expected)
    assert 0 < (labels == 0).sum() < labels.numel()
    torch.testing.assert_close(model.probabilities(model.score_map(x)).sum(dim=1), torch.ones(2, 4, 5))


@torch.no_grad()
def test_a_class_of_several_words_has_the_best_of_them(core):
    x = images(32, 40)
    apart = build(core).score_map(x)
    joined = build(core, classes=("road", "rest"), words={"rest": WORDS[1:]}).score_map(x)
    torch.testing.assert_close(joined[:, 0], apart[:, 0])
    torch.testing.assert_close(joined[:, 1], apart[:, 1:].amax(dim=1))


def test_classes_come_from_the_data_where_the_config_names_none(core):
    model = build(core, classes=None)
    with pytest.raises(OptionError, match="the classes are not known"):
        model.score_map(images(32, 32))
    model.check_classes({"classes": WORDS})
    assert model.num_classes == 4
    with pytest.raises(ConfigError, match="the data have no class names; set"):
        model.check_classes({})
    with pytest.raises(ConfigError, match="model.classes has 4 names .* and the data 2 .cat, dog.; they must be"):
        build(core).check_classes({"classes": ("cat", "dog")})


def test_a_missing_package_is_named_before_the_first_picture(core, monkeypatch):
    model = build(core)
    open_tokenizer.cache_clear()
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(MissingPackage, match="texts need ftfy, which is not installed; pip install"):
        model.check_classes({"classes": WORDS})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["road"]}, "'road' is the only word, so every pixel would get it"),
        ({"classes": []}, "there are no classes"),
        ({"classes": ["sky", "sky"]}, "1 of the classes are given more than once .sky."),
        ({"words": {"sea": ["water"]}}, "words or background name 'sea', which is not a class; it knows: road"),
        ({"words": {"sky": ["tree"]}}, "1 of the classes are given more than once .tree."),
        ({"background": {"name": "road", "threshold": 1.5}}, "threshold 1.5 of 'road' is not a probability"),
        ({"background": {"name": "road", "threshold": 0}}, "threshold 0 of 'road' is not a probability"),
        ({"background": {"name": "grass", "threshold": 0.5}}, "background name 'grass', which is not a class"),
        ({"background": {"name": "sky", "threshold": 0.5}, "words": {"sky": ["a"]}}, "background 'sky' also has words"),
        ({"templates": ["a photo"]}, "'a photo' has no place for the class"),
        ({"scale": 0}, "scale 0 must be above 0"),
        ({"scale": math.nan}, "scale nan must be above 0"),
        ({"window": {"size": 32, "stride": 64}}, "exceeds the window"),
    ],
)
def test_what_cannot_be(core, options, message):
    with pytest.raises((OptionError, ConfigError), match=message):
        build(core, **options)


def test_maps_that_learn_nothing_are_not_trained(core):
    with pytest.raises(
        ConfigError, match="TextAlignedMap has nothing to train; evaluate it with `pe-spatial eval --config"
    ):
        build(core)(images(32, 32), samples(2, (32, 32)), mode="loss")
