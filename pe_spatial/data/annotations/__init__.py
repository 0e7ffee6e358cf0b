"""Annotation files, read in one place: training, evaluation and the doctor see the same normalized entries."""

from pe_spatial.data.annotations.coco_table import CocoTable, read_foreign
from pe_spatial.data.annotations.json_files import read_annotations
from pe_spatial.data.annotations.names import file_below
from pe_spatial.data.annotations.panoptic_table import PanopticTable
