"""A name of its own for each picture, where what is made of it goes into one folder with what is made of others."""

from __future__ import annotations

from unicodedata import normalize


class OwnNames:
    """Gives names one after the other, each unlike all before it: a picture's stem, or the stem with a number.

    Names that differ by case alone, or by how an accent is written, are one name: on many disks they are one file.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._numbers: dict[str, int] = {}

    def __call__(self, stem: str) -> str:
        """``stem``, or the first of ``stem-2``, ``stem-3`` … that no other picture has."""
        number = self._numbers.get(stem, 0)
        while True:
            number += 1
            name = stem if number == 1 else f"{stem}-{number}"
            known = normalize("NFC", name).casefold()
            if known not in self._taken:
                # Where to go on counting: a thousand pictures of one stem must not be counted through each time.
                self._numbers[stem] = number
                self._taken.add(known)
                return name
