"""Weights of the encoders: find them, read any layout they travel in, load strictly, report."""

from pe_spatial.backbones.weights.content import Checkpoint
from pe_spatial.backbones.weights.layouts import Layout, to_detectron2, to_official, to_timm, unwrap
from pe_spatial.backbones.weights.loading import (
    Origin,
    load_state_dict,
    load_weights,
    merge_command,
    origin_of,
    read_encoder,
    refuse_adapters,
)
from pe_spatial.backbones.weights.pair import load_core
from pe_spatial.backbones.weights.source import FOLDER_VARIABLE, find
