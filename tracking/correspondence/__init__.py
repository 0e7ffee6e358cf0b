"""Which token of a second picture shows the same place: matches under known homographies, without labels."""

import pe_spatial.tracking  # noqa: F401 - registers what the configs name
from pe_spatial.tracking.correspondence.datasets import Photographs
from pe_spatial.tracking.correspondence.homographies import Homographies
from pe_spatial.tracking.correspondence.trial import MatchingMetric, PhotographMatcher
