"""Making PE-Spatial from PE-Core: a student learns from frozen teachers what its tokens mean and which belong together.

Importing this package registers its names with mmengine.
"""

from pe_spatial.alignment.cache import CacheError, TeacherCache
from pe_spatial.alignment.hooks import StudentExportHook, StudentTrialHook, student_state
from pe_spatial.alignment.loading import LoadTeacherMap
from pe_spatial.alignment.losses import locality_loss, semantic_loss
from pe_spatial.alignment.metrics import AlignmentMetric
from pe_spatial.alignment.model import SpatialAlignment
from pe_spatial.alignment.sam_teacher import MaskLogitTeacher
from pe_spatial.alignment.teachers import (
    CachedMaskTeacher,
    EncoderTeacher,
    InstanceMaskTeacher,
    LayerTeacher,
    MaskTeacher,
    Teacher,
)
from pe_spatial.alignment.token_map import TokenMap
from pe_spatial.alignment.transforms import HideTokens, RandomAspect
