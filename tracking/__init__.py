"""Training-free tracking of objects in videos on the features of Perception Encoders, and its exact DAVIS scores."""

import pe_spatial.backbones
import pe_spatial.data
import pe_spatial.inference.exported_backbone  # noqa: F401 (these register what the configs of a tracker name)
import pe_spatial.tracking.checks  # noqa: F401 - registers what the dataset doctor asks
from pe_spatial.tracking.datasets import Davis2016, Davis2017, PackVideo, VideoDataset, VideoFolder, YouTubeVOS
from pe_spatial.tracking.metrics import JFMetric, contour_accuracy, region_similarity
from pe_spatial.tracking.model import VideoTracker
from pe_spatial.tracking.repeated_mask import RepeatedMask
