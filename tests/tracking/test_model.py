import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from PIL import Image

from pe_spatial.backbones import RawColor
from pe_spatial.common.errors import ConfigError, UserError
from pe_spatial.demo.scenes import draw_video
from pe_spatial.tracking.datasets import Davis2016, Davis2017
from pe_spatial.tracking.metrics import JFMetric, VideoScore
from pe_spatial.tracking.model import VideoTracker
from pe_spatial.tracking.repeated_mask import RepeatedMask
from pe_spatial.tracking.scores import ScoreTable

TINY = {"name": "tiny", "patch_size": 8, "width": 32, "depth": 2, "heads": 2, "mlp_ratio": 2, "image_size": 64}
BACKBONE = {"type": "PEBackbone", "variant": {**TINY, "cls_token": True}}
REAL = Path(__file__).parents[2] / ".." / "shared" / "data" / "davis_tiny"


def build(**options):
    torch.manual_seed(0)
    return VideoTracker(BACKBONE, {"short_side": 96}, {"radius": 4}, recent=3, **options)


@pytest.fixture(scope="module")
def scenes():
    return draw_video(4, size=(96, 144), frames=10)


def frames_of(scenes):
    return [torch.from_numpy(scene.image).permute(2, 0, 1) for scene in scenes]


def masks_of(scenes):
    return [torch.from_numpy(scene.ids.astype(np.int64)) for scene in scenes]


def score(results, truths, tmp_path):
    value = VideoScore("drawn", {int(n): 0 for n in truths[0].unique() if n}, len(truths))
    for number, (ids, truth) in enumerate(zip(results, truths, strict=True)):
        path = tmp_path / f"{number}.png"
        Image.fromarray(truth.byte().numpy()).save(path)
        value.add(number, ids.numpy(), path)
    return ScoreTable(value.results()).totals


def test_drawn_objects_are_followed(scenes, tmp_path):
    frames, truths = frames_of(scenes), masks_of(scenes)
    tracker, repeated = build(), RepeatedMask()
    first = [model.init(frames[0], mask=truths[0]) for model in (tracker, repeated)]
    assert torch.equal(first[0], truths[0].byte()) and torch.equal(first[1], truths[0].byte())
    followed = score([first[0], *(tracker.step(frame) for frame in frames[1:])], truths, tmp_path)
    floor = score([first[1], *(repeated.step(frame) for frame in frames[1:])], truths, tmp_path)
    assert followed["J&F"] > 0.6
    assert followed["J&F"] > floor["J&F"] + 0.1


def test_known_motion_is_followed_to_the_token(tmp_path):
    """A textured square moves one token per frame over a textured ground: nothing is ambiguous."""
    random = torch.Generator().manual_seed(1)
    ground = torch.randint(0, 256, (3, 96, 144), generator=random, dtype=torch.uint8)
    texture = torch.randint(0, 256, (3, 32, 32), generator=random, dtype=torch.uint8)
    tracker = VideoTracker(RawColor(8), {"short_side": 96}, {"radius": 3, "topk": 1}, {"upsampling": "nearest"})
    for step in range(8):
        frame, truth = ground.clone(), torch.zeros(96, 144, dtype=torch.int64)
        place = (slice(32, 64), slice(8 + 8 * step, 40 + 8 * step))
        frame[:, place[0], place[1]], truth[place] = texture, 1
        ids = tracker.init(frame, mask=truth) if step == 0 else tracker.step(frame)
        # what the square uncovers was never seen: it may stay with the object, what it covers may not
        assert torch.equal((ids == 1) & (truth == 1), truth == 1)
        assert ((ids == 1) & (truth == 0)).sum() <= 4 * 64 * step


def test_frames_and_masks_come_in_every_form(scenes, tmp_path):
    tracker = build()
    frames, mask = frames_of(scenes)[:2], masks_of(scenes)[0]
    expected = [tracker.init(frames[0], mask=mask), tracker.step(frames[1])]
    arrays = [scene.image for scene in scenes[:2]]
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    for path, array in zip(paths, arrays, strict=True):
        Image.fromarray(array).save(path)
    palette = Image.fromarray(mask.byte().numpy()).convert("P")
    palette.save(tmp_path / "mask.png")
    masks = (tmp_path / "mask.png", str(tmp_path / "mask.png"), Image.open(tmp_path / "mask.png"), mask.int().numpy())
    forms = (paths, [path.read_bytes() for path in paths], [Image.fromarray(array) for array in arrays], arrays)
    for form, given in zip(forms, masks, strict=True):
        assert torch.equal(tracker.init(form[0], mask=given), expected[0])
        assert torch.equal(tracker.step(form[1]), expected[1])
    bgr = [array[..., ::-1] for array in arrays]
    tracker.labels.reset()
    tracked = list(tracker.track(iter(bgr), {0: tmp_path / "mask.png"}, batch=2, channels="bgr"))
    assert all(map(torch.equal, tracked, expected))


def test_a_bool_mask_is_the_object_1(scenes):
    tracker, frame, mask = build(), frames_of(scenes)[0], masks_of(scenes)[0] > 0
    expected = tracker.init(frame, mask=mask.long())
    assert torch.equal(tracker.init(frame, mask=mask), expected)
    assert torch.equal(tracker.init(frame, mask=mask.numpy()), expected)


def test_what_is_no_frame_or_mask_is_refused(scenes):
    tracker, frame = build(), frames_of(scenes)[0]
    for mask in (np.zeros((96, 144), np.float32), torch.zeros(1, 96, 144, dtype=torch.int64), 5):
        with pytest.raises(UserError, match="is not a mask; pass"):
            tracker.init(frame, mask=mask)
    with pytest.raises(UserError, match="is not an image"):
        tracker.init(frame.float(), mask=torch.ones(96, 144, dtype=torch.int64))


@pytest.mark.parametrize("batch", [2, 4, 7])
def test_streaming_equals_batches(scenes, batch):
    frames, truths = frames_of(scenes), masks_of(scenes)
    tracker = build()
    streamed = [tracker.init(frames[0], mask=truths[0]), *(tracker.step(frame) for frame in frames[1:])]
    tracker.labels.reset()
    together = list(tracker.track(iter(frames), {0: truths[0]}, batch=batch))
    for one, other in zip(streamed, together, strict=True):
        assert (one != other).float().mean() < 1e-3  # sums in another order may move a border pixel


def test_no_more_frames_are_read_than_a_batch(scenes):
    taken = []

    def source():
        for number, frame in enumerate(frames_of(scenes)):
            taken.append(number)
            yield frame

    results = build().track(source(), {0: masks_of(scenes)[0]}, batch=3)
    next(results)
    assert taken == [0, 1, 2]


def live_bytes():
    gc.collect()
    tensors = [item for item in gc.get_objects() if type(item) is torch.Tensor and item.layout is torch.strided]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def test_memory_does_not_grow_with_the_length_of_the_video():
    random = torch.Generator().manual_seed(0)
    mask = torch.zeros(64, 64, dtype=torch.int64)
    mask[16:40, 16:40], mask[48:, 48:] = 1, 2
    frames = (torch.randint(0, 256, (3, 64, 64), generator=random, dtype=torch.uint8) for _ in range(300))
    tracker = VideoTracker(RawColor(16), {"short_side": 64}, {"radius": 2})
    sizes = {}
    for number, _ in enumerate(tracker.track(frames, {0: mask}, batch=4)):
        if number in (20, 297):
            sizes[number] = live_bytes()
    assert number == 299
    assert sizes[297] <= sizes[20]


def test_boxes_and_points_become_objects(scenes):
    frame = frames_of(scenes)[0]
    tracker = build()
    ids = tracker.init(frame, boxes={1: (10, 10, 40, 40)}, points={5: [(100, 50, True)]})
    assert set(ids.unique().tolist()) == {0, 1, 5}
    assert (ids[10:40, 10:40] == 1).all() and ids[50, 100] == 5
    assert tracker.step(frames_of(scenes)[1], boxes={7: (60, 60, 90, 90)}).unique().tolist()[-1] == 7


def write_davis(scenes, root, video="drawn"):
    for folder in ("JPEGImages", "Annotations"):
        (root / folder / "480p" / video).mkdir(parents=True)
    for number, scene in enumerate(scenes):
        Image.fromarray(scene.image).save(root / "JPEGImages" / "480p" / video / f"{number:05d}.png")
        Image.fromarray(scene.ids.astype(np.uint8)).save(root / "Annotations" / "480p" / video / f"{number:05d}.png")
    return root


def test_a_runner_s_test_step_equals_streaming(scenes, tmp_path):
    dataset = Davis2017(str(write_davis(scenes, tmp_path)))
    tracker, sample = build(), dataset[0]
    (result,) = tracker.test_step({"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"]]})
    frames = frames_of(scenes)
    tracker.init(frames[0], mask=masks_of(scenes)[0])
    expected = [tracker.step(frame) for frame in frames[1:]]
    assert torch.equal(result.pred_track_ids[1:], torch.stack(expected))
    metric = JFMetric()
    metric.process(None, [result.to_dict()])
    assert metric.compute_metrics(metric.results)["J&F"] > 0.5


def test_bfloat16_tracks_as_well(scenes, tmp_path):
    frames, truths = frames_of(scenes), masks_of(scenes)
    tracker = build(dtype="bfloat16")
    results = list(tracker.track(iter(frames), {0: truths[0]}))
    assert tracker.labels.memory.keys.dtype == torch.bfloat16
    assert score(results, truths, tmp_path)["J&F"] > 0.5


def test_nothing_is_trained():
    tracker = build().train()
    assert not tracker.training and not any(parameter.requires_grad for parameter in tracker.parameters())
    with pytest.raises(ValueError, match="is not trained"):
        tracker({}, [], mode="loss")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"propagation": {"radios": 3}}, "did you mean 'radius'"),
        ({"propagation": {"radius": -3}}, "propagation: radius -3 is negative"),
        ({"resizing": {}}, "exactly one"),
        ({"dtype": "float16"}, "bfloat16"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        MODELS.build({"type": "VideoTracker", "backbone": BACKBONE, "resizing": {"tokens": 8}, **options})


def test_bad_input_is_refused(scenes):
    tracker, frame = build(), frames_of(scenes)[0]
    with pytest.raises(ValueError, match="nothing to track"):
        tracker.init(frame)
    with pytest.raises(ValueError, match="resize the mask"):
        tracker.init(frame, mask=torch.ones(9, 9, dtype=torch.int64))
    tracker.init(frame, mask=masks_of(scenes)[0])
    with pytest.raises(ValueError, match="must have one size"):
        tracker.step(frame[:, :, :100])
    with pytest.raises(ValueError, match="one video"):
        list(tracker.track([frame, frame[:, :, :100]], {}, batch=2))


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the sequences of {REAL} are not here")
def test_real_sequences_are_followed_better_than_by_repetition():
    dataset = Davis2016(str(REAL), videos=["blackswan"])
    values = {}
    color = VideoTracker(RawColor(16), {"short_side": 480})
    for name, model in (("repeat", RepeatedMask()), ("color", color)):
        metric, sample = JFMetric(), dataset[0]
        for key in ("frame_paths", "annotation_paths"):
            sample["data_samples"].set_metainfo({key: sample["data_samples"].get(key)[::4]})
        (result,) = model.test_step({"inputs": ["blackswan"], "data_samples": [sample["data_samples"]]})
        metric.process(None, [result.to_dict()])
        values[name] = metric.compute_metrics(metric.results)["J&F"]
    assert values["color"] > values["repeat"]
