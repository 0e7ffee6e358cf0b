"""Our tokens in transformers' PerceptionLM give its own logits."""

import pytest
import torch
from test_plm_video import write_video

from pe_spatial import PLMVision
from pe_spatial.commands.benchmark.fidelity.rule import picture as waves
from pe_spatial.plm import place_tokens

pytest.importorskip("timm")
transformers = pytest.importorskip("transformers", minversion="5.0")
IMAGE, VIDEO = 98, 99


def build(cls_token):
    torch.manual_seed(0)
    arguments = {"embed_dim": 64, "depth": 2, "num_heads": 4, "img_size": (56, 56), "ref_feat_shape": (4, 4)}
    arguments |= {"global_pool": "", "use_post_transformer_norm": False, "init_values": 0.1, "class_token": cls_token}
    words = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    words |= {"num_key_value_heads": 2, "vocab_size": 100, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    vision = transformers.TimmWrapperConfig(architecture="vit_pe_core_large_patch14_336", model_args=arguments)
    config = transformers.PerceptionLMConfig(
        vision_config=vision.to_dict(),
        text_config=transformers.LlamaConfig(**words).to_dict(),
        vision_use_cls_token=cls_token,
        projector_pooling_ratio=2,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )
    return transformers.PerceptionLMForConditionalGeneration(config).eval()


@pytest.fixture(scope="module", params=[True, False], ids=["cls", "no cls"])
def both(request, tmp_path_factory):
    """(theirs, ours from the shards that it was saved to)."""
    folder = tmp_path_factory.mktemp("plm")
    theirs = build(request.param)
    theirs.save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 3
    return theirs, PLMVision.from_files(folder, max_tiles=4)


def random_picture(height, width, seed=0):
    return torch.randint(256, (3, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@torch.no_grad()
def logits_with(theirs, ids, tokens, placeholder):
    """What the language model says to our tokens in the places of a prompt."""
    embedded = theirs.get_input_embeddings()(ids)
    return theirs(inputs_embeds=place_tokens(embedded, ids == placeholder, tokens)).logits


def prompt(count, placeholder):
    return torch.tensor([[1, 5, 6, *[placeholder] * count, 7, 8, 9]])


@pytest.mark.parametrize("size", [(40, 90), (120, 60)])
@torch.no_grad()
def test_a_picture(both, size):
    theirs, ours = both
    picture = random_picture(*size)
    tokens = ours.encode_image(picture)
    ids = prompt(ours.count_tokens(*size), IMAGE)
    expected = theirs(input_ids=ids, pixel_values=ours.tiles(picture)[None]).logits
    found = logits_with(theirs, ids, tokens, IMAGE)
    assert (found - expected).abs().max() < 1e-5
    swapped = logits_with(theirs, ids, tokens.flip(0), IMAGE)
    assert (swapped - expected).abs().max() > 1e-4  # the order matters


@torch.no_grad()
def test_a_video(both, tmp_path):
    theirs, ours = both
    path = write_video(tmp_path / "clip.mp4", 6)
    tokens = ours.encode_video(path)
    ids = prompt(tokens.shape[0] * tokens.shape[1], VIDEO)
    expected = theirs(input_ids=ids, pixel_values_videos=ours.frames(path)[None]).logits
    assert (logits_with(theirs, ids, tokens, VIDEO) - expected).abs().max() < 1e-5


@torch.no_grad()
def test_two_pictures(both):
    theirs, ours = both
    pictures = [random_picture(56, 56, seed) for seed in (1, 2)]
    tokens = torch.cat([ours.encode_image(picture) for picture in pictures])
    count = ours.count_tokens(56, 56)
    ids = torch.tensor([[1, *[IMAGE] * count, 4, *[IMAGE] * count, 7]])
    tiles = torch.stack([ours.tiles(picture) for picture in pictures])
    assert (
        logits_with(theirs, ids, tokens, IMAGE) - theirs(input_ids=ids, pixel_values=tiles).logits
    ).abs().max() < 1e-5


def test_the_processor_of_transformers_cuts_the_same_grids(both):
    _, ours = both
    processor = transformers.PerceptionLMImageProcessor(tile_size=56, max_num_tiles=4)
    for height, width in ((40, 90), (120, 60), (56, 56), (300, 20)):
        picture = waves(height, width)
        theirs = processor(picture, return_tensors="pt")["pixel_values"][0]
        tiles = ours.tiles(picture)
        assert theirs.shape == tiles.shape
        # theirs is torchvision's filter and ours, as upstream's, Pillow's: up to two levels of 255
        assert (theirs - tiles).abs().max() < 2.5 / 127.5
