"""Segmentation models on Perception Encoder backbones. Nothing is here yet: the detectors come first."""
