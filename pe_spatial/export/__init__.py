"""Models as files for other engines, with a proof that travels with them; `pe_spatial.engines` runs the files."""

from pe_spatial.export.options import PRECISIONS, TARGETS, ExportOptions
from pe_spatial.export.proving import Tolerance
from pe_spatial.export.run import export
from pe_spatial.export.subjects import EncoderSubject, ModelSubject, Subject

__all__ = [
    "PRECISIONS",
    "TARGETS",
    "EncoderSubject",
    "ExportOptions",
    "ModelSubject",
    "Subject",
    "Tolerance",
    "export",
]
