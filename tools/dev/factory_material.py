"""What tools/dev/measure_factory.py works with: views of photographs, a remembering teacher, judges, a PE-Core.

The runs of a study differ in what is learned from the same views of the same photographs. So the views are made once,
and the teacher computes its features of a view once for all runs.
"""

from argparse import Namespace
from collections.abc import Sequence
from functools import cache, partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import make_demo_encoder
import measure_fine_maps
import numpy as np
import torch
from mmengine.registry import MODELS, TRANSFORMS
from mmengine.structures import BaseDataElement
from torch import Tensor

import pe_spatial.tracking.correspondence  # noqa: F401 - registers
from pe_spatial.alignment.hooks import try_student
from pe_spatial.alignment.module_teacher import ModuleTeacher
from pe_spatial.alignment.summaries import Source
from pe_spatial.backbones import EncoderConfig, PEBackbone, RawColor
from pe_spatial.commands.shell import main
from pe_spatial.common.files import atomic_folder, write_atomically
from pe_spatial.common.locks import lock_folder
from pe_spatial.common.pictures import save_image
from pe_spatial.common.tensors import write_tensor_file

STUDENT: dict[str, Any] = {
    "name": "small",
    "patch_size": 16,
    "width": 192,
    "depth": 4,
    "heads": 3,
    "mlp_ratio": 4.0,
    "image_size": 256,
    "cls_token": False,
}
CORE = {"ln_post": True, "attn_pool": True, "pool_heads": 3, "output_dim": make_demo_encoder.ENCODER.output_dim}
SCENES, CORE_STEPS = 360, 800
EVERY, SHORT_SIDE, RADIUS = 4, 320, 8  # one in so many frames of a video is tracked; pixels; tokens
PROBE_SIDE, PROBE_TOKENS = 256, 1024


@MODELS.register_module()
class RememberedTeacher(ModuleTeacher):
    """A `ModuleTeacher` that computes the map of an image once, and reads it from a folder afterwards.

    Args:
        memory: The folder; a map lies there under a hash of the image and of all that it depends on.
        **settings: Those of `ModuleTeacher`.
    """

    def __init__(self, memory: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.memory = Path(memory)
        self.memory.mkdir(parents=True, exist_ok=True)
        self.about = f"{sorted(settings.items())}"

    def forward(self, inputs: Tensor, data_samples: Sequence[BaseDataElement], grid: tuple[int, int]) -> Tensor:
        """See `Teacher.forward`."""
        salt = f"{self.about} {grid}".encode()
        paths = [self.memory / f"{blake2b(image.numpy().tobytes() + salt).hexdigest()[:32]}.npy" for image in inputs]
        new = [number for number, path in enumerate(paths) if not path.is_file()]
        if new:
            for number, features in zip(new, super().forward(inputs[new], data_samples, grid), strict=True):
                write_atomically(paths[number], partial(np.save, arr=features.numpy()))
        return torch.stack([torch.from_numpy(np.load(path)) for path in paths])

    def with_summary(
        self, inputs: Tensor, data_samples: Sequence[BaseDataElement], grid: tuple[int, int], source: Source
    ) -> tuple[Tensor, Tensor]:
        """See `Teacher.with_summary`; the mean of the map alone."""
        self.require_mean(source)
        features = self(inputs, data_samples, grid)
        return features, features.mean(dim=(2, 3))

    def require_mean(self, source: Source) -> None:
        """Refuse the class token, which is not remembered."""
        assert source == "mean", source


def make_views(photographs: Path, folder: Path, number: int, steps: Sequence[dict[str, Any]]) -> None:
    """Write so many augmented views of every photograph, unless they are there.

    Args:
        photographs: Folder.
        folder: To write.
        number: Of a photograph.
        steps: Of a pipeline that loads and augments one.
    """
    made = [TRANSFORMS.build(dict(step)) for step in steps]
    with lock_folder(folder.parent, "views", wait=True):
        if not folder.is_dir():
            _write_views(photographs, folder, number, made)


def _write_views(photographs: Path, folder: Path, number: int, steps: Sequence[Any]) -> None:
    with atomic_folder(folder) as partial:
        for place, path in enumerate(sorted(photographs.iterdir())):
            for view in range(number):
                torch.manual_seed(place * number + view)
                sample: Any = {"img_path": str(path), "img_id": place}
                for step in steps:
                    sample = step(sample)
                save_image(partial / f"{path.stem}_{view:03d}.png", sample["img"])


def make_core(folder: Path) -> Path:
    """The file of a PE-Core of the student's shape, trained on captions of synthetic scenes, unless it is there."""
    path = folder / "core.pt"
    with lock_folder(folder, "core", wait=True):
        if not path.is_file():
            _train_core(folder, path)
    return path


def _train_core(folder: Path, path: Path) -> None:
    data = folder / "scenes"
    if not data.is_dir():
        main(["demo", "--output", str(data), "--images", str(SCENES), "--image-size", "128"])
    pictures, shares = make_demo_encoder.read_captions(data, "train")
    encoder = make_demo_encoder.pretrain(pictures, shares, CORE_STEPS, 8, 0, EncoderConfig(**STUDENT, **CORE))
    write_tensor_file(encoder.state_dict(), path)


def thinned_videos(davis: Path, folder: Path) -> Path:
    """A folder of links to one in `EVERY` frames of the videos of a folder in DAVIS's layout."""
    for kind in ("JPEGImages", "Annotations"):
        for source in sorted((davis / kind / "480p").iterdir()):
            target = folder / kind / "480p" / source.name
            target.mkdir(parents=True, exist_ok=True)
            for file in sorted(source.iterdir())[::EVERY]:
                if not (target / file.name).exists():
                    (target / file.name).symlink_to(file.absolute())
    return folder


@torch.no_grad()
def judge(options: Namespace, weights: Path) -> dict[str, float]:
    """Matches, the linear probe and the tracking of an encoder of the student's shape."""
    backbone = PEBackbone(STUDENT, weights=str(weights), frozen=True).eval()
    photographs = {
        "type": "Photographs",
        "source": str(options.data / "val2017"),
        "indices": options.limit or 40,
        "test_mode": True,
        "pipeline": [{"type": "LoadImage"}, {"type": "PackSample"}],
    }
    matcher = {"type": "PhotographMatcher", "homographies": {"side": 224, "number": 2}}
    matched = try_student(backbone, matcher, photographs, {"type": "MatchingMetric"})
    parts = [
        [each._replace(tokens=backbone(each.picture)[0]) for each in _pictures(options.data, name, options.limit)]
        for name in ("train2017", "val2017")
    ]
    with torch.enable_grad():
        probe = measure_fine_maps.train_probe(parts[0], 0, PROBE_TOKENS)
    (found,) = measure_fine_maps.judge(backbone, parts[1], [probe], "bilinear", contours=False)
    tracker = {
        "type": "VideoTracker",
        "resizing": {"short_side": SHORT_SIDE, "rounding": "up", "interpolation": "bicubic"},
        "propagation": {"radius": RADIUS, "shape": "circle", "topk": 5, "temperature": 0.2},
        "decoding": {"upsampling": "nearest", "at_frame_size": True, "stretch": True},
        "recent": 7,
    }
    videos = {"type": "Davis2017", "data_root": str(thinned_videos(options.davis, options.output / "videos"))}
    followed = try_student(backbone, tracker, videos, {"type": "JFMetric"})
    return {"matched": matched["match/matched"], "mIoU": found.miou, "J&F": followed["track/J&F"]}


@cache
def _pictures(data: Path, part: str, limit: int | None) -> list[measure_fine_maps.Example]:
    """Pictures and label maps of a part of COCO as PE sees them, once for all students; their maps are to be made."""
    found = measure_fine_maps.read_part(RawColor(1), data, part, limit, PROBE_SIDE)
    return [each._replace(tokens=each.picture) for each in found]
