import numpy as np
import pytest
import torch

from pe_spatial.data import boxes_of_masks
from pe_spatial.demo.room import MIN_VISIBLE
from pe_spatial.demo.scenes import CLASSES, SEMANTIC_CLASSES, draw_scene, draw_video
from pe_spatial.demo.textures import load_photographs


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene([7, number], (96, 128) if number % 2 else 128) for number in range(40)]


@pytest.fixture(scope="module")
def video():
    return draw_video(3, (96, 160), frames=25)


def empty_room_depth(scene):
    """The depth behind the objects, from the same pinhole geometry: floor as far as the wall."""
    camera = scene.camera
    below = np.arange(camera.size[0])[:, None] + 0.5 - camera.cy
    floor = np.where(below > 0, camera.focal * camera.height / np.maximum(below, 1e-9), np.inf)
    wall = scene.depth[scene.ids == 0].max()
    return np.minimum(floor, wall) * np.ones((1, camera.size[1]))


def test_a_scene_is_a_function_of_its_seed():
    first, second, other = draw_scene(5), draw_scene(5), draw_scene(6)
    for field in ("image", "ids", "depth", "labels", "distances"):
        assert np.array_equal(getattr(first, field), getattr(second, field))
    assert not np.array_equal(first.image, other.image)
    state = np.random.get_state()[1].copy()
    draw_scene(5)
    assert np.array_equal(np.random.get_state()[1], state)  # no global generator is touched


def test_shapes_and_types(scenes):
    for scene in scenes:
        H, W = scene.camera.size
        N = len(scene.labels)
        assert 1 <= N <= 6
        assert scene.image.shape == (H, W, 3)
        assert scene.image.dtype == np.uint8
        assert scene.depth.shape == scene.ids.shape == scene.semantic.shape == (H, W)
        assert scene.masks.shape == (N, H, W)
        assert scene.boxes.shape == (N, 4)
        assert set(scene.labels) <= set(range(len(CLASSES)))
    assert {label for scene in scenes for label in scene.labels} == set(range(len(CLASSES)))


def test_boxes_are_those_of_the_masks(scenes):
    for scene in scenes:
        assert np.array_equal(scene.boxes, boxes_of_masks(torch.from_numpy(scene.masks)).numpy())


def test_every_object_shows_enough_of_itself(scenes):
    for scene in scenes:
        # the area that the object would cover in full: a disc, a rectangle or a triangle of its projected radius
        areas = scene.masks.sum((1, 2))
        assert areas.min() > 12
        for label, area, box in zip(scene.labels, areas, scene.boxes, strict=True):
            assert area <= (box[2] - box[0]) * (box[3] - box[1])
            assert label != 0 or area > MIN_VISIBLE * 0.6 * np.pi / 4 * max(box[2] - box[0], box[3] - box[1]) ** 2


def test_sizes_suit_a_small_detector(scenes):
    relative = np.concatenate(
        [(scene.boxes[:, 2:] - scene.boxes[:, :2]).max(1) / scene.camera.focal for scene in scenes]
    )
    assert 0.2 < np.median(relative) < 0.4
    assert relative.max() < 0.7


def test_discs_are_as_large_as_their_distance_says(scenes):
    """A whole disc of 0.3 to 0.6 meters radius, seen through the pinhole, in pixels."""
    checked = 0
    for scene in scenes:
        H, W = scene.camera.size
        for label, distance, box, mask in zip(scene.labels, scene.distances, scene.boxes, scene.masks, strict=True):
            whole = box[0] > 0 and box[1] > 0 and box[2] < W and box[3] < H and box[2] - box[0] == box[3] - box[1]
            if label == 0 and whole and mask.sum() > 0.75 * (box[2] - box[0]) ** 2:
                meters = (box[2] - box[0]) / 2 * distance / scene.camera.focal
                assert 0.27 < meters < 0.64
                assert mask.sum() == pytest.approx(np.pi / 4 * (box[2] - box[0]) ** 2, rel=0.1)
                checked += 1
    assert checked > 5


def test_objects_lie_at_their_distance_before_the_room(scenes):
    for scene in scenes:
        room = empty_room_depth(scene)
        for mask, distance in zip(scene.masks, scene.distances, strict=True):
            assert np.allclose(scene.depth[mask], distance)
            assert (distance < room[mask]).all()
        background = scene.ids == 0
        assert np.allclose(scene.depth[background], room[background], rtol=1e-5)
        assert scene.depth.min() > 0.5


def test_the_nearer_object_hides_the_farther_one():
    """Where a disc's full circle is known, whatever covers it inside the circle is nearer."""
    covered = 0
    for number in range(60):
        scene = draw_scene([11, number])
        rows, columns = np.mgrid[:128, :128] + 0.5
        for n in np.flatnonzero(scene.labels == 0):
            x1, y1, x2, y2 = scene.boxes[n]
            radius = (x2 - x1) / 2
            inside_image = x1 > 0 and y1 > 0 and x2 < 128 and y2 < 128
            if inside_image and abs((x2 - x1) - (y2 - y1)) <= 1:  # its extremes show on all four sides
                inside = np.hypot(columns - (x1 + x2) / 2, rows - (y1 + y2) / 2) < radius - 2
                others = inside & ~scene.masks[n]
                assert (scene.depth[others] < scene.distances[n]).all()
                covered += others.sum()
    assert covered > 50


def test_label_maps_agree_with_the_instances(scenes):
    for scene in scenes:
        first = SEMANTIC_CLASSES.index(CLASSES[0])
        for label, mask in zip(scene.labels, scene.masks, strict=True):
            assert (scene.semantic[mask] == first + label).all()
        background = scene.semantic[scene.ids == 0]
        assert set(np.unique(background)) <= {0, 1}
        wall = scene.depth[(scene.ids == 0) & (scene.semantic == 0)]
        floor = scene.depth[(scene.ids == 0) & (scene.semantic == 1)]
        assert np.ptp(wall) == 0
        assert (floor < wall.max()).all()
        assert (np.diff(scene.semantic[:, 0][scene.ids[:, 0] == 0].astype(int)) >= 0).all()  # the floor is below


def test_objects_stand_out_from_the_room(scenes):
    contrasts = []
    for scene in scenes:
        for box, mask in zip(scene.boxes.astype(int), scene.masks, strict=True):
            x1, y1, x2, y2 = box
            window = (slice(max(0, y1 - 4), y2 + 4), slice(max(0, x1 - 4), x2 + 4))
            around = scene.ids[window] == 0
            if around.any():
                pixels = scene.image[window].astype(float)
                contrasts.append(np.abs(pixels[mask[window]].mean(0) - pixels[around].mean(0)).max())
    assert np.median(contrasts) > 40


def test_classes_have_typical_colors_and_exceptions(scenes):
    """Discs are mostly red, boxes blue, triangles green: the channel that leads in the mean color of an object."""
    leading = {label: [] for label in range(len(CLASSES))}
    for scene in scenes:
        for label, mask in zip(scene.labels, scene.masks, strict=True):
            leading[int(label)].append(scene.image[mask].mean(0).argmax())
    typical = [np.array(leading[label]) == channel for label, channel in enumerate((0, 2, 1))]
    assert all(share.mean() > 0.7 for share in typical)
    assert not np.concatenate(typical).all()


def test_videos_keep_their_objects(video):
    assert len(video) == 25
    for frame in video:
        assert np.array_equal(frame.labels, video[0].labels)
        assert set(np.unique(frame.ids)) <= set(range(len(frame.labels) + 1))
    assert all(mask.any() for mask in video[0].masks)


def test_objects_move_smoothly_and_change_their_distance(video):
    for n in range(len(video[0].labels)):
        centers = [(f.boxes[n, :2] + f.boxes[n, 2:]) / 2 for f in video if f.masks[n].sum() > 100]
        steps = np.linalg.norm(np.diff(centers, axis=0), axis=1)
        assert np.median(steps) < 6
    displacement = [np.abs(video[-1].boxes[n] - video[0].boxes[n]).max() for n in range(len(video[0].labels))]
    assert max(displacement) > 5
    assert max(np.ptp([f.distances[n] for f in video]) for n in range(len(video[0].labels))) > 0
    assert np.array_equal(draw_video(3, (96, 160), frames=2)[1].image, video[1].image)


def test_objects_pass_in_front_of_each_other():
    """In some frame of some video an object shows much less of itself than in another, inside the image."""
    least = 1.0
    for seed in range(6):
        frames = draw_video(seed, 64, frames=30)
        areas = np.stack([frame.masks.sum((1, 2)) for frame in frames])
        least = min(least, (areas.min(0) / areas.max(0)).min())
    assert least < 0.5


def test_photographs_change_the_picture_and_not_the_truth():
    photographs = load_photographs()
    if not photographs:
        pytest.skip("scikit-image is not installed")
    assert all(photo.dtype == np.uint8 and photo.ndim == 3 and max(photo.shape) <= 256 for photo in photographs)
    scenes = [draw_scene([1, number], 64, photographs) for number in range(8)]
    again = [draw_scene([1, number], 64, photographs) for number in range(8)]
    plain = [draw_scene([1, number], 64) for number in range(8)]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(scenes, again, strict=True))
    assert any(not np.array_equal(a.image, b.image) for a, b in zip(scenes, plain, strict=True))


def test_bad_arguments():
    with pytest.raises(ValueError, match="below 32 pixels"):
        draw_scene(0, 16)
    with pytest.raises(ValueError, match="frames 0"):
        draw_video(0, 64, frames=0)
