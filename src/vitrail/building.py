"""The C++ of this package: built once on every machine that can, and kept in the user's cache.

Whatever is built is optional. Where there is no compiler, or a library that the code needs is missing, the callers go
another way to the same result.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vitrail.machine import user_cache

COMPILER = "g++"
"""Its threads are those of torch: both come from libgomp."""
PATIENCE_S = 120.0
"""For the compiler, which needs two seconds on a free machine."""


class Unavailable(Exception):
    """What should have been built cannot be had here; the message says why."""


def built(name: str, files: Sequence[Path], flags: Sequence[str], libraries: Sequence[str] = ()) -> Path:
    """A shared library in the user's cache, made of ``files``; written whole or not at all.

    Its name holds a digest of everything it is made of, so that another version of the code is another library.

    Args:
        name: what it is called.
        files: sources (``.cpp``) and the headers that they include.
        flags: of the compiler.
        libraries: what is linked, e.g. ``-ljpeg``.

    Raises:
        Unavailable: another system, no compiler, it fails, or there is no safe place to keep what it makes.
    """
    if sys.platform != "linux":
        raise Unavailable("they are built on Linux alone")
    made_of = [file.name.encode() + file.read_bytes() for file in files]
    digest = hashlib.sha256(b"".join([*made_of, " ".join([*flags, *libraries]).encode()])).hexdigest()[:16]
    try:
        library = user_cache() / "kernels" / f"{name}-{digest}.so"
        if library.exists():
            return library
    except OSError as error:
        raise Unavailable(f"they cannot be kept ({error})") from error
    compiler = shutil.which(COMPILER)
    if compiler is None:
        raise Unavailable(f"there is no {COMPILER}")
    code = [str(file) for file in files if file.suffix == ".cpp"]
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent, prefix=".building-") as folder:
            made = Path(folder) / library.name
            command = [compiler, *flags, "-shared", "-fPIC", "-o", str(made), *code, *libraries]
            subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S)
            made.replace(library)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"{COMPILER} did not build them ({error})") from error
    return library
