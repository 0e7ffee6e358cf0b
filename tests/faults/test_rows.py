"""Every row of the list of faults: what the commands that it gives say of it.

The rows of pictures, videos and tracking have tests of their own, which `ELSEWHERE` names. More members of each kind
are in the files `test_inputs_*`, `test_videos` and `test_tracking`.
"""

import re
from importlib import import_module
from pathlib import Path

import pytest
from fault_rows import DETECTION, MAKE

from pe_spatial.commands.shell import run_command

LIST = Path(__file__).resolve().parents[3] / "shared/data/faults/README.md"
ONLY_TRAIN = ("val_dataloader=null", "val_evaluator=null", "val_cfg=null")
SOUND = r"0 kinds of errors, 0 kinds of warnings"
NO_MASK = "error: the dataset cannot be loaded.*16 of 16 objects have no mask.*masks=False"
# row: (exit status of the doctor, what it says)
DOCTOR = {
    **dict.fromkeys(
        ("detection/date_int", "detection/iscrowd_str0", "detection/iscrowd_null", "detection/area_str"), (0, SOUND)
    ),
    **dict.fromkeys(("detection/poly_flat", "detection/rle_in_list"), (0, SOUND)),
    "detection/seg_empty": (1, NO_MASK),
    "detection/name_int": (0, r"\n  3 +7 .*\n  5 +4 "),
    "detection/height_null": (1, "height_null.json: image 6 has no height; COCO images have"),
    "detection/file_name_null": (1, "file_name_null.json: image 6 has no file_name; COCO images have"),
    "detection/null_annotation": (1, "annotation number 17 of the list: None, but must be an object"),
    "detection/poly_nan": (1, r"annotation 1 \(image 6\): segmentation has the coordinate nan"),
    "detection/bbox_norm": (0, "warning: .*all 16 boxes are smaller than 2 pixels"),
    "segmentation/bin255_one_negative": (1, "error: binary masks of 0 and 255.*all 3 label maps"),
    "segmentation/one_class_zero_ignored": (1, "nothing to learn: 'fg' is the only class"),
    "segmentation/u8_tif_be": (0, SOUND),
    "segmentation/classes_by_number": (0, SOUND),
    "segmentation/label_jpg": (1, r"000.jpg lies there, and label maps are read from .png, .bmp, .tif"),
    "segmentation/suffix_mask": (1, "set label_stem_end: _mask"),
    "segmentation/label_stack_tif": (1, r"files that cannot be read \(3\).*000.tif .* it contains 2 pictures"),
    "segmentation/img_12bit_gray": (0, "range of values is guessed.*16 gray levels would be left"),
    "segmentation/img_4band_planar": (1, "a TIFF of 4 bands, 8 bits each.*set bands.*convert it to an RGB"),
    "depth/npy_nan": (1, r"error: samples that the loaders refuse \(2\).*pixels are NaN"),
    "depth/npy_neg": (1, r"are negative, but depth is positive: the sign is wrong"),
    "depth/npy_sky_1e9_most": (0, f"of the pixels are measured, 100.0% of these lie in the range.*{SOUND}"),
    "depth/tiff_f32": (0, SOUND),
    "depth/png_5000": (0, "warning: many pixels lie outside depth_range; the unit may be wrong.*% of the measurements"),
    "panoptic/no_size": (0, SOUND),
    "panoptic/cat_no_name": (1, "panoptic_train.json: category 1: name is missing"),
    "panoptic/no_isthing": (
        0,
        "warning: .*isthing is missing, so it is not known which classes are things in floor, cup",
    ),
}
FORBIDDEN = {"depth/npy_neg": "inf|depth_range", "depth/npy_sky_1e9_most": r"0\.001"}
ELSEWHERE = {
    "pictures/gray12in16": "test_inputs_pictures.test_12_bits_are_not_black_and_the_guess_is_said",
    "pictures/same_stem": "test_videos.test_names_that_meet_give_a_result_each",
    "pictures/collide": "test_videos.test_names_that_meet_give_a_result_each",
    "videos/corrupt": "test_videos.test_a_damaged_video_is_named_with_the_frames_that_it_has",
    "videos/trimmed_without_reencoding": "test_videos.test_a_video_that_was_trimmed_without_encoding_is_complete",
    "tracking/smooth_masks": "test_tracking.test_smoothed_masks_are_refused",
    "tracking/gap": "test_tracking.test_gaps_are_found_by_the_doctor",
    "tracking/upper_png": "test_tracking.test_upper_case_suffixes_are_read",
    "tracking/score_void_only": "test_tracking.test_frames_of_void_alone_hold_no_object",
}


def options(row, root):
    """What the list gives to the doctor."""
    kind, name = row.split("/")
    both = [f"{split}_dataloader.dataset" for split in ("train", "val")]
    if kind == "detection":
        data = [f"data_root={root}", f"ann_file={name}.json", "data_prefix.img_path=base/images"]
        return "demo/mask_rcnn_tiny_shapes.yaml", [*ONLY_TRAIN, *(f"{both[0]}.{change}" for change in data)]
    if kind == "segmentation":
        data = [f"{each}.{change}" for each in both for change in (f"data_root={root}", "ann_file=data.yaml")]
        model = ["model.num_classes=null", "model.data_preprocessor.size_divisor=16"]
        return "demo/seg_linear_tiny_random.yaml", [*model, *data]
    if kind == "depth":
        return "demo/depth_dpt_tiny_folder.yaml", [*ONLY_TRAIN]
    data = [f"{each}.data_root={root}" for each in both]
    return "demo/seg_mask_decoder_tiny_shapes.yaml", [*data, f"{both[1]}.instance_file=null"]


@pytest.mark.parametrize("row", DOCTOR)
def test_the_doctor_says_what_the_row_is(row, tmp_path, capfd, monkeypatch):
    kind, name = row.split("/")
    MAKE[kind](tmp_path, name)
    monkeypatch.setenv("DEPTH_ROOT", str(tmp_path))
    config, changes = options(row, tmp_path)
    out = str(tmp_path / "check")
    status = run_command("check", ["--config", config, "--output", out, "--tiles", "0", *changes])
    said = capfd.readouterr()
    assert re.search(DOCTOR[row][1], said.out, re.DOTALL), said.out + said.err
    assert status == DOCTOR[row][0]
    assert "Traceback" not in said.out + said.err
    assert row not in FORBIDDEN or not re.search(FORBIDDEN[row], said.out.replace(str(tmp_path), ""))


SMALL = ("train_cfg.max_iters=1", "train_cfg.val_interval=1", "train_dataloader.batch_size=2", "param_scheduler=null")
# row: (config, exit status of the training, what it says)
TRAINED = {
    "seg_empty": ("deta", 0, "bbox_mAP"),
    "name_int": ("mask_rcnn", 0, "segm_mAP"),
    "poly_nan": ("mask_rcnn", 2, "segmentation has the coordinate nan"),
}


@pytest.mark.parametrize("row", TRAINED)
def test_what_is_sound_trains_and_is_evaluated(row, tmp_path, capfd):
    config, status, says = TRAINED[row]
    MAKE["detection"](tmp_path, row)
    data = [f"data_root={tmp_path}", f"ann_file={row}.json", "data_prefix.img_path=base/images"]
    changes = [f"{split}_dataloader.dataset.{change}" for split in ("train", "val") for change in data]
    arguments = ["--config", f"demo/{config}_tiny_shapes.yaml", "--output", str(tmp_path / "run"), "--device", "cpu"]
    assert run_command("train", [*arguments, f"experiment_name=row-{row}", *SMALL, *changes]) == status
    said = "".join(capfd.readouterr())
    assert says in said and "Traceback" not in said


@pytest.mark.parametrize("row", ELSEWHERE)
def test_the_other_rows_have_tests_of_their_own(row):
    module, _, name = ELSEWHERE[row].partition(".")
    assert callable(getattr(import_module(module), name))


def test_every_row_of_the_list_is_here():
    assert {f"detection/{name}" for name in DETECTION} <= DOCTOR.keys()
    if not LIST.is_file():
        pytest.skip("../shared/data/faults is not there")
    listed, kind = set(), ""
    for line in LIST.read_text().splitlines():
        if line.startswith("## "):
            kind = line.removeprefix("## ").strip()
        elif line.startswith("| `"):
            cell = re.sub(r"\(.*?\)", "", line.split("|")[1])
            listed |= {f"{kind}/{name.strip('/').partition('.')[0]}" for name in re.findall(r"`([^`]+)`", cell)}
    assert listed == DOCTOR.keys() | ELSEWHERE.keys()
