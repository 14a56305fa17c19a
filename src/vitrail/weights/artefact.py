"""The one artefact: a folder with ``model.safetensors`` and ``config.json``. Nothing else is needed to use a model.

``config.json`` holds the architecture, the classes, the preprocessing and free notes on the training. The weights' file
carries a copy of it, so that a save cut off between the two files still leaves a pair that belongs together.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from vitrail.contracts import VitrailError
from vitrail.data.preprocess import Preprocess
from vitrail.durable import scratch_folder, sync
from vitrail.models import Backbone, MaskedAutoencoder, Model, ModelConfig, build, build_unfilled
from vitrail.models.catalogue import FAMILIES
from vitrail.weights.account import shorten
from vitrail.weights.files import CheckpointError, check_safetensors_header, read_json_object, read_raw
from vitrail.weights.texts import TEXTS, digest, read_texts, require_file_names, write_texts

WEIGHTS, CONFIG = "model.safetensors", "config.json"
KEYS = ("id", "vitrail", "family", "architecture", "classes", "preprocess", "training")


@dataclass(frozen=True)
class Stored:
    """What an artefact's folder holds, checked.

    Attributes:
        config: the architecture.
        state: the weights.
        classes: names in the order of the logits, empty when the model has none or they are not known.
        preprocess: from a picture to the model's input.
        training: free notes.
        files: small text files by name that the model needs besides its weights.
    """

    config: ModelConfig
    state: dict[str, Tensor]
    classes: tuple[str, ...]
    preprocess: Preprocess
    training: Mapping[str, Any]
    files: Mapping[str, str]


class Artefact(nn.Module, ModelHubMixin, library_name="vitrail", tags=["image-classification", "vision-transformer"]):
    """A model with all that is needed to use it.

    ``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` are the hub's own verbs.

    Args:
        model: the backbone, with its classifier if it has one.
        classes: names of its classes in the order of the logits.
        preprocess: from a picture to the model's input.
        training: notes that travel along (data, recipe, score): anything that JSON can hold.
        files: small text files by name that the model needs besides its weights (a tokenizer); they travel as they are.
        fresh: names of weights that were initialised anew since no file has them (a head for other classes).

    Raises:
        VitrailError: more or fewer class names than outputs, or a preprocessing for another number of bands.
    """

    def __init__(
        self,
        model: Model,
        classes: Sequence[str],
        preprocess: Preprocess,
        training: Mapping[str, Any] | None = None,
        files: Mapping[str, str] | None = None,
        fresh: Collection[str] = (),
    ) -> None:
        super().__init__()
        _require_agreement(model.num_classes, model.in_channels, classes, preprocess, "this model")
        self.model = model
        self.classes = tuple(classes)
        self.preprocess = preprocess
        self.training_info = dict(training or {})
        self.files = dict(files or {})
        self.fresh = frozenset(fresh)

    def with_model(self, model: Model) -> Artefact:
        """All that belongs to this model, for another form of it."""
        return Artefact(model, self.classes, self.preprocess, self.training_info, self.files, self.fresh)

    @property
    def backbone(self) -> Backbone:
        """The model, as a picture encoder that can be probed, trained as a classifier and embedded with.

        Of a masked autoencoder it is the encoder.

        Raises:
            VitrailError: it is a model of another kind.
        """
        if isinstance(self.model, MaskedAutoencoder):
            return self.model.encoder
        if not isinstance(self.model, Backbone):
            raise VitrailError(f"this needs a picture encoder, not a {type(self.model).__name__}")
        return self.model

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Logits of normalised pictures (pooled features when there is no classifier)."""
        return self.model(images)

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        config: Any = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write the folder, whole or not at all; other files in it are left alone.

        Raises:
            VitrailError: the folder cannot be written, or the weights are not finite.
        """
        target = Path(save_directory)
        try:
            with scratch_folder(target) as scratch:
                super().save_pretrained(scratch, model_card_kwargs=model_card_kwargs)
                _move_into_place(scratch, target)
        except (OSError, SafetensorError) as error:
            raise VitrailError(f"{target}: the artefact cannot be written: {error}") from error
        if push_to_hub:
            return self.push_to_hub(repo_id or target.name, model_card_kwargs=model_card_kwargs, **push_to_hub_kwargs)
        return None

    def _save_pretrained(self, save_directory: Path) -> None:
        write_artefact(self.model, save_directory, self.classes, self.preprocess, self.training_info, self.files)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        online: bool = False,
        **model_kwargs: Any,
    ) -> Artefact:
        """A saved artefact, in evaluation mode.

        Args:
            pretrained_model_name_or_path: a folder, or a hub repository: from the cache, or from the network when
                ``online``.
            force_download: fetch again what is in the cache.
            token: of the hub, for private repositories.
            cache_dir: another place for the hub's cache.
            local_files_only: never use the network, whatever ``online`` says.
            revision: branch, tag or commit of the repository.
            online: allow the network. A folder never needs it.
            **model_kwargs: none are taken; what the model is stands in the artefact.

        Raises:
            VitrailError: no such folder or repository, or its parts disagree.
        """
        if model_kwargs:
            raise VitrailError(f"an artefact takes no {', '.join(model_kwargs)}: what it is stands in its {CONFIG}")
        return cls._from_pretrained(
            model_id=str(pretrained_model_name_or_path),
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download and online,
            local_files_only=local_files_only or not online,
            token=token,
        )

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **model_kwargs: Any,
    ) -> Artefact:
        folder = Path(model_id)
        if not folder.is_dir():
            try:
                folder = Path(
                    snapshot_download(
                        model_id,
                        revision=revision,
                        cache_dir=cache_dir,
                        force_download=force_download,
                        local_files_only=local_files_only,
                        token=token,
                        allow_patterns=[WEIGHTS, CONFIG, *TEXTS],
                    )
                )
            except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
                where = "on the hub" if not local_files_only else "in the cache of the hub (online=True allows the hub)"
                raise VitrailError(f"{model_id}: no such folder, and no such repository {where}") from error
        stored = read_artefact(folder)
        model = build_unfilled(stored.config)
        model.load_state_dict(stored.state)
        return cls(model, stored.classes, stored.preprocess, stored.training, stored.files).eval()


def load_artefact(path: str | Path, *, online: bool = False) -> Artefact:
    """A saved artefact from a folder (or a hub repository: from the cache, or the network when ``online``)."""
    return Artefact.from_pretrained(path, online=online)


def is_artefact(path: str | Path) -> bool:
    """Whether a path is a folder that Vitrail wrote."""
    folder = Path(path)
    return (folder / WEIGHTS).is_file() and "vitrail" in _description(folder)


# ---------------------------------------------------------------------- writing


def write_artefact(
    model: Model,
    folder: Path,
    classes: Sequence[str],
    preprocess: Preprocess,
    training: Mapping[str, Any],
    files: Mapping[str, str],
) -> None:
    """All files of an artefact into an existing folder.

    Raises:
        VitrailError: weights that are not finite, a family that is not known, a file's name that cannot be taken.
    """
    require_file_names(files, folder)
    _require_agreement(model.num_classes, model.in_channels, classes, preprocess, "this model")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    broken = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise VitrailError(f"{folder}: not saved: weights are NaN or infinite: {shorten(broken)}")
    config = model.config
    if type(config) not in FAMILIES:
        raise VitrailError(f"a {type(model).__name__} belongs to no known family and cannot be saved")
    description: dict[str, Any] = {
        "vitrail": version("vitrail"),
        "family": FAMILIES[type(config)].__name__,
        "architecture": asdict(config),
        "classes": list(classes),
        "preprocess": preprocess.to_dict(),
        "training": dict(training),
    }
    if files:
        description["files"] = {name: digest(text) for name, text in files.items()}
    text = json.dumps(description, sort_keys=True)
    description = {"id": hashlib.sha256(text.encode()).hexdigest()[:16], **description}
    write_texts(files, folder)
    metadata = {"format": "pt", "vitrail": json.dumps(description)}
    save_file(state, folder / WEIGHTS, metadata=metadata)
    (folder / CONFIG).write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _move_into_place(scratch: Path, target: Path) -> None:
    mask = _umask()
    for file in scratch.iterdir():
        sync(file)
        # The library of the weights gives them to their owner alone.
        file.chmod(0o666 & ~mask)
    if not target.exists():
        scratch.chmod(0o777 & ~mask)
        scratch.rename(target)
        return
    # Further files, then weights: these carry the description, with the digests of the files that belong to them.
    last = (WEIGHTS, CONFIG, "README.md")
    for file in sorted(scratch.iterdir()):
        if file.name not in last:
            file.replace(target / file.name)
    for name in (WEIGHTS, CONFIG):
        (scratch / name).replace(target / name)
    if not (target / "README.md").exists():
        (scratch / "README.md").replace(target / "README.md")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# ---------------------------------------------------------------------- reading


def read_artefact(folder: str | Path) -> Stored:
    """The parts of an artefact, checked to belong together; the weights are not yet in a model.

    Raises:
        CheckpointError: naming the folder and what disagrees.
    """
    folder = Path(folder)
    description = _description(folder)
    absent = [key for key in KEYS if key not in description]
    if absent:
        raise CheckpointError(f"{folder / CONFIG}: no artefact of Vitrail: it lacks {', '.join(absent)}")
    config = _architecture(description, folder)
    stored = Stored(
        config=config,
        state=read_raw(folder / WEIGHTS).tensors,
        classes=_class_names(description["classes"], folder),
        preprocess=Preprocess.from_dict(description["preprocess"]),
        training=description["training"],
        files=read_texts(description.get("files", {}), folder),
    )
    _require_agreement(config.num_classes, config.in_channels, stored.classes, stored.preprocess, str(folder))
    _require_weights(stored, folder)
    return stored


def _description(folder: Path) -> dict[str, Any]:
    """``config.json``; the weights' own copy where that is from another save, or gone."""
    beside = read_json_object(folder / CONFIG)
    file = folder / WEIGHTS
    if not file.is_file():
        return beside
    inside = check_safetensors_header(file).get("__metadata__", {}).get("vitrail")
    if inside is None:
        return beside
    own = json.loads(inside)
    return beside if beside.get("id") == own["id"] else own


def _architecture(description: Mapping[str, Any], folder: Path) -> ModelConfig:
    families = {family.__name__: config for config, family in FAMILIES.items()}
    name, values = description["family"], description["architecture"]
    if name not in families:
        raise CheckpointError(f"{folder / CONFIG}: the family {name!r} is unknown; known are {', '.join(families)}")
    known = {field.name for field in fields(families[name])}
    unknown = sorted(set(values) - known)
    if unknown:
        raise CheckpointError(
            f"{folder / CONFIG}: unknown architecture fields {', '.join(unknown)}: written by Vitrail "
            f"{description['vitrail']}; update, or take them out"
        )
    arguments: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    return families[name](**arguments)


def _class_names(value: object, folder: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise CheckpointError(f"{folder / CONFIG}: classes must be a list of names, not {value!r}")
    return tuple(value)


def _require_weights(stored: Stored, folder: Path) -> None:
    with torch.device("meta"):
        wanted = build(stored.config).state_dict()
    absent, extra = sorted(set(wanted) - set(stored.state)), sorted(set(stored.state) - set(wanted))
    wrong = [name for name, tensor in stored.state.items() if name in wanted and tensor.shape != wanted[name].shape]
    if absent or extra or wrong:
        first = wrong[0] if wrong else ""
        parts = [f"missing {shorten(absent)}" if absent else "", f"unknown {shorten(extra)}" if extra else ""]
        shapes = f"{first} is {tuple(stored.state[first].shape)}, not {tuple(wanted[first].shape)}" if wrong else ""
        raise CheckpointError(
            f"{folder}: {WEIGHTS} and {CONFIG} do not belong together: {'; '.join(p for p in (*parts, shapes) if p)}"
        )


def _require_agreement(num_classes: int, bands: int, classes: Sequence[str], preprocess: Preprocess, who: str) -> None:
    if classes and len(classes) != num_classes:
        raise CheckpointError(f"{who}: {len(classes)} class names for a head of {num_classes} outputs")
    if preprocess.bands != bands:
        raise CheckpointError(f"{who}: takes {bands} bands, but the preprocessing gives {preprocess.bands}")
