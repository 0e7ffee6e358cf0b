"""Perception Encoders as backbones of Hugging Face's transformers; see docs/transformers.md.

Importing this package registers `PEConfig` and `PEBackboneForTransformers` with AutoConfig, AutoModel and AutoBackbone
under the model type `pe_spatial`. Whoever reads a folder that was saved with them imports it first.
"""

from pe_spatial.common.errors import MissingPackage

try:
    from transformers import AutoBackbone, AutoConfig, AutoModel, backbone_utils
except ImportError as error:
    raise MissingPackage(
        f"this needs transformers 5.18 or newer ({error}); pip install 'pe_spatial[transformers]'"
    ) from error

from pe_spatial.integrations.transformers.backbone import PEBackboneForTransformers
from pe_spatial.integrations.transformers.config import PEConfig
from pe_spatial.integrations.transformers.heads import with_backbone
from pe_spatial.integrations.transformers.images import image_processor

AutoConfig.register(PEConfig.model_type, PEConfig, exist_ok=True)
AutoModel.register(PEConfig, PEBackboneForTransformers, exist_ok=True)
AutoBackbone.register(PEConfig, PEBackboneForTransformers, exist_ok=True)
