"""Synthetic scenes and the data sets of the demo; nothing is downloaded."""
