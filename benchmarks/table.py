"""The tables of docs/benchmarks.md: measures the cases that have no figures yet, and writes the page.

Run: python benchmarks/table.py [--only vit-b-1 input] [--fresh] [--page]

Each case's figures are a file under docs/benchmarks/ and stay until --fresh, so that a run that was stopped goes on
where it was. --page only writes the page from them. Cases without figures stand there as not measured yet.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from cases import CASES, Case

from vitrail.cli import parse
from vitrail.jobs.bench import command_of
from vitrail.speed.bench import Comparison
from vitrail.speed.bench.show import COLUMNS, cells

DOCS = Path(__file__).parents[1] / "docs"
FIGURES = DOCS / "benchmarks"
HEAD = (Path(__file__).parent / "page.md").read_text()


def measured(case: Case) -> list[Comparison]:
    """A case's figures, if there are any of the command that it has now."""
    file = FIGURES / f"{case.name}.json"
    if not file.is_file():
        return []
    found = [Comparison.from_dict(values) for values in json.loads(file.read_text())["comparisons"]]
    return found if all(one.command == command(case) for one in found) else []


def command(case: Case) -> str:
    """That measures a case."""
    return command_of(parse("bench", case.words))


def measure(case: Case) -> bool:
    """Whether it could be measured."""
    files = ["--json", f"{FIGURES / case.name}.json", "--plot", f"{FIGURES / case.name}.png"]
    print(f"{case.name}: about {case.seconds} s", flush=True)
    return not subprocess.run([sys.executable, "-m", "vitrail", "bench", *case.words, *files], check=False).returncode


def section(case: Case) -> str:
    """A case's part of the page."""
    parts = [f"### {case.question}"]
    found = measured(case)
    for one in found:
        rows = [cells(row, first=not number) for number, row in enumerate(one.rows)]
        lines = [COLUMNS, ("---", *["---:"] * (len(COLUMNS) - 2), "---"), *rows]
        versions = ", ".join(f"{name} {version}" for name, version in one.versions.items())
        parts += [
            "\n".join(f"| {' | '.join(line)} |" for line in lines),
            *(f"Not here: {missing.name} ({missing.reason})." for missing in one.missing),
            f"{one.date}; {one.machine}; {one.threads} threads; {versions}.",
        ]
    if found:
        parts.append(f"![{case.question}](benchmarks/{case.name}.png)")
    else:
        parts.append("**Not measured yet.**")
    return "\n\n".join([*parts, f"    {command(case)}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[case.name for case in CASES], help="these cases alone")
    parser.add_argument("--fresh", action="store_true", help="measure again what has figures")
    parser.add_argument("--page", action="store_true", help="measure nothing, write the page")
    given = parser.parse_args()
    failed = []
    for case in () if given.page else CASES:
        wanted = given.only is None or case.name in given.only
        if wanted and (given.fresh or not measured(case)) and not measure(case):
            failed.append(case.name)
    page = HEAD.replace("<!-- tables -->", "\n\n".join(map(section, CASES)))
    (DOCS / "benchmarks.md").write_text(page)
    print(f"→ {DOCS / 'benchmarks.md'}")
    if failed:
        sys.exit(f"not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
