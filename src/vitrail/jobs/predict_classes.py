"""What a trained classifier says of pictures."""

from __future__ import annotations

from vitrail.contracts import VitrailError
from vitrail.data import FileSource, SubsetSource, list_pictures
from vitrail.jobs.bulk import fingerprint, run_in_parts
from vitrail.jobs.inference import Hardware, classifier, run_source
from vitrail.jobs.models import require_classes, weights_digest
from vitrail.jobs.predict_config import PredictConfig
from vitrail.jobs.progress import say
from vitrail.jobs.settings import default_out
from vitrail.jobs.tables import Row, check_table_name
from vitrail.weights import Artefact


def predict_classes(config: PredictConfig, artefact: Artefact, hardware: Hardware) -> list[Row]:
    """Predictions of every picture, in order: name, label, confidence, and the ``top`` classes with theirs."""
    if config.top < 1:
        raise VitrailError(f"top must be at least 1, not {config.top}")
    out = config.out or default_out("predict", config.source, config.model) / "predictions.csv"
    check_table_name(out)
    require_classes(artefact, config.model)
    source = FileSource(list_pictures(config.source), 1 if artefact.model.in_channels == 1 else 3, config.source)
    top = min(config.top, len(artefact.classes))

    def work(part: range) -> list[Row]:
        outputs = run_source(
            classifier(artefact.model),
            SubsetSource(source, list(part)),
            artefact.preprocess,
            config,
            hardware,
            "predict",
        )
        for name, reason in outputs.skipped:
            say(f"skipped {name}: {reason}")
        confidences, numbers = outputs.values.topk(top, dim=1)
        return [
            {
                "name": name,
                "label": artefact.classes[row[0]],
                "confidence": round(sure[0], 6),
                "top_labels": [artefact.classes[number] for number in row],
                "top_confidences": [round(confidence, 6) for confidence in sure],
            }
            for name, row, sure in zip(outputs.names, numbers.tolist(), confidences.tolist(), strict=True)
        ]

    key = fingerprint(weights_digest(artefact.model), artefact.preprocess, hardware.precision.name, config.top)
    rows = run_in_parts([source.name(i) for i in range(len(source))], key, work, out)
    say(f"{len(rows)} pictures → {out}")
    return rows
