"""The first import of mmseg, without its warning that a compiled operator is missing: nothing here uses one."""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", ".*MultiScaleDeformableAttention", UserWarning)
    import mmseg.models  # noqa: F401
