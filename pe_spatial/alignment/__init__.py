"""Making PE-Spatial from PE-Core: a student learns from frozen teachers which tokens mean and which belong together.

Importing this package registers its names with mmengine.
"""

from pe_spatial.alignment.sam_teacher import MaskLogitTeacher
from pe_spatial.alignment.teachers import MaskTeacher, Teacher
from pe_spatial.alignment.token_map import TokenMap

__all__ = ["MaskLogitTeacher", "MaskTeacher", "Teacher", "TokenMap"]
