"""Classes in words on pictures and videos: prediction, evaluation, and a small PE-Core to try it with."""
