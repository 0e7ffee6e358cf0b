"""PLMVision: the official tokens from every layout, whatever the batch, from every kind of picture and video."""

import numpy as np
import pytest
import torch
from PIL import Image
from small_plm import golden, hf_state, write_hf, write_hf_shards, write_official
from test_plm_video import write_video

from pe_spatial import PLMVision
from pe_spatial.backbones import get_variant
from pe_spatial.commands.benchmark.fidelity.rule import picture
from pe_spatial.common.errors import OptionError, PictureError, UnreadableFile
from pe_spatial.plm import choose_frames

SMALL = {"base": "PE-Lang-L14-448", "name": "small", "width": 32, "depth": 2, "heads": 4, "image_size": 56}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return PLMVision(SMALL, 24, max_tiles=9, batch=4).eval()


@pytest.fixture(scope="module")
def expected():
    return golden()


WRITERS = {
    "official": write_official,
    "transformers": write_hf,
    "shards": lambda folder: write_hf_shards(folder).parent,
    "torch shards": lambda folder: write_hf_shards(folder, "torch").parent,
}


@pytest.mark.parametrize("name", WRITERS)
def test_tokens_are_the_official_ones(tmp_path, expected, name):
    model = PLMVision.from_files(WRITERS[name](tmp_path))
    model.max_tiles = 6
    check(model, expected, "cls")
    tokens = model.encode_image(picture(150, 260))
    assert (tokens - expected["cls/tokens"]).abs().max() < 2e-5


@pytest.mark.parametrize("write", [write_official, write_hf])
def test_tokens_without_a_class_token_are_the_official_ones(tmp_path, expected, write):
    check(PLMVision.from_files(write(tmp_path, cls_token=False)), expected, "nocls")


@torch.no_grad()
def check(model, expected, name):
    tiles = expected["landscape/tiles"]
    assert (model.features(tiles) - expected[f"{name}/features"]).abs().max() < 2e-6
    assert (model(tiles) - expected[f"{name}/tokens"]).abs().max() < 2e-5
    assert model.training is False


def test_a_batch_bounds_the_memory_and_not_the_result(model, monkeypatch):
    tiles = torch.randn(10, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    seen = []
    features = model.features
    monkeypatch.setattr(model, "features", lambda x: seen.append(len(x)) or features(x))
    monkeypatch.setattr(model, "batch", 10)
    with torch.no_grad():
        whole = model(tiles)
        for batch in (1, 3, 4):
            monkeypatch.setattr(model, "batch", batch)
            assert (model(tiles) - whole).abs().max() < 1e-6
    assert seen == [10, *[1] * 10, 3, 3, 3, 1, 4, 4, 2]


def test_tokens_of_a_tile_do_not_depend_on_the_others(model):
    tiles = torch.randn(3, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(model(tiles[[2, 0]]), model(tiles)[[2, 0]], atol=1e-6)


def test_tokens_are_counted_before_they_are_made(model):
    assert model.tokens_per_tile == 4
    for height, width in ((1, 1), (200, 30), (56, 112)):
        tokens = model.encode_image(torch.zeros(3, height, width, dtype=torch.uint8))
        assert tokens.shape[1:] == (4, 24)
        assert tokens.flatten(0, 1).shape[0] == model.count_tokens(height, width)
        rows, columns = model.grid_of(height, width)
        assert len(tokens) == 1 + rows * columns
    large = PLMVision({**SMALL, "image_size": 448}, 8)
    assert large.tokens_per_tile == 256
    assert large.count_tokens(448, 448) == 9472  # as the released models
    assert PLMVision(SMALL, 8, mode="vanilla").count_tokens(300, 20) == 4


def test_the_projector_learns_and_so_does_the_encoder(model):
    model(torch.randn(5, 3, 56, 56, generator=torch.Generator().manual_seed(0))).square().mean().backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    model.zero_grad()


# --- pictures ---------------------------------------------------------------------------------------------------------
def test_every_kind_of_picture_is_taken(model, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (40, 70, 3), np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    expected = model.tiles(array)
    for same in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(array),
        torch.from_numpy(array).movedim(2, 0),
    ):
        assert torch.equal(model.tiles(same), expected)
    gray = array[..., 0]
    Image.fromarray(gray).save(tmp_path / "gray.png")
    Image.fromarray(np.dstack([array, gray])).save(tmp_path / "alpha.png")
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert torch.equal(model.tiles(tmp_path / "gray.png"), model.tiles(np.repeat(gray[..., None], 3, axis=2)))
    assert torch.equal(model.tiles(tmp_path / "alpha.png"), expected)
    assert model.tiles(tmp_path / "deep.png").shape == expected.shape


@pytest.mark.parametrize("size", [(1, 1), (1, 20000), (20000, 1)])
def test_extreme_pictures_are_taken(model, size):
    tokens = model.encode_image(torch.full((3, *size), 200, dtype=torch.uint8))
    assert tokens.isfinite().all()
    assert len(tokens) == 10


def test_bad_pictures_are_named(model, tmp_path):
    frames = [Image.new("RGB", (8, 8), (n * 60,) * 3) for n in range(3)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "text.png").write_text("no picture")
    for name in ("moving.gif", "text.png", "absent.png"):
        with pytest.raises(UnreadableFile, match=name):
            model.encode_image(tmp_path / name)
    with pytest.raises(PictureError, match=r"\[2, 8, 8\] is not an image"):
        model.encode_image(torch.zeros(2, 8, 8, dtype=torch.uint8))


# --- videos -----------------------------------------------------------------------------------------------------------
def test_a_video_is_its_frames(model, tmp_path):
    path = write_video(tmp_path / "clip.mp4", 20, rate=5)
    tokens = model.encode_video(path)
    assert tokens.shape == (20, 4, 24)
    frames = model.frames(path)
    with torch.no_grad():
        assert torch.equal(tokens, model(frames))
    few = PLMVision(SMALL, 8, max_frames=4)
    numbers = choose_frames(20, 5, 4)
    assert torch.equal(few.frames(path), frames[numbers])


def test_frames_in_memory_are_taken_as_they_are(model):
    frames = torch.randint(256, (3, 3, 30, 50), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert model.encode_video(frames).shape == (3, 4, 24)
    for bad in (frames[:0], frames.float(), frames[0], frames[:, :2]):
        with pytest.raises(PictureError, match="are not frames"):
            model.encode_video(bad)


# --- what is refused --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tiles": 0}, "max_tiles 0 must be at least 1"),
        ({"max_frames": 0}, "max_frames 0 must be"),
        ({"batch": 0}, "batch 0 must be"),
        ({"pooling": 0}, "pooling 0 must be"),
        ({"pooling": 5}, "pooling 5 leaves no token in a grid of 4 x 4"),
        ({"mode": "tiles"}, "mode 'tiles' is not one of"),
    ],
)
def test_options_out_of_their_range(options, message):
    with pytest.raises(OptionError, match=message):
        PLMVision(SMALL, 8, **options)


def test_an_encoder_that_pools_is_refused():
    core = {"base": "PE-Core-T16-384", "width": 64, "depth": 1, "heads": 4, "image_size": 32}
    with pytest.raises(OptionError, match="pools its tokens to one"):
        PLMVision(core, 8)


@pytest.mark.parametrize("shape", [(3, 56, 56), (0, 3, 56, 56), (1, 3, 56, 42), (1, 1, 56, 56)])
def test_tiles_of_another_shape_are_refused(model, shape):
    with pytest.raises(OptionError, match=r"do not fit; pass \[T, 3, 56, 56\]"):
        model(torch.zeros(shape))


def test_the_released_sizes_fit_their_checkpoints():
    """PLM-1B and 3B have L, 8B has G; their key lists are those of PE-Lang."""
    for name, tokens in (("PE-Lang-L14-448", 256), ("PE-Lang-G14-448", 256)):
        with torch.device("meta"):
            model = PLMVision(get_variant(name), 16)
        assert model.tokens_per_tile == tokens
    assert sum(key.startswith("model.vision_tower") for key in hf_state()) == 47
