"""What no linter checks here: files and functions stay short, work is finished, pins name no index.

Run by `make check`; prints every breach as `file:line: what` and ends with exit code 1 if there is one.
"""

from __future__ import annotations

import ast
import pathlib
import re
import sys
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILE_LINES = 500
FUNCTION_LINES = 70
UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
# An address in a requirements file would be one machine's, not everyone's.
INDEX = re.compile(r"(^\s*(-i|-f|--(index-url|extra-index-url|find-links|trusted-host))\b)|(https?://)")

Breach = tuple[pathlib.Path, int, str]


def main() -> int:
    """Print the breaches; the exit code."""
    breaches = [*check_sources(), *check_unfinished(), *check_requirements()]
    for path, line, what in breaches:
        print(f"{path.relative_to(ROOT)}:{line}: {what}")
    return 1 if breaches else 0


def check_sources() -> Iterator[Breach]:
    """Lengths, under src."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        length = text.count("\n")
        if length > FILE_LINES:
            yield path, length, f"the file has {length} lines, {FILE_LINES} are the most"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES:
                    yield path, node.lineno, f"{node.name} has {length} lines, {FUNCTION_LINES} are the most"


def check_unfinished() -> Iterator[Breach]:
    """Work left for later, under src, tests and bench."""
    for folder in ("src", "tests", "bench"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if UNFINISHED.search(line):
                    yield path, number, "unfinished: do it, or file it"


def check_requirements() -> Iterator[Breach]:
    """Where packages come from is each machine's own setting."""
    folders = [ROOT / "requirements", *(ROOT / "examples").glob("*/requirements")]
    for path in sorted(path for folder in folders for path in folder.iterdir() if path.is_file()):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if INDEX.search(line.partition("#")[0]):
                yield path, number, "an address of a package index"


if __name__ == "__main__":
    sys.exit(main())
