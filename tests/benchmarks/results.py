"""What was measured: figures by round, work and system; medians, ratios of CQ to its peers, and the goals they reach."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.benchmarks.works import BEST, GOALS, WORKS_BY_NAME, Figure, Goal

OURS = "cq"

# By work, system and figure, in order of the rounds; NaN never, None where a run failed.
Measured = dict[str, dict[str, list[dict[str, float] | None]]]


@dataclass
class Results:
    """All that was measured so far."""

    measured: Measured = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, work: str, system: str, figures: dict[str, float] | None) -> None:
        """Add what one run gave, None if it failed."""
        self.measured.setdefault(work, {}).setdefault(system, []).append(figures)

    def systems(self) -> list[str]:
        """Return the systems that were measured, in order."""
        return list(dict.fromkeys(system for by_system in self.measured.values() for system in by_system))

    def values(self, work: str, system: str, figure: str) -> list[float | None]:
        """Return one figure by round."""
        rounds = self.measured.get(work, {}).get(system, [])
        return [figures[figure] if figures else None for figures in rounds]

    def median(self, work: str, system: str, figure: str) -> float | None:
        """Return the median of one figure over the rounds."""
        return _median(self.values(work, system, figure))

    def ratio(self, work: str, peer: str, figure: str) -> float | None:
        """Return the median over the rounds of CQ's figure divided by a peer's in the same round."""
        ours = self.values(work, OURS, figure)
        theirs = self._best(work, figure) if peer == BEST else self.values(work, peer, figure)
        return _median(mine / his if mine and his else None for mine, his in zip(ours, theirs, strict=False))

    def standing(self, goal: Goal) -> float | None:
        """Return how CQ stands to a goal's peer; without one, the figure itself."""
        if goal.peer is None:
            return self.median(goal.work, OURS, goal.figure)
        return self.ratio(goal.work, goal.peer, goal.figure)

    def standings(self) -> Iterator[tuple[Goal, float]]:
        """Return the goals that something is known about."""
        for goal in GOALS:
            if (standing := self.standing(goal)) is not None:
                yield goal, standing

    def _best(self, work: str, figure: str) -> list[float | None]:
        peers = [self.values(work, system, figure) for system in self.measured.get(work, {}) if system != OURS]
        choose = max if figure_of(work, figure).is_better_higher else min
        rounds = max((len(values) for values in peers), default=0)
        found = []
        for number in range(rounds):
            known = [values[number] for values in peers if number < len(values) and values[number] is not None]
            found.append(choose(value for value in known if value is not None) if known else None)
        return found


def figure_of(work: str, name: str) -> Figure:
    """Return a figure of a work by its name."""
    return next(figure for figure in WORKS_BY_NAME[work].figures if figure.name == name)


def reaches(goal: Goal, standing: float, bound: float) -> bool:
    """Say whether a standing is as good as a floor or a target."""
    is_better_higher = figure_of(goal.work, goal.figure).is_better_higher
    return standing >= bound if is_better_higher else standing <= bound


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
