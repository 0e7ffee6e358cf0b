"""Panoptic maps, depth maps and videos: which of the project's datasets reads a folder."""

from pathlib import PurePosixPath

from pe_spatial.data.formats.place import SPLITS, Place
from pe_spatial.data.formats.reading import Config, Reading

_DEPTH_SUFFIXES = (".png", ".npy", ".exr", ".npz", ".pfm", ".tif", ".tiff")
_DEPTHS = ("depth", "depths", "depth_maps")
_PICTURES = ("images", "image", "rgb")
_FRAMES = ("JPEGImages", "frames", "images")
_MASKS = ("Annotations", "masks", "annotations")


def find_panoptic(place: Place) -> list[Reading]:
    """Panoptic files of COCO, each with a folder of PNGs of segment ids."""
    configs: dict[str, Config] = {}
    counts = {}
    for name in place.meant(".json"):
        if {"segments_info", "annotations"} <= place.json_keys(name):
            stem = PurePosixPath(name).stem
            split = stem.removeprefix("panoptic_").removeprefix("panoptic") or "all"
            parent = PurePosixPath(name).parent.parent if PurePosixPath(name).parent.name == "annotations" else None
            root = str(parent if parent is not None else PurePosixPath(name).parent)
            folders = {str(PurePosixPath(picture).parent) for picture in place.pictures}
            base = "" if root == "." else f"{root}/"
            maps = [f"{base}{part}" for part in (f"panoptic/{split}", f"annotations/{stem}", stem, "panoptic")]
            pictures = [f"{base}{part}" for part in (f"images/{split}", split, "images")]
            found = [next((f for f in options if f in folders), options[0]) for options in (pictures, maps)]
            configs[split] = {
                "type": "CocoPanoptic",
                "data_root": str(place.root),
                "ann_file": name,
                "data_prefix": {"img_path": found[0], "seg_map_path": found[1]},
            }
            counts[split] = _inside(place.pictures, found[0])
    if not configs:
        return []
    places = {split: place.root / config["data_prefix"]["img_path"] for split, config in configs.items()}
    about = "COCO's panoptic format"
    return [Reading("panoptic", place.path, about, tuple(configs), None, configs, counts, folders=places)]


def find_depth(place: Place) -> list[Reading]:
    """A folder of pictures beside one of depth maps."""
    if place.is_file:
        return []
    found = []
    for depth in _DEPTHS:
        files = [name for name in place.with_suffix(*_DEPTH_SUFFIXES) if name.startswith(f"{depth}/")]
        pictures = next((folder for folder in _PICTURES if _inside(place.pictures, folder)), None)
        if files and pictures:
            inside = {PurePosixPath(name).parts[1] for name in files if name.count("/") > 1}
            splits = [split for split in SPLITS if split in inside] or ["all"]
            ends = {split: "" if split == "all" else f"/{split}" for split in splits}
            configs: dict[str, Config] = {
                split: {
                    "type": "DepthFolder",
                    "data_root": str(place.root),
                    "data_prefix": {"img_path": pictures + end, "depth_path": depth + end},
                }
                for split, end in ends.items()
            }
            counts = {split: _inside(place.pictures, pictures + end) for split, end in ends.items()}
            advice = ""
            if any(name.lower().endswith((".png", ".tif", ".tiff")) for name in files):
                advice = "depth in whole numbers: set depth_scale, meters per unit (0.001 for millimeters)"
            folders = {split: place.root / f"{pictures}{end}" for split, end in ends.items()}
            found.append(
                Reading(
                    "depth", place.path, "depth pairs", tuple(splits), None, configs, counts, advice, folders=folders
                )
            )
    return found


def find_videos(place: Place) -> list[Reading]:
    """Folders of frames with masks: DAVIS, YouTube-VOS, or folders of your own."""
    if place.is_file:
        return []
    if _inside(place.pictures, "JPEGImages/480p") and _inside(place.pictures, "Annotations/480p"):
        lists = [name for name in place.files if name.startswith("ImageSets/2017/") and name.endswith(".txt")]
        splits = [PurePosixPath(name).stem for name in lists]
        davis: dict[str, Config] = {
            split: {"type": "Davis2017", "data_root": str(place.root), "split": None if split == "all" else split}
            for split in splits or ["all"]
        }
        counts = dict.fromkeys(davis, _inside(place.pictures, "JPEGImages/480p"))
        folders = dict.fromkeys(davis, place.root / "JPEGImages/480p")
        return [Reading("video", place.path, "videos of DAVIS", tuple(davis), None, davis, counts, folders=folders)]
    youtube: dict[str, Config] = {
        split: {"type": "YouTubeVOS", "data_root": str(place.root), "split": split}
        for split in SPLITS
        if f"{split}/meta.json" in place.files and _inside(place.pictures, f"{split}/JPEGImages")
    }
    if youtube:
        counts = {split: _inside(place.pictures, f"{split}/JPEGImages") for split in youtube}
        folders = {split: place.root / split / "JPEGImages" for split in youtube}
        about = "videos of YouTube-VOS"
        return [Reading("video", place.path, about, tuple(youtube), None, youtube, counts, folders=folders)]
    for frames in _FRAMES:
        for masks in _MASKS:
            names = {PurePosixPath(name).parts[1] for name in place.pictures if _is_frame(name, frames)}
            marked = {PurePosixPath(name).parts[1] for name in place.pictures if _is_frame(name, masks)}
            if names & marked and not names & set(SPLITS) and _share_frames(place, frames, masks):
                config = {"type": "VideoFolder", "data_root": str(place.root), "frames": frames, "masks": masks}
                counts = {"all": _inside(place.pictures, frames)}
                about = f"videos ({len(names)} folders of frames) with masks"
                folders = {"all": place.root / frames}
                return [Reading("video", place.path, about, ("all",), None, {"all": config}, counts, folders=folders)]
    return []


def _is_frame(name: str, folder: str) -> bool:
    return name.startswith(f"{folder}/") and name.count("/") == 2


def _share_frames(place: Place, frames: str, masks: str) -> bool:
    """Whether some mask is called like a frame: masks of one object each are not."""
    stems = {name[len(frames) :].rpartition(".")[0] for name in place.pictures if _is_frame(name, frames)}
    return any(name[len(masks) :].rpartition(".")[0] in stems for name in place.pictures if _is_frame(name, masks))


def _inside(names: list[str], folder: str) -> int:
    return sum(name.startswith(f"{folder}/") for name in names)
