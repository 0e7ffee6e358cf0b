"""Object detection and instance segmentation. Importing this package registers its names with mmengine."""

import detection.checks  # noqa: F401 - registers what the data set doctor asks
from detection.coco_files import AnnotationError
from detection.datasets import CocoInstances
from detection.deta import DETA
from detection.lvis import LvisInstances
from detection.lvis_metric import LvisMetric
from detection.mask_rcnn import MaskRCNN
from detection.metrics import CocoMetric
from detection.objects365 import Objects365
from detection.sampling import RepeatFactorSampler

__all__ = [
    "DETA",
    "AnnotationError",
    "CocoInstances",
    "CocoMetric",
    "LvisInstances",
    "LvisMetric",
    "MaskRCNN",
    "Objects365",
    "RepeatFactorSampler",
]
