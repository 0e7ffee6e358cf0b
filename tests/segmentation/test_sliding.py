"""Windows over an image: the same scores as mmseg's, in memory that the window bounds."""

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmseg.models.segmentors import EncoderDecoder
from small_segmenters import TINY, build, save_photos, save_segmenter, settings
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from pe_spatial.common.errors import UserError
from pe_spatial.inference.predictor import Predictor
from pe_spatial.inference.tasks import resizing
from pe_spatial.segmentation import predictor, sliding
from pe_spatial.segmentation.predictor import SegmentationPredictor
from pe_spatial.segmentation.sliding import Axis, Grid, blend
from pe_spatial.segmentation.windows import Window

QUERIES = {"num_queries": 9, "num_blocks": 1}
CONFIG = {"window": {"size": [32, 40], "stride": [21, 27]}}


def grid(frame, network, padded, window, stride, align_corners=False, cells=(4, 5)):
    axes = [
        Axis(*sides, -(-sides[3] // 8) * 8, align_corners)
        for sides in zip(frame, network, padded, window, stride, strict=True)
    ]
    return Grid.over(*axes, cells, 5)


def assembled(windows, cells, size):
    """What `blend` gives, put together: [K, H, W]; every pixel is given once."""
    result, seen = torch.zeros(5, *size), torch.zeros(size)
    for top, left, scores in blend(windows, iter(cells)):
        place = (slice(top, top + scores.shape[0]), slice(left, left + scores.shape[1]))
        result[:, place[0], place[1]] = scores.permute(2, 0, 1)
        seen[place] += 1
    assert (seen == 1).all()
    return result


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_window_that_covers_the_image_is_the_image(align_corners):
    cells = torch.randn(6, 8, 5)
    whole = F.interpolate(cells.permute(2, 0, 1)[None], (48, 64), mode="bilinear", align_corners=align_corners)
    expected = F.interpolate(whole[..., :43, :61], (90, 101), mode="bilinear")[0]
    windows = grid((90, 101), (43, 61), (48, 64), (48, 64), (48, 64), align_corners)
    torch.testing.assert_close(assembled(windows, [cells], (90, 101)), expected)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("frame", [(61, 83), (40, 97), (130, 166)], ids=["same size", "other shape", "enlarged"])
def test_equals_the_mean_of_enlarged_windows(frame, align_corners):
    network, padded = (61, 83), (64, 88)
    windows = grid(frame, network, padded, (32, 40), (21, 27), align_corners)
    cells = [torch.randn(4, 5, 5) for _ in windows.places()]
    total, count = torch.zeros(5, *padded), torch.zeros(padded)
    for each, (y, x) in zip(cells, windows.places(), strict=True):
        large = F.interpolate(each.permute(2, 0, 1)[None], (32, 40), mode="bilinear", align_corners=align_corners)
        total[:, y : y + 32, x : x + 40] += large[0]
        count[y : y + 32, x : x + 40] += 1
    mean = (total / count)[None, :, : network[0], : network[1]]
    expected = F.interpolate(mean, frame, mode="bilinear")[0]
    torch.testing.assert_close(assembled(windows, cells, frame), expected, rtol=1e-5, atol=1e-5)


def test_equals_mmsegs_slide_inference():
    ours = build(settings(**CONFIG))
    head = {"type": "LinearHead", "in_channels": 32, "num_classes": 5}
    mode = {"mode": "slide", "crop_size": CONFIG["window"]["size"], "stride": CONFIG["window"]["stride"]}
    theirs = EncoderDecoder(backbone={"type": "PEBackbone", "variant": TINY}, decode_head=head).eval()
    theirs.test_cfg = ConfigDict(mode)
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(1, 3, 72, 96)
    windows = grid((72, 96), (72, 96), (72, 96), (32, 40), (21, 27))
    with torch.no_grad():
        meta = {"ori_shape": (72, 96), "img_shape": (72, 96), "pad_shape": (72, 96)}
        expected = theirs.slide_inference(images, [meta])[0]
        crops = [images[..., y : y + 32, x : x + 40] for y, x in windows.places()]
        cells = [ours.score_map(crop)[0].permute(1, 2, 0) for crop in crops]
    torch.testing.assert_close(assembled(windows, cells, (72, 96)), expected, rtol=1e-4, atol=1e-5)


def test_windows_that_leave_gaps_are_refused():
    with pytest.raises(ValueError, match="stride 9, window 8 .*gaps"):
        Axis(20, 20, 24, 8, 9, 8)


def test_strips_give_the_same(monkeypatch):
    whole = grid((90, 300), (90, 300), (96, 304), (32, 40), (21, 27))
    cells = dict(zip(whole.places(), [torch.randn(4, 5, 5) for _ in whole.places()], strict=True))
    expected = assembled(whole, cells.values(), (90, 300))
    monkeypatch.setattr(sliding, "CELLS_KEPT", 4 * 4 * 5 * 5 * 3 * 4)  # four windows a row
    strips = grid((90, 300), (90, 300), (96, 304), (32, 40), (21, 27))
    assert len(strips.strips) == 4 and max(len(strip.windows) for strip in strips.strips) <= 5
    torch.testing.assert_close(assembled(strips, [cells[place] for place in strips.places()], (90, 300)), expected)


# --- the predictor ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return save_photos(tmp_path_factory.mktemp("photos"), a=(61, 83), b=(24, 30), c=(70, 64))


@pytest.mark.parametrize(
    "options",
    [CONFIG, {}, {**CONFIG, "resize": 48}, {"window": {"size": [30, 35], "stride": [20, 25]}}],
    ids=["window", "whole", "resized", "no whole patches"],
)
def test_predicts_what_the_model_predicts(photos, tmp_path, options):
    path = save_segmenter(tmp_path / "seg.pth", **options)
    expected, ours = Predictor(path, "cpu"), SegmentationPredictor(path, "cpu")
    for photo in sorted(photos.iterdir()):
        labels = ours(photo).pred_sem_seg.data
        assert labels.dtype == torch.uint8
        assert len(labels.unique()) > 2
        assert (labels == expected(photo).pred_sem_seg.data).float().mean() > 0.999


def test_batches_change_nothing(photos, tmp_path):
    path = save_segmenter(tmp_path / "seg.pth", **CONFIG)
    files = sorted(photos.iterdir())
    single, batched = SegmentationPredictor(path, "cpu")(files), SegmentationPredictor(path, "cpu", 5)(files)
    for one, other in zip(single, batched, strict=True):
        assert (one.pred_sem_seg.data == other.pred_sem_seg.data).float().mean() > 0.999


def test_probabilities_are_those_of_the_whole_image(photos, tmp_path):
    path = save_segmenter(tmp_path / "seg.pth")
    sample = SegmentationPredictor(path, "cpu").configure(confidence=True, probabilities=tmp_path)(photos / "c.png")
    prepared = Predictor(path, "cpu").prepare(photos / "c.png")
    model = build(settings())
    inputs = model.data_preprocessor({"inputs": [prepared["inputs"]]})["inputs"]
    with torch.no_grad():
        expected = model.segment_logits(inputs)[0, :, :70, :64].softmax(0)
    assert (sample.pred_confidence.data[0] / 255 - expected.amax(0)).abs().max() <= 0.51 / 255
    found = torch.from_numpy(np.load(sample.probabilities))
    assert found.dtype == torch.float16 and (found.permute(2, 0, 1) - expected).abs().max() < 1e-3


def test_probabilities_that_cannot_be_finished_are_removed(photos, tmp_path, monkeypatch):
    predict = SegmentationPredictor(save_segmenter(tmp_path / "seg.pth"), "cpu").configure(
        probabilities=tmp_path / "scratch"
    )
    monkeypatch.setattr(predictor, "best_class", lambda scores: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predict(photos / "c.png")
    assert list((tmp_path / "scratch").iterdir()) == []


class LargestFloat(TorchDispatchMode):
    """Notes the largest result of floating point, in numbers."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and not tensor.is_sparse:
                self.largest = max(self.largest, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


def test_memory_is_bounded_by_the_window_not_by_the_image(tmp_path, monkeypatch):
    monkeypatch.setattr(sliding, "_TILE_SCORES", {"cpu": 2**12})
    monkeypatch.setattr(sliding, "CELLS_KEPT", 4 * 4 * 5 * 5 * 2 * 4)  # four windows a row
    window = {"size": [32, 40], "stride": [32, 32]}
    predict = SegmentationPredictor(save_segmenter(tmp_path / "seg.pth", window=window), "cpu")
    largest = {}
    for size in ((96, 160), (192, 320)):
        prepared = predict.prepare(np.zeros((*size, 3), np.uint8))
        with LargestFloat() as watch:
            predict.predict([prepared])
        largest[size] = watch.largest
    assert largest[96, 160] == largest[192, 320] < 192 * 320 / 4


def test_a_model_without_a_window_gets_one_for_large_images(photos, tmp_path, monkeypatch):
    path = save_segmenter(tmp_path / "seg.pth")
    monkeypatch.setattr(predictor, "LARGEST_WHOLE", 48 * 48)
    monkeypatch.setattr(predictor, "FALLBACK_WINDOW", Window((32, 40), (21, 27)))
    slid = SegmentationPredictor(path, "cpu")(photos / "a.png").pred_sem_seg.data
    asked = (
        SegmentationPredictor(path, "cpu")
        .configure(window=Window((32, 40), (21, 27)))(photos / "a.png")
        .pred_sem_seg.data
    )
    assert torch.equal(slid, asked)


def test_options_for_classes_are_refused_by_a_model_of_objects(tmp_path):
    path = save_segmenter(tmp_path / "seg.pth", 0, "MaskDecoder", outputs=["panoptic"], things=2, **QUERIES)
    with pytest.raises(UserError, match="confidence works only for semantic segmentation, but"):
        SegmentationPredictor(path, "cpu").configure(confidence=True)
    with pytest.raises(UserError, match="window works only for semantic segmentation, but"):
        SegmentationPredictor(path, "cpu").configure(window=Window((32, 32), (16, 16)))


def test_the_samples_of_a_model_of_objects_are_its_own(photos, tmp_path):
    path = save_segmenter(
        tmp_path / "seg.pth", 0, "MaskDecoder", outputs=["semantic", "panoptic"], things=2, least_score=0.0, **QUERIES
    )
    ours, expected = (kind(path, "cpu")(photos / "a.png") for kind in (SegmentationPredictor, Predictor))
    assert torch.equal(ours.pred_panoptic.data, expected.pred_panoptic.data) and ours.segments == expected.segments
    assert SegmentationPredictor(path, "cpu").kinds == ("labels", "panoptic")


@pytest.mark.parametrize("config", [{}, CONFIG])
def test_a_picture_much_larger_than_its_input_has_the_same_labels(tmp_path, monkeypatch, config):
    path = save_segmenter(tmp_path / "seg.pth", **config)
    overrides = resizing(Predictor(path, device="cpu").config, 72)
    photo = save_photos(tmp_path / "photos", a=(400, 611)) / "a.png"
    plain = SegmentationPredictor(path, "cpu", 2, overrides)
    assert plain.shrinks and not SegmentationPredictor(path, "cpu").shrinks
    expected = plain(photo).pred_sem_seg.data
    monkeypatch.setattr(predictor, "LARGE", 0)
    asked = []
    monkeypatch.setattr(predictor, "best_class", lambda scores: asked.append(scores))
    found = SegmentationPredictor(path, "cpu", 2, overrides)(photo).pred_sem_seg.data
    assert not asked  # no pixel of the picture went the way of windows
    assert found.dtype == expected.dtype and torch.equal(found, expected) and len(found.unique()) > 1
