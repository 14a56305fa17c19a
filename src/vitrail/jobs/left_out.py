"""Broken pictures that a training run left out (``--on-error skip``): those of all its starts, and what remained."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from vitrail.contracts import VitrailError
from vitrail.data import Source, Splits
from vitrail.durable import write_durably
from vitrail.engine import World
from vitrail.jobs.inference import counted, say_skipped
from vitrail.jobs.progress import say
from vitrail.jobs.run import LEFT_OUT


class LeftOut:
    """What is known of them, in the run's folder, so that a run that goes on remembers what it will not meet again.

    Args:
        out: the run's folder.
        world: the processes that train together.
        found: the broken pictures that this process has met so far, with the reason.
    """

    def __init__(self, out: Path, world: World, found: Callable[[], Iterable[tuple[str, str]]]) -> None:
        self._file, self._world, self._found = out / LEFT_OUT, world, found

    def note(self) -> dict[str, str]:
        """Keep what has been met; every process calls this. All names so far, with the reasons.

        Raises:
            VitrailError: it cannot be written.
        """
        parts = self._world.gather([(name, reason) for name, reason in self._found()])
        return self._world.on_main(lambda: self._keep({name: reason for part in parts for name, reason in part}))

    def _keep(self, found: Mapping[str, str]) -> dict[str, str]:
        before = self._known()
        known = {**before, **found}
        if known != before:
            text = json.dumps(known, indent=2) + "\n"
            write_durably(self._file, lambda path: path.write_text(text, encoding="utf-8"))
        return known

    def _known(self) -> dict[str, str]:
        try:
            return json.loads(self._file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise VitrailError(f"{self._file}: cannot be read ({error}); remove it to go on without it") from error


def used(splits: Splits, left_out: Mapping[str, str]) -> dict[str, int]:
    """How many pictures were learnt from (``train``) and held out (``val``), without those that were left out."""
    return {part: _readable(source, left_out) for part, source in splits._asdict().items()}


def say_left_out(splits: Splits, left_out: Mapping[str, str], pictures: Mapping[str, int]) -> None:
    """Name the broken pictures on the terminal, and say how many others there were."""
    say_skipped(left_out.items())
    if left_out:
        learnt, held_out = counted(pictures["train"], len(splits.train)), counted(pictures["val"], len(splits.val))
        say(f"learnt from {learnt}, held out {held_out}")


def _readable(source: Source, left_out: Mapping[str, str]) -> int:
    if not left_out:
        return len(source)
    return sum(source.name(index) not in left_out for index in range(len(source)))
