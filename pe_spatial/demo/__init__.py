"""Synthetic scenes and their datasets."""

FORMATS = ("coco", "labels", "panoptic", "depth", "davis")
