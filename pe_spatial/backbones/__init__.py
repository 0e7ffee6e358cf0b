"""Perception Encoder backbones: encoders, their weights, dense maps and the feature pyramid."""

from pe_spatial.backbones.dense import PEBackbone
from pe_spatial.backbones.pyramid import SimpleFeaturePyramid
from pe_spatial.backbones.raw_color import RawColor
from pe_spatial.backbones.rope import apply_rotary, rotary_table
from pe_spatial.backbones.text.core import PECore
from pe_spatial.backbones.timm_backbone import TimmBackbone
from pe_spatial.backbones.variants import VARIANTS, EncoderConfig, TextConfig, get_variant
from pe_spatial.backbones.vit import VisionTransformer
