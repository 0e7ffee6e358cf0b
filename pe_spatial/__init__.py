"""Perception Encoder backbones for dense prediction, their data, and the engine that trains and runs them.

The names below come from their modules when they are first used: `import pe_spatial` alone takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `as` offers the names to type checkers
    from pe_spatial.backbones import PEBackbone as PEBackbone
    from pe_spatial.backbones import PECore as PECore
    from pe_spatial.common.errors import UserError as UserError
    from pe_spatial.common.pictures import read_image as read_image
    from pe_spatial.features import FeatureExtractor as FeatureExtractor
    from pe_spatial.features import open_features as open_features
    from pe_spatial.inference.predictor import Predictor as Predictor
    from pe_spatial.inference.sample import PredictedSample as PredictedSample
    from pe_spatial.inference.shared import SharedPredictor as SharedPredictor
    from pe_spatial.own.run import train as train
    from pe_spatial.plm import PLMVision as PLMVision
    from pe_spatial.search import Index as Index
    from pe_spatial.segmentation.predictor import SegmentationPredictor as SegmentationPredictor
    from pe_spatial.tracking.frames import open_frames as open_frames
    from pe_spatial.tracking.model import VideoTracker as VideoTracker
    from pe_spatial.training.config import load_config as load_config

__version__ = "0.1.0"

_MODULES = {
    "FeatureExtractor": "pe_spatial.features",
    "Index": "pe_spatial.search",
    "PEBackbone": "pe_spatial.backbones",
    "PECore": "pe_spatial.backbones",
    "PLMVision": "pe_spatial.plm",
    "PredictedSample": "pe_spatial.inference.sample",
    "Predictor": "pe_spatial.inference.predictor",
    "SegmentationPredictor": "pe_spatial.segmentation.predictor",
    "SharedPredictor": "pe_spatial.inference.shared",
    "UserError": "pe_spatial.common.errors",
    "VideoTracker": "pe_spatial.tracking.model",
    "load_config": "pe_spatial.training.config",
    "open_features": "pe_spatial.features",
    "open_frames": "pe_spatial.tracking.frames",
    "read_image": "pe_spatial.common.pictures",
    "train": "pe_spatial.own.run",
}
__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the type checker reads the imports above
    if name not in _MODULES:
        raise AttributeError(f"module 'pe_spatial' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
