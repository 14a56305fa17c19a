"""The folder of a job that was given none: named after what is asked for, and never another's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vitrail.contracts import VitrailError
from vitrail.jobs.run import CONFIG, open_run, same_data, verb_of
from vitrail.jobs.settings import Settings, default_out, read_config, to_plain


def own_folder(verb: str, config: Settings, *options: str) -> Path:
    """A folder under ``runs/`` for the results of these options, with the config in it; the same for the same options.

    To be called when all else is known to be well: it is made here.

    Args:
        verb: of the command line.
        config: what is asked for.
        options: the fields after which the folder is named: the data and the model.

    Raises:
        VitrailError: it holds what was made of other data or by another model, which only look alike in its name.
    """
    wanted: dict[str, Any] = to_plain(config)
    out = default_out(verb, *(str(vars(config)[name] or "") for name in options))
    held = read_config(out / CONFIG) if verb_of(out) == verb and _has_results(out) else wanted
    for name in options:
        if not same_data(held.get(name), wanted.get(name)):
            raise VitrailError(
                f"{out}: holds other results, which stay as they are ({name} was {held.get(name, 'the default')}, is "
                f"{wanted.get(name, 'the default')}); give another folder with --out"
            )
    return open_run(verb, config, out)


def _has_results(out: Path) -> bool:
    """Whether a job got that far: one that failed does not block its correction. Unfinished parts look after
    themselves, see :mod:`vitrail.jobs.bulk`."""
    return any(path.name != CONFIG and not path.name.startswith(".") for path in out.iterdir())
