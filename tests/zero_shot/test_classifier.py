"""Scores of pictures and videos, against PECore itself and the official rule for frames."""

import numpy as np
import pytest
import torch
from PIL import Image
from small_core import TINY

from pe_spatial.backbones import PECore
from pe_spatial.backbones.text import Prompts, class_vectors
from pe_spatial.common.errors import UnreadableFile
from pe_spatial.common.video import VideoReader, VideoWriter
from pe_spatial.zero_shot.classifier import ZeroShotClassifier
from pe_spatial.zero_shot.embedding import frame_numbers, read_clip

PROMPTS = Prompts(("cat", "dog", "fire truck"))


@pytest.fixture(scope="module")
def model():
    pytest.importorskip("ftfy")
    torch.manual_seed(0)
    return PECore(TINY)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    generator = torch.Generator().manual_seed(0)
    with VideoWriter(path) as video:
        for _ in range(20):
            video.write(torch.randint(256, (3, 32, 48), generator=generator, dtype=torch.uint8))
    return path


def picture(seed=0):
    return np.random.default_rng(seed).integers(256, size=(30, 40, 3), dtype=np.uint8)


@torch.no_grad()
def test_pictures_in_any_form_get_softmax_of_100_cosines(model, tmp_path):
    classifier = ZeroShotClassifier(model, PROMPTS, batch_size=2)
    Image.fromarray(picture()).save(tmp_path / "a.png")
    features = model.encode_image(model.preprocess(Image.fromarray(picture()))[None], normalize=True)
    expected = (100 * features @ class_vectors(model, PROMPTS).T).softmax(dim=1)[0]
    for given in (tmp_path / "a.png", picture(), Image.fromarray(picture())):
        torch.testing.assert_close(classifier(given), expected)
    many = classifier([picture(), picture(1), picture(2)])
    assert many.shape == (3, 3)
    torch.testing.assert_close(many[0], expected)
    assert classifier([]).shape == (0, 3)


@torch.no_grad()
@pytest.mark.parametrize("definition", ["classification", "retrieval"])
def test_videos_follow_either_definition(model, film, definition):
    classifier = ZeroShotClassifier(model, PROMPTS, definition=definition)
    clip = read_clip(film)
    inputs = torch.stack([model.preprocess(frame) for frame in clip])[None]
    expected = classifier.vectors @ model.encode_video(inputs, definition)[0]
    ((_, found),) = classifier.read_video(film)
    image = torch.from_numpy(picture()).permute(2, 0, 1)
    samples = classifier.predict([classifier.transform(classifier.load(item)) for item in (found, image)])
    torch.testing.assert_close(samples[0].cosines, expected, atol=2e-6, rtol=0)
    assert [sample.frames for sample in samples] == [8, 1]
    assert classifier.predict([]) == []


@pytest.mark.parametrize(
    ("total", "count", "numbers"),
    [
        (20, 8, [0, 2, 5, 8, 10, 13, 16, 19]),
        (8, 8, list(range(8))),
        (3, 8, [0, 0, 0, 0, 1, 1, 1, 2]),
        (1, 8, [0] * 8),
        (21, 1, [10]),
        (2, 2, [0, 1]),
    ],
)
def test_the_official_rule_for_frames(total, count, numbers):
    assert frame_numbers(total, count) == numbers


def test_the_frames_of_a_clip_are_those_of_the_video(film):
    with VideoReader(film) as video:
        frames = [frame.image for frame in video.whole()]
    assert torch.equal(read_clip(film, 8), torch.stack([frames[n] for n in frame_numbers(20, 8)]))


def test_videos_that_are_none_are_named(model, tmp_path, monkeypatch):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    ((source, found),) = ZeroShotClassifier(model, PROMPTS).read_video(tmp_path / "bad.mp4")
    assert source.path.name == "bad.mp4"
    assert isinstance(found, UnreadableFile)
    monkeypatch.setattr("pe_spatial.zero_shot.embedding.count_frames", lambda path: 0)
    with pytest.raises(UnreadableFile, match="a video without frames"):
        read_clip(tmp_path / "bad.mp4")


def test_a_video_that_is_shorter_than_it_says_is_named(film, monkeypatch):
    monkeypatch.setattr("pe_spatial.zero_shot.embedding.count_frames", lambda path: 30)
    with pytest.raises(UnreadableFile, match="ends before its frame 20 of 30"):
        read_clip(film)


@pytest.mark.parametrize("options", [{"frames": 0}, {"batch_size": 0}])
def test_numbers_below_one_are_refused(model, options):
    with pytest.raises(ValueError, match="must be at least 1"):
        ZeroShotClassifier(model, PROMPTS, **options)
