"""What became of every tensor of a checkpoint: nothing is lost, filled in or left out without being said."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

FRESH = "not in the checkpoint: initialised anew"
"""Why a weight is missing that has to learn: nothing stands in for it."""


@dataclass
class Account:
    """The book-keeping of one translation.

    Attributes:
        source: the file or folder that was read.
        format: whose naming it has.
        translated: their name (or names, joined by ``+`` where several became one) to ours.
        dropped: their name to why it was left out on purpose.
        missing: our name to what stands there instead, for weights that the file does not have.
        changed: our name to what was done to it on the way (positions resized, channels summed …).
        notes: what else the reader should know.
        assumed: field of the config that neither the file nor what lies beside it tells, to the note that says what
            stands in for it: what the caller names counts more (:meth:`settle`).
    """

    source: str
    format: str
    translated: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    assumed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """A few lines for people: counts, and whatever is not a plain translation, grouped by its reason."""
        lines = [f"{self.source} ({self.format}): {len(self.translated)} tensors translated"]
        for title, entries in (("dropped", self.dropped), ("missing", self.missing), ("changed", self.changed)):
            for reason, names in _by_reason(entries).items():
                lines.append(f"  {title}: {shorten(names)}: {reason}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    @property
    def fresh(self) -> list[str]:
        """Our names of the weights that were initialised anew."""
        return [name for name, reason in self.missing.items() if reason == FRESH]

    def assume(self, field_name: str, note: str) -> None:
        """Say that a field of the config is a guess."""
        self.assumed[field_name] = note
        self.notes.append(note)

    def settle(self, field_names: Iterable[str]) -> None:
        """Take back what was assumed of fields that are known by now."""
        for name in self.assumed.keys() & set(field_names):
            self.notes.remove(self.assumed.pop(name))

    def drop(self, our_name: str, reason: str) -> None:
        """Turn translated tensors that end up as ``our_name`` into dropped ones."""
        for theirs in [theirs for theirs, ours in self.translated.items() if ours == our_name]:
            del self.translated[theirs]
            self.dropped[theirs] = reason


def shorten(names: list[str], shown: int = 6) -> str:
    """The first few names and how many more there are."""
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")


def _by_reason(entries: dict[str, str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name, reason in entries.items():
        groups.setdefault(reason, []).append(name)
    return groups
