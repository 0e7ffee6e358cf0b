"""Training-free tracking of objects in videos on the features of Perception Encoders, and its exact DAVIS scores."""

import pe_spatial.backbones
import pe_spatial.data  # noqa: F401 (both register what the configs of a tracker name)
import tracking.checks  # noqa: F401 - registers what the data set doctor asks
from tracking.baselines import RawColour, RepeatedMask
from tracking.datasets import Davis2016, Davis2017, PackVideo, VideoDataset, VideoFolder, YouTubeVOS
from tracking.decoding import Decoding
from tracking.frames import Frame, Frames, open_frames, read_mask
from tracking.label_tracker import LabelTracker
from tracking.metrics import JFMetric, contour_accuracy, region_similarity
from tracking.model import VideoTracker
from tracking.prompts import BoxPrompter, Sam2Prompter
from tracking.propagation import Propagation, propagate
from tracking.resizing import Resizing

__all__ = [
    "BoxPrompter",
    "Davis2016",
    "Davis2017",
    "Decoding",
    "Frame",
    "Frames",
    "JFMetric",
    "LabelTracker",
    "PackVideo",
    "Propagation",
    "RawColour",
    "RepeatedMask",
    "Resizing",
    "Sam2Prompter",
    "VideoDataset",
    "VideoFolder",
    "VideoTracker",
    "YouTubeVOS",
    "contour_accuracy",
    "open_frames",
    "propagate",
    "read_mask",
    "region_similarity",
]
