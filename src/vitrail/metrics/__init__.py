"""How good it is: nearest neighbours, linear probe, classification scores, spread of features."""

from vitrail.metrics.classification import ClassificationScores, ClassScores, score_classifier
from vitrail.metrics.knn import knn_probabilities
from vitrail.metrics.linear import LinearProbe, fit_linear_probe
from vitrail.metrics.spread import effective_rank, feature_deviation

__all__ = [
    "ClassScores",
    "ClassificationScores",
    "LinearProbe",
    "effective_rank",
    "feature_deviation",
    "fit_linear_probe",
    "knn_probabilities",
    "score_classifier",
]
