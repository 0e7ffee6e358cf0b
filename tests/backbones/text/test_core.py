"""PE-Core against the official numbers, against open_clip, and against itself."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from pe_spatial.backbones import VARIANTS, PECore, TextConfig, VisionTransformer
from pe_spatial.backbones.text import Prompts, class_vectors, prepare_picture
from pe_spatial.backbones.text.core import video_feature
from pe_spatial.commands.benchmark.fidelity.encoders import ENCODERS
from pe_spatial.commands.benchmark.fidelity.rule import Golden, draw, fill, picture
from pe_spatial.common.tensors import shapes_of

DATA = Path(__file__).parents[2] / "data"
CORES = [name for name in VARIANTS if name.startswith("PE-Core")]
MODELS = {
    "cls_context32": {
        **ENCODERS["core_cls"],
        "depth": 3,
        "image_size": 64,
        "text": {"context": 32, "width": 64, "depth": 3, "heads": 4},
    },
    "nocls_context72": {
        **ENCODERS["core_nocls"],
        "depth": 3,
        "image_size": 56,
        "text": {"context": 72, "width": 80, "depth": 3, "heads": 5},
    },
}
BOTH = pytest.mark.parametrize("name", MODELS)


def build(name):
    model = fill(PECore(MODELS[name]))
    nn.init.constant_(model.logit_scale, 2.6592)
    return model


@pytest.fixture(scope="module")
def models():
    return {name: build(name) for name in MODELS}


def near(ours, theirs, atol=2e-5):
    np.testing.assert_allclose(ours.numpy(), theirs, atol=atol, rtol=0)


# --- official numbers -------------------------------------------------------------------------------------------------
@BOTH
@torch.no_grad()
def test_features_of_texts_pictures_and_videos_are_the_official_ones(models, name):
    model, golden = models[name], Golden(DATA / f"clip_{name}.npz")
    side = model.image_size
    tokens, images = torch.from_numpy(golden["tokens"]).long(), draw(0, (3, 3, side, side))
    videos = draw(1, (2, 8, 3, side, side))
    near(model.encode_text(tokens), golden["text_raw"])
    near(model.encode_text(tokens, normalize=True), golden["text_features"])
    near(model.text_hidden(tokens[:2]), golden["text_hidden"])
    near(model.encode_text(torch.from_numpy(golden["tokens_context16"]).long()), golden["text_raw_context16"])
    near(model.encode_image(images), golden["image_raw"])
    near(model.encode_image(images, normalize=True), golden["image_features"])
    near(model.encode_video(videos), golden["video_classification"])
    near(model.encode_video(videos, "retrieval"), golden["video_retrieval"])
    near(video_feature(torch.from_numpy(golden["frame_features"]), "retrieval"), golden["video_retrieval"])
    logits = model.logits(model.encode_image(images, normalize=True), model.encode_text(tokens, normalize=True))
    near(logits, golden["logits"], 2e-5 * float(golden["logit_scale_exp"]))
    near(logits.softmax(dim=1), golden["probs"])


@BOTH
@torch.no_grad()
def test_texts_become_the_official_features_and_classifiers(models, name):
    pytest.importorskip("ftfy")
    model, golden = models[name], Golden(DATA / f"clip_{name}.npz")
    rows = json.loads((DATA / "tokenizer.json").read_text())["rows"]
    texts = [rows[number]["text"] for number in golden["prompt_index"]]
    with pytest.warns(UserWarning) if any("<end" in text for text in texts) else nullcontext():
        near(model.encode_text(texts), golden["text_raw"])
    templates = ("a bad photo of a {c}.", "a photo of many {c}.", "itap of a {c}.", "a photo of the {c}.")
    vectors = class_vectors(model, Prompts(("cat", "dog", "fire truck"), templates), batch_size=5)
    near(vectors.T, golden["classifier"])
    near(100 * torch.from_numpy(golden["image_features"]) @ vectors.T, golden["class_logits"], 2e-3)


# version 13 of Pillow, with which the golden values were made, resizes some pictures by columns first
IS_PILLOW_13, ONE_LEVEL = int(PIL.__version__.partition(".")[0]) >= 13, 1.001 / 127.5


@pytest.mark.parametrize(("name", "size"), [("landscape", (150, 260)), ("portrait", (211, 97)), ("upscale", (31, 40))])
def test_preprocessing_is_the_official_one_to_the_digit(name, size):
    expected = Golden(DATA / "clip_preprocessing.npz")[f"{name}/squash64"]
    pixels = picture(*size)
    for given in (pixels, Image.fromarray(pixels.permute(1, 2, 0).numpy())):
        found = prepare_picture(given, 64).numpy()
        assert np.array_equal(found, expected) if IS_PILLOW_13 else np.abs(found - expected).max() < ONE_LEVEL


# --- the released models ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CORES)
def test_released_models_have_the_official_keys(name):
    with torch.device("meta"):
        model = PECore(name)
    official = json.loads((DATA / "keys" / f"CLIP_{name}.json").read_text())
    assert [(key, list(shape)) for key, shape in shapes_of(model.state_dict()).items()] == list(official.items())


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in CORES])
def test_encoders_without_texts_name_those_that_have_some(name):
    with pytest.raises(ValueError, match=rf"{name} has no text tower: .* PE-Core-T16-384, PE-Core-S16-384"):
        PECore(name)


# --- open_clip --------------------------------------------------------------------------------------------------------
@torch.no_grad()
def test_the_text_tower_equals_open_clip(models):
    open_clip = pytest.importorskip("open_clip.transformer")
    model = models["cls_context32"]
    config = model.text_config
    theirs = open_clip.TextTransformer(
        context_length=config.context,
        width=config.width,
        heads=config.heads,
        layers=config.depth,
        output_dim=model.output_dim,
    ).eval()
    state = {
        key: tensor for key, tensor in model.state_dict().items() if not key.startswith(("visual.", "logit_scale"))
    }
    theirs.load_state_dict(state)
    tokens = torch.from_numpy(Golden(DATA / "clip_cls_context32.npz")["tokens"]).long()
    torch.testing.assert_close(model.encode_text(tokens), theirs(tokens), atol=2e-6, rtol=0)


# --- against itself ---------------------------------------------------------------------------------------------------
@torch.no_grad()
def test_what_follows_the_first_end_changes_nothing(models):
    model = models["cls_context32"]
    tokens = torch.zeros(2, 32, dtype=torch.long)
    tokens[:, :4] = torch.tensor([49406, 5, 6, 49407])
    tokens[1, 4:] = torch.tensor([7, 49407] * 14)
    alone = model.encode_text(tokens[:1, :4])
    torch.testing.assert_close(model.encode_text(tokens), alone.expand(2, -1), atol=2e-6, rtol=0)


@torch.no_grad()
def test_only_the_longest_text_of_a_batch_is_computed(models):
    model = models["cls_context32"]
    seen = []
    handle = model.ln_final.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    tokens = torch.zeros(3, 32, dtype=torch.long)
    tokens[0, 2] = tokens[1, 5] = tokens[2, 3] = 49407
    model.encode_text(tokens)
    handle.remove()
    assert [tuple(shape) for shape in seen] == [(3, 6, 64)]


@torch.no_grad()
def test_the_two_definitions_of_a_video_agree_on_direction_alone_for_equal_lengths(models):
    frames = F.normalize(draw(3, (2, 4, 10)), dim=-1)
    torch.testing.assert_close(
        F.normalize(video_feature(frames, "retrieval"), dim=-1), video_feature(frames, "classification")
    )
    assert (video_feature(frames, "retrieval").norm(dim=-1) < 1).all()


@pytest.mark.parametrize("videos", [torch.zeros(1, 0, 3, 64, 64), torch.zeros(2, 3, 64, 64)])
def test_videos_without_frames_are_refused(models, videos):
    with pytest.raises(ValueError, match=r"are not \[B, F, 3, H, W\] with at least one frame each"):
        models["cls_context32"].encode_video(videos)


def test_tokens_beyond_the_context_are_refused(models):
    with pytest.raises(ValueError, match=r"tokens \[1, 33\] are not \[B, L\] with L from 1 to 32; cut"):
        models["cls_context32"].text_hidden(torch.zeros(1, 33, dtype=torch.long))
    with pytest.raises(ValueError, match="definition 'mean' is not one of classification, retrieval"):
        models["cls_context32"].encode_video(torch.zeros(1, 1, 3, 64, 64), "mean")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"context": 2, "width": 8, "depth": 1, "heads": 2}, "context 2 has no room"),
        ({"context": 8, "width": 9, "depth": 1, "heads": 2}, "text width 9 does not divide among 2 heads"),
        ({"context": 8, "width": 8, "depth": 0, "heads": 2}, "depth 0 must be at least 1"),
        ({"context": 8, "width": 8, "depth": 1, "head": 2}, "has no option 'head'; did you mean 'heads'"),
        ({"context": 8}, "missing"),
    ],
)
def test_text_towers_are_checked_at_construction(text, message):
    with pytest.raises(ValueError, match=message):
        PECore({**MODELS["cls_context32"], "text": text})


def test_a_mapping_and_a_configuration_of_the_text_are_one():
    row = VARIANTS["PE-Core-B16-224"]
    assert isinstance(row.text, TextConfig)
    text = {"context": 32, "width": 1024, "depth": 24, "heads": 16}
    assert replace(row, text=text) == row
    assert hash(replace(row, text=text)) == hash(row)


@torch.no_grad()
def test_the_image_half_is_the_encoder_itself(models):
    model = models["cls_context32"]
    alone = VisionTransformer(model.config).eval()
    alone.load_state_dict(model.visual.state_dict())
    x = draw(0, (1, 3, 64, 96))
    assert torch.equal(alone(x), model.encode_image(x))
