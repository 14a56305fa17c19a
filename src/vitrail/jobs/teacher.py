"""From what a user names as --teacher to a frozen model that answers for the student's classes and pictures."""

from __future__ import annotations

from collections.abc import Sequence

from vitrail.contracts import VitrailError
from vitrail.data import Preprocess
from vitrail.jobs.models import open_model
from vitrail.jobs.pretraining.start import Start
from vitrail.methods import DistillFeatures, DistillFeaturesOptions, Teacher
from vitrail.models import Backbone


def open_teacher(name: str, classes: Sequence[str], seen: Preprocess, *, online: bool = False) -> Teacher:
    """A classifier as a teacher.

    Args:
        name: run folder, artefact, checkpoint file or pretrained name.
        classes: that the student learns, in the order of its logits.
        seen: the student's preprocessing.
        online: whether weights may be downloaded.

    Raises:
        VitrailError: no classifier, or one that does not know the same classes by name.
    """
    artefact = open_model(name, online=online)
    return Teacher(artefact.backbone, artefact.preprocess, seen, class_order(classes, artefact.classes, name))


def open_feature_teacher(name: str, size: int | None, seen: Preprocess, *, online: bool = False) -> Teacher:
    """An encoder as a teacher of features.

    Args:
        name: as in :func:`open_teacher`; classes do not matter.
        size: side in pixels at which it sees the pictures; None for its own.
        seen: the student's preprocessing.
        online: whether weights may be downloaded.
    """
    artefact = open_model(name, {} if size is None else {"img_size": size}, online=online)
    return Teacher(artefact.backbone, artefact.preprocess, seen)


def build_distill_features(start: Start, options: DistillFeaturesOptions) -> DistillFeatures:
    """A student beside the frozen model that the options name.

    Raises:
        VitrailError: one of the two is no picture encoder.
    """
    if not isinstance(start.model, Backbone):
        raise VitrailError(f"distill_features trains a picture encoder, not a {type(start.model).__name__}")
    teacher = open_feature_teacher(options.teacher, options.teacher_size, start.preprocess, online=start.online)
    return DistillFeatures(start.model, teacher, options)


def class_order(student: Sequence[str], teacher: Sequence[str], name: str) -> list[int] | None:
    """Where the teacher's logits for the student's classes stand; None when the order is the same.

    Raises:
        VitrailError: the teacher has no classes by name, or others.
    """
    if not teacher:
        raise VitrailError(
            f"teacher {name}: its classes have no names, so nobody can say which of its answers means which class: "
            "train it on the same data first (vitrail train DATA --model …) and give that run as --teacher"
        )
    unknown, extra = sorted(set(student) - set(teacher)), sorted(set(teacher) - set(student))
    if unknown or extra:
        parts = [
            f"it does not know {_shown(unknown)}" if unknown else "",
            f"it also knows {_shown(extra)}" if extra else "",
        ]
        raise VitrailError(
            f"teacher {name}: its classes are not those of the data: {'; '.join(part for part in parts if part)}"
        )
    order = [list(teacher).index(label) for label in student]
    return None if order == list(range(len(order))) else order


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
