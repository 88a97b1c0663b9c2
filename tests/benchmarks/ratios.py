"""The stored ratios that later changes are held against. They are only ever raised."""

from __future__ import annotations

import json
from pathlib import Path

from tests.benchmarks.results import OURS, Results, figure_of
from tests.benchmarks.works import BEST, GOALS, Goal

STORED = Path(__file__).with_name("ratios.json")
# So much of a stored ratio has to be reached.
_ENOUGH = 0.85
# What is less counts as this much: there is no ratio to nothing.
_NEAR_NOTHING = 0.01


def fallen(results: Results) -> list[str]:
    """Return a sentence for each ratio that is too far below the stored one, and for each that could not be measured."""
    stored = _read()
    measured = {_key(goal): _merit(goal, standing) for goal, standing in results.standings()}
    sentences = [
        f"{key}: {value:.3g} is {1 - value / stored[key]:.0%} below the stored {stored[key]:.3g}"
        for key, value in measured.items()
        if key in stored and value < _ENOUGH * stored[key]
    ]
    tried = {_key(goal) for goal in GOALS if _was_tried(goal, results)}
    missing = [key for key in stored if key in tried and key not in measured]
    return sentences + [f"{key}: not measured, the stored value is {stored[key]:.3g}" for key in missing]


def store(results: Results) -> list[str]:
    """Raise the stored ratios to what was measured; return a sentence for each that was raised."""
    stored = _read()
    raised = []
    for goal, standing in results.standings():
        key, merit = _key(goal), _merit(goal, standing)
        if merit > stored.get(key, 0.0):
            raised.append(f"{key}: {stored.get(key, 0.0):.3g} → {merit:.3g}")
            stored[key] = float(f"{merit:.4g}")
    STORED.write_text(json.dumps(stored, indent=2, sort_keys=True) + "\n")
    return raised


def _read() -> dict[str, float]:
    return dict(json.loads(STORED.read_text())) if STORED.exists() else {}


def _key(goal: Goal) -> str:
    return f"{goal.work} {goal.figure}" + (f" : {goal.peer}" if goal.peer else "")


def _was_tried(goal: Goal, results: Results) -> bool:
    """Say whether all that a goal compares has been run, successfully or not."""
    systems = results.measured.get(goal.work, {})
    return OURS in systems and (goal.peer in (None, BEST) or goal.peer in systems)


def _merit(goal: Goal, standing: float) -> float:
    """Turn a standing so that more is better."""
    if figure_of(goal.work, goal.figure).is_better_higher:
        return standing
    return 1 / max(standing, _NEAR_NOTHING)
