"""Object detection and instance segmentation. Importing this package registers its names with mmengine."""

from detection.mask_rcnn import MaskRCNN

__all__ = ["MaskRCNN"]
