"""From a checkpoint and pictures to predictions, in Python and over folders and videos."""

from pe_spatial.inference.predictor import Predictor
from pe_spatial.inference.sample import PredictedSample
from pe_spatial.inference.stream import Prediction, Source, find_sources, stream
