"""How good it is: nearest neighbours, linear probe, classification scores."""

from vitrail.metrics.classification import ClassificationScores, ClassScores, score_classifier
from vitrail.metrics.knn import knn_probabilities
from vitrail.metrics.linear import LinearProbe, fit_linear_probe

__all__ = [
    "ClassScores",
    "ClassificationScores",
    "LinearProbe",
    "fit_linear_probe",
    "knn_probabilities",
    "score_classifier",
]
