"""Making PE-Spatial from PE-Core: a student learns from frozen teachers what its tokens mean and which belong together.

Importing this package registers its names with mmengine.
"""

from pe_spatial.alignment import (
    hooks,
    label_trial,
    loading,
    metric,
    model,
    module_teacher,
    sam_teacher,
    teachers,
    transforms,
    upsampler,
    views,
)
