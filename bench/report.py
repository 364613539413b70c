"""The results file: a table against the goals, what it was measured on, and every window's figure."""

from __future__ import annotations

import datetime
import pathlib
import re
from collections.abc import Mapping, Sequence

import msgspec


class Goal(msgspec.Struct, frozen=True):
    """A figure must stay at or below `limit`, or at or above it where `at_least`."""

    text: str
    limit: float
    at_least: bool = False

    def verdict(self, figure: float) -> str:
        """The last column of the table. Below nothing can only be noise."""
        if figure < 0:
            return "lost in noise"
        holds = figure >= self.limit if self.at_least else figure <= self.limit
        return "holds" if holds else "**falls short**"


class Table(msgspec.Struct, frozen=True):
    """A table of text with a title."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def render(self) -> str:
        """In Markdown, without the title."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


class Findings(msgspec.Struct):
    """What a run has gathered: rows against goals, further tables, windows one by one, and what to know besides."""

    rows: list[tuple[str, ...]] = []
    tables: list[Table] = []
    windows: list[Table] = []
    remarks: list[str] = []
    incomplete: bool = False

    def hold(self, measure: str, goal: Goal, figure: float, ours: str, nginx: str = "–", ratio: str = "–") -> None:
        """One measure against its goal; `figure` is what the goal is about, the rest is text for the reader."""
        self.rows.append((measure, ours, nginx, ratio, goal.text, goal.verdict(figure)))

    def keep(self, title: str, found: Mapping[str, Sequence[float]], digits: int = 1) -> None:
        """Every window's figure: a row for each pair, a column for each cell."""
        turns = enumerate(zip(*found.values(), strict=True), 1)
        rows = [(str(turn), *(f"{value:.{digits}f}" for value in values)) for turn, values in turns]
        self.windows.append(Table(title, ("pair", *found), rows))

    def miss(self, reason: str) -> None:
        """Something could not be measured; the first line of why, without this machine's paths."""
        self.incomplete = True
        self.remarks.append(re.sub(r"(/[\w.-]+){2,}", "…", reason.splitlines()[0]))

    def goals(self) -> Table:
        """The table that the run is about."""
        return Table("Against the goals", ("measure", "Waypost", "nginx", "ratio (spread)", "goal", ""), self.rows)


def render_results(findings: Findings, head: Mapping[str, str], method: str) -> str:
    """The whole file, in Markdown."""
    parts = [f"# Measured on {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC\n"]
    parts += ["\n".join(f"- {name}: {value}" for name, value in head.items() if value) + "\n", method + "\n"]
    tables = [findings.goals()] if findings.rows else []
    parts += [f"## {table.title}\n\n{table.render()}" for table in [*tables, *findings.tables]]
    parts += ["## Remarks\n", "\n".join(f"- {remark}" for remark in findings.remarks) + "\n"]
    parts += ["## Window by window\n", *(f"### {table.title}\n\n{table.render()}" for table in findings.windows)]
    return "\n".join(parts)


def free_name(folder: pathlib.Path) -> pathlib.Path:
    """`<date>.md`, or `<date>-2.md` and so on when the day has results already."""
    day = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
    names = (folder / f"{day}{suffix}.md" for suffix in ("", *(f"-{count}" for count in range(2, 1000))))
    return next(name for name in names if not name.exists())
