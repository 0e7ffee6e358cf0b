"""The dataset doctor: examines the data of any config before, or instead of, a training.

The engine knows what the sample contract says; what only a task knows, its package adds as a `DatasetCheck`.
"""

from pe_spatial.doctor.check import DatasetCheck, absent_classes
from pe_spatial.doctor.examination import (
    ExaminationOptions,
    SplitReport,
    examine,
    examine_dataset,
    in_threads,
    load_sample,
    sample_order,
)
from pe_spatial.doctor.findings import Finding, Findings, Histogram
from pe_spatial.doctor.guards import attempting, describe
from pe_spatial.doctor.hook import DataCheckHook
from pe_spatial.doctor.pictures import PictureCheck
from pe_spatial.doctor.suspects import KINDS, Suspect, as_json, draw_suspect, findings_of
