"""One process with torch imported, from which tests fork the ones they kill."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .zygote import Zygote


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    zygote = Zygote(tmp_path_factory.mktemp("logs"))
    yield zygote
    zygote.close()
