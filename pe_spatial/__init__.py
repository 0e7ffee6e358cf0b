"""Perception Encoder backbones for dense prediction, their data, and the engine that trains and runs them."""

__version__ = "0.1.0"
