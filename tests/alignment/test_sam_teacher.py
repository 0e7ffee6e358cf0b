import pytest
import torch

from pe_spatial.alignment.sam_teacher import MaskLogitTeacher
from pe_spatial.backbones.sam2_model import build_sam2, find_sam2_weights

SIDE, GRID = 128, (2, 3)


def teacher(**options):
    pytest.importorskip("sam2", reason="the package sam2 is not installed (pip install sam2==1.1.0)")
    return MaskLogitTeacher("random", "tiny", image_size=SIDE, **options)


@pytest.fixture(scope="module")
def image():
    torch.manual_seed(1)
    return torch.rand(1, 3, SIDE, SIDE) * 2 - 1


@pytest.fixture(scope="module")
def plain():
    return teacher(kept="single", clamp=None)


def by_the_package(sam, image, multimask):
    """Logits [K, masks, S/4, S/4] and qualities [K, masks] from SAM 2's own predictor."""
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    predictor = SAM2ImagePredictor(sam)
    predictor._bb_feat_sizes = [(SIDE // step, SIDE // step) for step in (4, 8, 16)]
    predictor.set_image(((image[0] + 1) / 2).permute(1, 2, 0).numpy())
    points = [[[(x + 0.5) / GRID[1], (y + 0.5) / GRID[0]]] for y in range(GRID[0]) for x in range(GRID[1])]
    places = torch.tensor(points) * SIDE
    labels = torch.ones(len(places), 1, dtype=torch.int)
    _, quality, logits = predictor._predict(places, labels, multimask_output=multimask)
    return logits, quality


def pooled(logits):
    return torch.nn.functional.adaptive_avg_pool2d(logits, GRID)


def test_the_maps_are_the_answers_of_sams_own_predictor(plain, image):
    logits, _ = by_the_package(plain.sam, image, multimask=False)
    maps = plain(image, [], GRID)
    assert maps.shape == (1, 6, 2, 3)
    torch.testing.assert_close(maps[0], pooled(logits)[:, 0], atol=1e-5, rtol=1e-4)


def test_the_best_mask_is_the_one_that_sam_trusts_most(image):
    best = teacher(kept="best", clamp=None)
    logits, quality = by_the_package(best.sam, image, multimask=True)
    chosen = torch.stack([masks[scores.argmax()] for masks, scores in zip(logits, quality, strict=True)])
    torch.testing.assert_close(best(image, [], GRID)[0], pooled(chosen), atol=1e-5, rtol=1e-4)


def test_stable_keeps_the_single_mask_only_where_it_is_stable(plain, image):
    single, best = plain(image, [], GRID), teacher(kept="best", clamp=None)(image, [], GRID)
    assert not torch.allclose(single, best, atol=1e-4)
    stable = teacher(clamp=None)
    stable.sam.sam_mask_decoder.dynamic_multimask_stability_thresh = 0.0
    torch.testing.assert_close(stable(image, [], GRID), single)
    stable.sam.sam_mask_decoder.dynamic_multimask_stability_thresh = 1.1
    torch.testing.assert_close(stable(image, [], GRID), best)


def test_neither_the_batch_of_images_nor_that_of_prompts_matters(plain, image):
    other = image.flip(-1)
    torch.testing.assert_close(plain(torch.cat([other, image]), [], GRID)[1:], plain(image, [], GRID))
    few = teacher(kept="single", clamp=None, prompts_per_batch=4)
    torch.testing.assert_close(few(image, [], GRID), plain(image, [], GRID), atol=1e-5, rtol=1e-4)


def test_logits_are_clamped_before_they_are_averaged(image):
    bound = 0.02
    maps = teacher(kept="single", clamp=bound)(image, [], GRID)
    assert maps.abs().max() <= bound
    raw = teacher(kept="single", clamp=None)
    logits, _ = by_the_package(raw.sam, image, multimask=False)
    assert logits.abs().max() > bound
    torch.testing.assert_close(maps[0], pooled(logits.clamp(-bound, bound))[:, 0], atol=1e-5, rtol=1e-4)


def test_it_stays_frozen_and_describes_what_its_maps_depend_on(plain):
    assert not plain.train().sam.training
    assert not any(parameter.requires_grad for parameter in plain.parameters())
    described = plain.describe()
    other = teacher(prompts_per_batch=1)
    differing = {key for key, value in other.describe().items() if value != described[key]}
    assert differing == {"kept", "clamp"}  # random weights are always the same; the batch is no property of a map
    with torch.no_grad():
        other.sam.no_mem_embed += 1
    assert other.describe()["weights_sha256"] != described["weights_sha256"]


def test_missing_weights_say_what_to_fetch_and_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.delenv("PE_SPATIAL_WEIGHTS", raising=False)
    with pytest.raises(FileNotFoundError, match=r"fetch https://.*sam2\.1_hiera_large\.pt .* PE_SPATIAL_WEIGHTS"):
        MaskLogitTeacher()
    monkeypatch.setenv("PE_SPATIAL_WEIGHTS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"sam2.1_hiera_tiny.pt and put it into the folder {tmp_path}"):
        MaskLogitTeacher(size="tiny")
    (tmp_path / "sam2.1_hiera_tiny.pt").touch()
    assert find_sam2_weights("tiny") == tmp_path / "sam2.1_hiera_tiny.pt"


def test_weights_of_another_size_are_refused_and_those_of_this_one_are_loaded(plain, tmp_path):
    torch.save({"model": plain.sam.state_dict()}, tmp_path / "own.pt")
    with pytest.raises(ValueError, match=r"own\.pt does not contain SAM 2\.1 small"):
        build_sam2("small", tmp_path / "own.pt", SIDE)
    loaded = MaskLogitTeacher(str(tmp_path / "own.pt"), "tiny", kept="single", clamp=None, image_size=SIDE)
    assert loaded.describe() == plain.describe()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "huge"}, "tiny, small"),
        ({"kept": "all"}, "stable, best, single"),
        ({"interpolation": "cubic"}, "area, bilinear"),
        ({"clamp": 0}, "None leaves"),
        ({"prompts_per_batch": 0}, "at least 1"),
        ({"image_size": 1000}, "multiple of 32"),
    ],
)
def test_options_that_do_not_exist_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MaskLogitTeacher("random", **options)


def test_a_grid_finer_than_sams_logits_is_refused(plain, image):
    with pytest.raises(ValueError, match="32 logits"):
        plain(image, [], (65, 65))
