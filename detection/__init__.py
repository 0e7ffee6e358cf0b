"""Object detection and instance segmentation. Importing this package registers its names with mmengine."""

import pe_spatial.detection.checks  # noqa: F401 - registers what the dataset doctor asks
from pe_spatial.detection.datasets import CocoInstances, LvisInstances, Objects365
from pe_spatial.detection.deta import DETA
from pe_spatial.detection.mask_rcnn import MaskRCNN
from pe_spatial.detection.metrics import CocoMetric, LvisMetric
from pe_spatial.detection.sampling import RepeatFactorSampler
