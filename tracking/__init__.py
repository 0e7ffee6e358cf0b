"""The video tracker on Perception Encoder backbones. Nothing is here yet: the detectors come first."""
