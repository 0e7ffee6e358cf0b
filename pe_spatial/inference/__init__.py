"""From a checkpoint and pictures to predictions, in Python and over folders and videos."""
