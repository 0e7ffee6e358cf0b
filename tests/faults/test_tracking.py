"""What users track: masks of all kinds and names, prompts that contradict the video, and scores where nothing shows."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_videos import GIVEN, encode, track

from pe_spatial.commands.shell import run_command
from pe_spatial.common.errors import AnnotationError, OptionError, UnreadableFile
from pe_spatial.tracking.datasets import VideoFolder
from pe_spatial.tracking.frames import ImageFrames, missing_numbers
from pe_spatial.tracking.masks import blurred_values, mask_fault, read_mask, read_prompt
from pe_spatial.tracking.repeated_mask import RepeatedMask

TRACKING = GIVEN / "tracking"
SIZE = (48, 64)
CONFIG = """
_base_: [tracking/baseline_repeat_davis2017.yaml]
test_dataloader: {{dataset: {{_delete_: true, type: VideoFolder, data_root: '{}'}}}}
"""


def ids(value=1, place=10, other=0):
    """An object of 20 x 20 pixels in the numbers `other`."""
    mask = np.full(SIZE, other, np.uint8)
    mask[10:30, place : place + 20] = value
    return mask


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def frame(path, level=90):
    return save(path, np.random.default_rng(level).integers(0, 256, (*SIZE, 3), np.uint8))


def data_set(root, frames=range(6), masks=None, suffix=".png"):
    for number in frames:
        frame(root / "JPEGImages/v" / f"{number:05d}.jpg", number)
    for number in frames if masks is None else masks:
        save(root / "Annotations/v" / f"{number:05d}{suffix}", ids())
    return root


def copied(name, tmp_path):
    return Path(shutil.copytree(TRACKING / name, tmp_path / name))


@pytest.fixture
def tools(tmp_path, capsys):
    """Exit status and text of the doctor and of the tracker for a dataset."""

    def ask(root):
        config = tmp_path / "data.yaml"
        config.write_text(CONFIG.format(root))
        doctor = run_command("check", ["--config", str(config), "--output", str(tmp_path / "check"), "--tiles", "0"])
        said = "".join(capsys.readouterr())
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        tracked = run_command("track", ["--config", str(config), "--output", str(tmp_path / "out"), "--no-pictures"])
        return doctor, said, tracked, "".join(capsys.readouterr())

    return ask


def score(root, capsys, *more):
    out = root / "scores.json"
    status = run_command(
        "score", ["--input", f"{root}/res", "--annotations", f"{root}/gt", "--output", str(out), *more]
    )
    return status, json.loads(out.read_text()) if status == 0 else "".join(capsys.readouterr())


# --- datasets --------------------------------------------------------------------------------------------------------
def test_sound_data_pass(tools, tmp_path):
    doctor, said, tracked, _ = tools(data_set(tmp_path / "d"))
    assert (doctor, tracked) == (0, 0) and "0 kinds of errors, 0 kinds of warnings" in said


def test_upper_case_suffixes_are_read(tools, tmp_path, capsys):
    doctor, _, tracked, said = tools(TRACKING / "upper_png")
    assert (doctor, tracked) == (0, 0) and "all objects" in said
    root = tmp_path / "s"
    for suffix, folder in ((".PNG", "res"), (".Png", "gt")):
        for number in range(4):
            save(root / folder / "v" / f"{number:05d}{suffix}", ids(), format="PNG")
    assert score(root, capsys)[1]["global"]["J&F"] == 1


def test_smoothed_masks_are_refused(tools):
    doctor, said, tracked, told = tools(TRACKING / "smooth_masks")
    assert (doctor, tracked) == (1, 2)
    assert "26 of its 28 values" in said and "smoothed or compressed with loss" in told


def smoothed(kind, tmp_path):
    large = Image.fromarray(np.kron(ids(255), np.ones((3, 3), np.uint8)))
    if kind == "jpeg":
        Image.fromarray(ids(255)).save(tmp_path / "mask.jpg", quality=60)
        return tmp_path / "mask.jpg"
    if kind == "jpeg, then png":
        Image.open(smoothed("jpeg", tmp_path)).save(tmp_path / "mask.png")
    elif kind == "resized":
        large.resize((70, 50), Image.Resampling.BILINEAR).save(tmp_path / "mask.png")
    elif kind == "numbers resized":
        numbers = Image.fromarray(ids(9) + ids(200, 40) + np.roll(ids(100, 10), 20, 0) * (ids(9) == 0))
        numbers.resize((140, 100), Image.Resampling.BICUBIC).save(tmp_path / "mask.png")
    else:
        Image.merge("RGB", [large.resize((64, 48), Image.Resampling.LANCZOS)] * 3).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


@pytest.mark.parametrize("kind", ["jpeg", "jpeg, then png", "resized", "numbers resized", "gray in three bands"])
def test_other_smoothed_masks_are_refused(kind, tmp_path, capsys):
    path = smoothed(kind, tmp_path)
    assert track(encode(tmp_path / "film.mp4"), tmp_path / "out", "--mask", str(path)) == 2
    if kind == "jpeg":  # refused before its values are looked at
        assert "it is a JPEG, whose compression changes the values" in capsys.readouterr().err
        return
    assert "smoothed or compressed with loss" in mask_fault(path)
    assert "smoothed" in capsys.readouterr().err


def test_sharp_masks_are_not_taken_for_smoothed_ones():
    rng = np.random.default_rng(0)
    spots = np.zeros((200, 200), np.int64)  # 200 objects of two pixels
    for number, place in enumerate(rng.choice(40_000 // 16, 200, replace=False), start=1):
        spots[place // 50 * 4, place % 50 * 4 : place % 50 * 4 + 2] = number
    rows, columns = np.mgrid[:200, :200]
    blocks = rows // 20 * 10 + columns // 20 + 1  # 100 objects that touch
    rings = np.minimum(np.hypot(rows - 100, columns - 100) // 8, 11)  # 11 objects inside each other
    void = np.where(np.abs(np.hypot(rows - 100, columns - 100) - 50) < 2, 255, rings > 5)
    for mask in (spots, blocks, rings, void, rows * 0, rows % 2):
        assert blurred_values(torch.from_numpy(mask.astype(np.int64))) == []


def test_gaps_are_found_by_the_doctor(tools, tmp_path):
    doctor, said, tracked, told = tools(TRACKING / "gap")
    assert (doctor, tracked) == (1, 2)
    assert "frames that the tracker refuses" in said and "frame 00003 is missing" in said and "00003" in told


def test_gaps_in_other_namings():
    number = lambda form, numbers: [form.format(n) for n in numbers]  # noqa: E731
    assert missing_numbers(number("frame_{:04d}", (1, 2, 3, 5, 6))) == ["frame_0004"]
    assert missing_numbers(number("cam2_{}_left", (8, 9, 10, 12))) == ["cam2_11_left"]
    assert missing_numbers(number("v1.{:06d}", (0, 10, 30, 40, 50))) == ["v1.000020"]
    # neither photographs of single moments, nor times
    assert missing_numbers(number("IMG_{}", (7, 20, 31, 95))) == []
    assert missing_numbers(number("{}", (10**18, 10**18 + 1, 10**18 + 2, 2 * 10**18))) == []
    assert missing_numbers(["a1", "b2", "c4", "c5"]) == []


def test_two_frames_of_one_name_are_refused(tools, tmp_path):
    root = data_set(tmp_path / "d")
    frame(root / "JPEGImages/v/00002.png")
    doctor, said, tracked, told = tools(root)
    assert (doctor, tracked) == (1, 2)
    for text in (said, told):
        assert "2 frames have the name 00002" in text and "one file per frame" in text
    frame(root / "JPEGImages/v/more/00001.JPG")
    (root / "JPEGImages/v/00002.png").unlink()
    with pytest.raises(UnreadableFile, match="2 frames have the name 00001"):
        ImageFrames(root / "JPEGImages")
    save(root / "Annotations/v/00001.PNG", ids(), format="PNG")
    with pytest.raises(AnnotationError, match=r"00001\.png are masks of the same frame|00001\.PNG and 00001\.png"):
        VideoFolder(str(root)).full_init()


@pytest.mark.parametrize("name", ["{:05d}.png", "{:05d}_mask.png", "mask_{:05d}.png", "masks/{:05d}.png"])
def test_masks_beside_the_frames_are_no_frames(tmp_path, capsys, name):
    for number in range(4):
        frame(tmp_path / "in" / f"{number:05d}.jpg", number)
        save(tmp_path / "in" / name.format(number), ids(2))
    assert track(tmp_path / "in", tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert "looks like a mask of object numbers, but it is" in message
    pattern = message.rpartition("--input ")[2].strip().strip("'")
    assert track(pattern, tmp_path / "out") == 0  # as it says


def test_black_pictures_are_no_masks(tmp_path):
    for number in range(3):
        save(tmp_path / "in" / f"intro_{number}.png", np.zeros((*SIZE, 3), np.uint8))
        frame(tmp_path / "in" / f"scene_{number}.png", number)
    with pytest.warns(UserWarning, match=r"frames of 2 series \(intro_0\.png and so on, scene_0\.png and so on\)"):
        assert ImageFrames(tmp_path / "in").count == 6


def test_numbers_that_are_shifted_are_refused(tools, tmp_path):
    doctor, said, tracked, told = tools(data_set(tmp_path / "d", range(1, 7), range(6)))
    assert (doctor, tracked) == (1, 2)
    assert "numbers may be shifted" in said and "frame 00006 has no mask" in told


def test_masks_of_other_names_are_named(tools, tmp_path):
    doctor, said, tracked, _ = tools(data_set(tmp_path / "a", range(1, 9), (0, 4, 8)))
    assert (doctor, tracked) == (0, 0)
    assert "warning: masks without a frame" in said and "do not match the name of any frame are left out: 1" in said
    root = data_set(tmp_path / "b", masks=())
    for number in range(6):
        save(root / "Annotations/v" / f"frame{number}.png", ids())
    doctor, said, tracked, told = tools(root)
    assert (doctor, tracked) == (1, 2) and "there lie frame0.png" in said and "with the name of a frame" in told
    root = data_set(tmp_path / "c", suffix=".jpg")
    doctor, said, _, _ = tools(root)
    assert doctor == 1 and "6 .jpg" in said and "masks are .png files" in said
    shutil.rmtree(root / "Annotations")
    assert "there is no such folder" in tools(root)[1]


def test_first_frames_without_objects(tools, tmp_path, capsys):
    root = data_set(tmp_path / "d")
    for number, mask in enumerate((ids(0), ids(255), ids(3))):
        save(root / "Annotations/v" / f"{number:05d}.png", mask)
    doctor, said, tracked, _ = tools(root)
    assert tracked == 0 and list(VideoFolder(str(root)).get_data_info(0)["prompts"]) == [2]
    assert doctor == 0 and "objects that enter later are not tracked" in said  # object 1, from frame 3 on
    for number in range(6):
        save(root / "Annotations/v" / f"{number:05d}.png", ids(0))
    doctor, said, tracked, told = tools(root)
    assert (doctor, tracked) == (1, 2) and "without an object" in said and "is empty" in told


def test_masks_of_another_size_or_of_large_numbers(tools, tmp_path):
    root = data_set(tmp_path / "d")
    save(root / "Annotations/v/00002.png", ids()[::2])
    assert "masks of another size" in tools(root)[1]
    save(root / "Annotations/v/00002.png", ids().astype(np.uint16) * 300)
    doctor, said, _, _ = tools(root)
    assert doctor == 1 and "masks that hold no object numbers" in said and "values up to 300" in said
    save(root / "Annotations/v/00000.png", ids().astype(np.uint16) * 1000)
    assert tools(root)[2] == 2
    save(tmp_path / "sixteen.png", ids(7).astype(np.uint16))  # 16 bits alone are no fault
    assert set(read_prompt(tmp_path / "sixteen.png").unique().tolist()) == {0, 7}


# --- void -------------------------------------------------------------------------------------------------------------
def test_frames_of_void_alone_hold_no_object(tmp_path, capsys):
    status, scores = score(copied("score_void_only", tmp_path), capsys)
    assert status == 0 and len(scores["objects"]) == 1
    assert scores["objects"][0]["J"]["mean"] == scores["objects"][0]["F"]["mean"] == 1


@pytest.mark.parametrize(
    ("truths", "results", "expected"),
    [
        ([ids(1), ids(1), ids(255), ids(255), ids(1)], [ids(1), ids(1), ids(0), ids(0), ids(1)], {1: 1}),
        ([ids(1), ids(255), ids(255), ids(1)], [ids(1), ids(1), ids(1), ids(1)], {1: 0}),  # tracked into void
        ([ids(255), ids(2), ids(2), ids(2), ids(2)], [ids(0), ids(2), ids(2), ids(2), ids(2)], {2: 1}),
        ([ids(255)] * 4, [ids(1)] * 4, {1: 1}),  # 0 and 255 in the whole video: one object, as in DAVIS 2016
        ([ids(255)] * 4, [ids(255)] * 4, {1: 1}),
        ([ids(1, other=255)] * 4, [ids(1)] * 4, {1: 1}),
        ([ids(1) + ids(254, 32) + ids(0), *[ids(255)] * 3], [ids(1) + ids(254, 32), *[ids(0)] * 3], {1: 1, 254: 1}),
    ],
)
def test_255_is_void_where_a_video_has_numbered_objects(tmp_path, capsys, truths, results, expected):
    for folder, masks in (("gt", truths), ("res", results)):
        for number, mask in enumerate(masks):
            save(tmp_path / folder / "v" / f"{number:05d}.png", mask)
    status, scores = score(tmp_path, capsys)
    assert status == 0, scores
    assert {row["object"]: row["J"]["mean"] for row in scores["objects"]} == expected


def test_void_in_a_prompt_is_said(tmp_path):
    path = save(tmp_path / "m.png", ids(1) + ids(255, 40))
    with pytest.warns(UserWarning, match="255 is taken for unknown"):
        assert set(read_prompt(path).unique().tolist()) == {0, 1}


# --- palettes and colors ----------------------------------------------------------------------------------------------
DAVIS = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128)]


def test_grayscale_palette_and_colors_say_the_same(tmp_path):
    numbers = ids(1) + ids(2, 35) + np.roll(ids(4), 17, 0) * (ids(1) == 0)
    palette = Image.fromarray(numbers)
    palette.putpalette([level for color in DAVIS for level in color])
    palette.save(tmp_path / "palette.png")
    save(tmp_path / "gray.png", numbers)
    save(tmp_path / "bands.png", np.stack([numbers] * 3, -1))
    Image.open(tmp_path / "palette.png").convert("RGB").save(tmp_path / "rgb.png")
    Image.open(tmp_path / "palette.png").convert("RGBA").save(tmp_path / "rgba.png")
    for path in tmp_path.iterdir():
        assert np.array_equal(read_mask(path).numpy(), numbers), path
    other = np.array([(0, 0, 0), (12, 200, 77)], np.uint8)[ids(1)]
    with pytest.raises(UnreadableFile, match=r"1 of them are not in the palette of DAVIS \(\(12, 200, 77\)\)"):
        read_mask(save(tmp_path / "other.png", other))


def test_colors_of_our_own_results_are_read_as_well(tmp_path):
    frame(tmp_path / "in/00000.jpg")
    frame(tmp_path / "in/00001.jpg")
    assert track(tmp_path / "in", tmp_path / "out", "--box", "40,30,60,44") == 0
    result = tmp_path / "out/in/00000.png"
    Image.open(result).convert("RGB").save(tmp_path / "rgb.png")
    assert torch.equal(read_mask(tmp_path / "rgb.png"), read_mask(result)) and read_mask(result).max() == 2


# --- prompts ----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return encode(tmp_path_factory.mktemp("films") / "film.mkv")


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        (["--at", "12:MASK"], "--at 12: film has 12 frames, and they are counted from 0 to 11"),
        (["--at", "9:MASK", "--limit", "5"], "5 frames with --limit 5"),
        (["--at", "3:MASK", "--at", "3:MASK"], "frame 3 has two masks"),
        (["--mask", "MASK", "--at", "0:MASK"], "frame 0 has two masks"),
        (["--mask", "MASK", "--at", "3:SMALL"], "masks of (48, 64) and (24, 64)"),
        (["--mask", "SMALL"], "resize the mask"),
        (["--mask", "MASK", "--box", "1:2,2,9,9"], "object 1 is in the mask"),
        (["--box", "2:4,4,20,20", "--box", "9,9,30,30", "--box", "2:1,1,9,9"], "object 2 has two boxes"),
        (["--box", "4,4,20,20", "--box", "1:9,9,30,30"], "object 1 has two boxes"),
        (["--box", "4,4,20,20", "--box", "4,4,20,20"], "the other objects cover all of it"),
        (["--box", "0.1,0.2,0.5,0.9"], "normalized to 0…1? Boxes must be in pixels, that would be [6, 10, 32, 43]"),
        (["--box", "0,0,1,1"], "normalized"),
        (["--box", "40,30,20,10"], "x,y,width,height? That would be [40.0, 30.0, 60.0, 40.0]"),
        (["--box", "70,4,90,20"], "no area in a frame of 64 x 48"),
        (["--box", "9.6,9.6,10.2,20"], "less than a pixel"),
        (["--box", ""], "write X1,Y1,X2,Y2"),
        (["--point", ""], "write X,Y"),
        (["--mask", ""], "nothing to track"),
        (["--point", "200,10"], "outside the frame"),
        (["--at", "x:MASK"], "write FRAME:PNG"),
    ],
)
def test_prompts_that_cannot_be_meant_are_named(film, tmp_path, capsys, prompt, says):
    mask, small = save(tmp_path / "m.png", ids(1)), save(tmp_path / "s.png", ids(1)[::2])
    prompt = [part.replace("MASK", str(mask)).replace("SMALL", str(small)) for part in prompt]
    arguments = ["--config", "tracking/baseline_repeat_davis2017", "--input", str(film), "--output", f"{tmp_path}/out"]
    try:
        status = run_command("track", [*arguments, "--no-pictures", *prompt])
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert says in capsys.readouterr().err


def test_prompts_that_are_suspected_are_said_aloud(film, tmp_path, capsys):
    arguments = ["--config", "tracking/baseline_repeat_davis2017", "--input", str(film), "--no-pictures", "--output"]
    assert run_command("track", [*arguments, f"{tmp_path}/a", "--box", "[30, 20, 900, 700]"]) == 0  # as a list
    assert "leaves the frame of 64 x 48 and is cut there" in capsys.readouterr().err
    assert run_command("track", [*arguments, f"{tmp_path}/b", "--point", "0.5,0.5"]) == 0
    said = capsys.readouterr().err
    assert "normalized to 0…1? Points must be in pixels, that would be (32, 24)" in said
    assert "a square of 32 pixels around each point, not the object" in said
    assert run_command("track", [*arguments, f"{tmp_path}/c", "--box", "1,1,20,20"]) == 0
    said = capsys.readouterr().err
    assert not any(word in said for word in ("normalized", "square", "leaves"))


def test_what_is_given_with_a_frame_that_is_left_out_is_said(tmp_path, capsys):
    for number in range(6):
        frame(tmp_path / "in" / f"{number:05d}.jpg", number)
    (tmp_path / "in/00003.jpg").write_bytes(b"no picture")
    mask = save(tmp_path / "m.png", ids(2))
    assert track(tmp_path / "in", tmp_path / "out", "--at", f"3:{mask}", "--skip-unreadable") == 0
    said = capsys.readouterr().err
    assert "5 of 6 frames are tracked, left out: 00003; what is given with frame 3 is not taken" in said


def test_boxes_as_lists_in_python():
    tracker, picture = RepeatedMask(), np.zeros((*SIZE, 3), np.uint8)
    for boxes in ([[4, 4, 20, 20]], [4, 4, 20, 20], np.array([[4, 4, 20, 20]]), torch.tensor([4.0, 4, 20, 20])):
        assert tracker.init(picture, boxes=boxes)[10, 10] == 1
    both = tracker.init(picture, boxes=[[4, 4, 20, 20], (30, 4, 50, 20)])
    assert (both[10, 10], both[10, 40]) == (1, 2)
    for boxes in ([[4, 4, 20]], [[4, 4, 20, float("nan")]], {1: [[4, 4, 20, 20]]}, ["a"]):
        with pytest.raises(OptionError, match="is not x1, y1, x2, y2 in pixels"):
            tracker.init(picture, boxes=boxes)
    with pytest.raises(OptionError, match="nothing to track"):
        tracker.init(picture, boxes=[])
