"""Classes in words: what an image-text model says of pictures that it was never trained to sort."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitrail.contracts import VitrailError
from vitrail.data import TextTokenizer
from vitrail.jobs.backend import graph_of
from vitrail.jobs.inference import Caller, Hardware
from vitrail.jobs.models import weights_digest
from vitrail.jobs.predict_classes import write_answers
from vitrail.jobs.predict_config import PredictConfig
from vitrail.jobs.tables import Table
from vitrail.models import DualEncoder, DualEncoderConfig
from vitrail.weights import Artefact


def predict_zero_shot(config: PredictConfig, artefact: Artefact, hardware: Hardware) -> Table:
    """Predictions of every picture among ``config.labels``: the table that a classifier's are written into.

    A class is the mean of its sentences, one for each template (Radford et al. 2021, section 3.1.4). Confidences are
    shares among the labels for CLIP, and for SigLIP each label's own probability, whatever the others'.
    """
    model = artefact.model
    if not isinstance(model, DualEncoder):
        raise VitrailError(f"labels in words need an image-text model, not a {type(model).__name__}")
    tokenize = tokenizer_of(artefact, model)
    if len(config.labels) < (2 if model.config.loss == "softmax" else 1):
        raise VitrailError(
            f"{config.model} sorts pictures among words: give them with --labels, at least two: --labels cat dog"
        )
    classes = embed_classes(model, tokenize, config.labels, config.template, hardware, config.batch_size)
    embed_images, key = model.embed_images, (weights_digest(model), hardware.form)
    if config.backend != "torch":
        graph = graph_of(artefact, config, config.backend)
        embed_images, key, hardware = graph.giving("embedding"), graph.key, graph.hardware

    def call(images: Tensor) -> Tensor:
        embedded = F.normalize(embed_images(images).float(), dim=-1)
        return model.probabilities(model.logits(embedded, classes))

    key = (*key, *config.labels, *config.template, *sorted(artefact.files.items()))
    return write_answers(config, Caller(call, artefact.preprocess, hardware, key), config.labels)


def tokenizer_of(artefact: Artefact, model: DualEncoder) -> TextTokenizer:
    """The tokenizer that came with a model.

    Raises:
        VitrailError: none did.
    """
    return tokenizer_for(artefact.files, model.config)


def tokenizer_for(files: Mapping[str, str], numbers: DualEncoderConfig) -> TextTokenizer:
    """A tokenizer by its files, for a model of these numbers.

    Raises:
        VitrailError: there is none among them, or it is another model's.
    """
    return TextTokenizer(
        files,
        numbers.context_length,
        numbers.vocab_size,
        numbers.end_token,
        numbers.pad_token,
        numbers.clean,
    )


def read_tokenizer(path: str) -> dict[str, str]:
    """The files of a tokenizer, by name.

    Args:
        path: a ``tokenizer.json``; or a folder with one, or with ``vocab.json`` and ``merges.txt``.

    Raises:
        VitrailError: there is none.
    """
    whole = Path(path)
    names = ("tokenizer.json", "vocab.json", "merges.txt")
    found = {name: whole / name for name in names} if whole.is_dir() else {"tokenizer.json": whole}
    try:
        files = {name: file.read_text(encoding="utf-8") for name, file in found.items() if file.is_file()}
    except (OSError, UnicodeDecodeError) as error:
        raise VitrailError(f"{path}: the tokenizer cannot be read: {error}") from error
    if not files:
        raise VitrailError(f"{path}: no tokenizer there (tokenizer.json, or vocab.json and merges.txt)")
    return files


def embed_classes(
    model: DualEncoder,
    tokenize: Callable[[Sequence[str]], Tensor],
    labels: Sequence[str],
    templates: Sequence[str],
    hardware: Hardware,
    batch_size: int = 64,
) -> Float[Tensor, "k e"]:
    """One vector of length one for each label, in float32: the mean over its sentences.

    Args:
        model: on the hardware's device.
        tokenize: sentences to token numbers.
        labels: words.
        templates: sentences with ``{}`` where the word goes.
        hardware: where it runs, and in which number format.
        batch_size: sentences at once.

    Raises:
        VitrailError: a template without ``{}``, none, or a label twice.
    """
    wrong = [template for template in templates if "{}" not in template]
    if wrong or not templates:
        raise VitrailError(
            f"a template is a sentence with {{}} where the label goes, not {(wrong or ['nothing'])[0]!r}"
        )
    doubled = sorted({label for label in labels if list(labels).count(label) > 1})
    if doubled:
        raise VitrailError(f"the label {doubled[0]!r} is given twice")
    token_ids = tokenize([template.replace("{}", label) for label in labels for template in templates])
    embedded = []
    with torch.inference_mode(), hardware.precision.autocast(hardware.device):
        for part in token_ids.to(hardware.device).split(batch_size):
            embedded.append(F.normalize(model.embed_texts(part).float(), dim=-1))
    means = torch.cat(embedded).unflatten(0, (len(labels), len(templates))).mean(dim=1)
    return F.normalize(means, dim=-1)
