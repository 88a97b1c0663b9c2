"""The results as Markdown: a table of works, a table of how each system is configured, the machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.benchmarks.catalogue import BY_NAME, Entry
from tests.benchmarks.results import OURS, Results, figure_of, reaches
from tests.benchmarks.works import BEST, GOALS, WORKS, Figure, Goal, Work


def machine() -> dict[str, str]:
    """Describe what it was measured on."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def markdown(results: Results, settings: Mapping[str, str], rounds: int, scale: float) -> str:
    """Write all of it."""
    systems = sorted(results.systems(), key=lambda name: name != OURS)
    entries = [BY_NAME[name] for name in systems]
    parts = [
        _table(["work", *(entry.title for entry in entries), "goal (CQ : peer)"], _rows(results, entries)),
        f"Medians of {rounds} interleaved rounds; in brackets the ratio CQ : peer, the median of the rounds' ratios"
        + ("." if scale == 1 else f"; all sizes × {scale:g}."),
        _table(
            ["system", "versions", "configuration", "what it does not do"],
            [[entry.title, _versions(entry), entry.settings, entry.lacks] for entry in entries],
        ),
        "Servers and machine: "
        + ", ".join(f"{name} {value}" for name, value in {**settings, **machine()}.items())
        + ".",
    ]
    if results.failures:
        parts.append("Runs that failed:\n" + "\n".join(f"- {failure.splitlines()[0]}" for failure in results.failures))
    return "\n\n".join(parts) + "\n"


def goals(results: Results) -> Iterator[str]:
    """Say for each goal how CQ stands to it."""
    for goal, standing in results.standings():
        yield f"{_said(goal)}: {_against(goal)}{_number(goal, standing)}; {_verdict(goal, standing)}"


def under_their_floors(results: Results) -> list[str]:
    """Return a sentence for each goal whose floor is not reached, or could not be measured."""
    sentences = []
    for goal in GOALS:
        standing = results.standing(goal)
        if goal.floor is not None and (standing is None or not reaches(goal, standing, goal.floor)):
            found = "not measured" if standing is None else f"{_against(goal)}{_number(goal, standing)}"
            sentences.append(f"{_said(goal)}: {found}, the floor is {goal.floor:g}")
    return sentences


def _rows(results: Results, entries: Sequence[Entry]) -> Iterator[list[str]]:
    for work in WORKS:
        if work.name in results.measured:
            for figure in work.figures:
                cells = [_cell(results, work, figure, entry.name) for entry in entries]
                yield [
                    f"{work.title}{', ' if figure.title else ''}{figure.title}",
                    *cells,
                    _goals(results, work, figure),
                ]


def _cell(results: Results, work: Work, figure: Figure, system: str) -> str:
    value = results.median(work.name, system, figure.name)
    if value is None:
        return "failed" if system in results.measured[work.name] else "–"
    written = figure.write(value)
    ratio = None if system == OURS or figure.is_own else results.ratio(work.name, system, figure.name)
    return f"{written} ({_ratio(ratio)})" if ratio is not None else written


def _goals(results: Results, work: Work, figure: Figure) -> str:
    said = []
    for goal in GOALS:
        if (goal.work, goal.figure) == (work.name, figure.name):
            standing = results.standing(goal)
            verdict = "not measured" if standing is None else f"{_number(goal, standing)}, {_verdict(goal, standing)}"
            said.append(f"{_against(goal)}{verdict}")
    return "; ".join(said) or "–"


def _verdict(goal: Goal, standing: float) -> str:
    sign = "≥" if figure_of(goal.work, goal.figure).is_better_higher else "≤"
    bounds = [(name, bound) for name, bound in (("floor", goal.floor), ("target", goal.target)) if bound is not None]
    return ", ".join(
        f"{name} {sign} {bound:g} {'reached' if reaches(goal, standing, bound) else 'NOT reached'}"
        for name, bound in bounds
    )


def _against(goal: Goal) -> str:
    if goal.peer is None:
        return ""
    return f"{'best peer' if goal.peer == BEST else BY_NAME[goal.peer].title} "


def _said(goal: Goal) -> str:
    work = next(work for work in WORKS if work.name == goal.work)
    figure = figure_of(goal.work, goal.figure)
    return f"{work.title}{', ' if figure.title else ''}{figure.title}"


def _number(goal: Goal, standing: float) -> str:
    figure = figure_of(goal.work, goal.figure)
    return figure.write(standing) if goal.peer is None else _ratio(standing)


def _ratio(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1f} ×" if value >= 9.95 else f"{value:.2f} ×"


def _versions(entry: Entry) -> str:
    return ", ".join(f"{package} {number}" for package, number in entry.versions().items())


def _table(titles: Sequence[str], rows: Iterator[list[str]] | list[list[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
