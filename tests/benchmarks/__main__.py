"""The command: measure in interleaved rounds, print the table, hold it against the stored ratios. See `--help`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks import ratios
from tests.benchmarks.catalogue import BY_NAME, SYSTEMS, Entry
from tests.benchmarks.report import goals, machine, markdown, under_their_floors
from tests.benchmarks.results import Results
from tests.benchmarks.runner import RunFailed, Runner, runner
from tests.benchmarks.works import WORKS, WORKS_BY_NAME, Work

_LEAST = 10
_INTERRUPTED = 130


def main() -> int:
    """Measure and report; return the exit status."""
    parser = _parser()
    options = parser.parse_args()
    if options.store and options.scale != 1:
        parser.error("--store wants the sizes that all others measure: no --scale")
    works = _chosen(options.works, WORKS_BY_NAME, [work.name for work in WORKS])
    systems = [entry for entry in _chosen(options.systems, BY_NAME, list(BY_NAME)) if _is_installed(entry)]
    results = Results()
    was_interrupted = False
    with runner() as ours:
        settings = ours.settings()
        try:
            for number in range(1, options.rounds + 1):
                for work in works:
                    _measure(ours, results, work, systems, options.scale, f"round {number}/{options.rounds}")
        except KeyboardInterrupt:
            was_interrupted = True
            print("interrupted; this is what was measured until then", file=sys.stderr)
    status = _report(results, settings, options)
    return _INTERRUPTED if was_interrupted else status


def _measure(ours: Runner, results: Results, work: Work, systems: Sequence[Entry], scale: float, place: str) -> None:
    """Run one work on each system that can do it."""
    for entry in systems:
        if work.name not in entry.sizes:
            continue
        size = max(_LEAST, round(entry.sizes[work.name] * scale))
        began = time.monotonic()
        try:
            figures: dict[str, float] | None = ours.measure(entry, work, size)
            said = "  ".join(f"{name}={value:,.6g}" for name, value in (figures or {}).items())
        except RunFailed as failure:
            figures, said = None, f"FAILED: {failure}"
            results.failures.append(f"{work.name} {entry.name}: {str(failure).strip().splitlines()[-1]}")
        results.add(work.name, entry.name, figures)
        print(
            f"{place}  {work.name:20} {entry.name:16} n={size:<8} {said}  ({time.monotonic() - began:.1f} s)",
            flush=True,
        )


def _report(results: Results, settings: dict[str, str], options: argparse.Namespace) -> int:
    """Print and write what was asked for; return 1 if runs failed, ratios fell, or floors were missed."""
    table = markdown(results, settings, options.rounds, options.scale)
    print("\n" + table)
    print("\n".join(goals(results)))
    if options.markdown:
        options.markdown.write_text(table)
    if options.json:
        options.json.write_text(json.dumps(_raw(results, settings, options), indent=1) + "\n")
    status = 1 if results.failures else 0
    if options.check:
        for sentence in (fell := ratios.fallen(results)):
            print(f"FELL  {sentence}")
        print(
            f"{len(fell)} of the stored ratios fell by more than 15 %"
            if fell
            else "no stored ratio fell by more than 15 %"
        )
        status = 1 if fell else status
    if options.floors:
        for sentence in (missed := under_their_floors(results)):
            print(f"FLOOR  {sentence}")
        status = 1 if missed else status
    if options.store:
        for sentence in ratios.store(results):
            print(f"raised  {sentence}")
    return status


def _raw(results: Results, settings: dict[str, str], options: argparse.Namespace) -> dict[str, object]:
    return {
        "rounds": options.rounds,
        "scale": options.scale,
        "machine": machine(),
        "servers": settings,
        "systems": {
            name: {
                "versions": BY_NAME[name].versions(),
                "settings": BY_NAME[name].settings,
                "sizes": BY_NAME[name].sizes,
            }
            for name in results.systems()
        },
        "measured": results.measured,
        "failures": results.failures,
    }


def _is_installed(entry: Entry) -> bool:
    if not entry.versions():
        print(
            f"{entry.title} is left out: not all of {', '.join(entry.packages)} are installed (pip install -e '.[bench]')"
        )
        return False
    return True


def _chosen(names: str | None, known: dict[str, object], default: list[str]) -> list:
    wanted = names.split(",") if names else default
    for name in wanted:
        if name not in known:
            raise SystemExit(f"{name!r} is not one of {', '.join(known)}")
    return [known[name] for name in wanted]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tests/bench", description="Measure CQ beside other task queues.")
    parser.add_argument("--rounds", type=_at_least_one, default=3, help="interleaved rounds (default 3)")
    parser.add_argument("--works", metavar="A,B", help=f"of {', '.join(WORKS_BY_NAME)}")
    parser.add_argument("--systems", metavar="A,B", help=f"of {', '.join(entry.name for entry in SYSTEMS)}")
    parser.add_argument("--scale", type=_positive, default=1.0, help="factor on all sizes, below 1 for a quick look")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write all values, versions, settings")
    parser.add_argument("--markdown", type=Path, metavar="PATH", help="write the tables")
    parser.add_argument("--check", action="store_true", help="exit 1 if a stored ratio fell by more than 15 %%")
    parser.add_argument(
        "--floors", action="store_true", help="exit 1 if a floor is not reached: a release does not go under one"
    )
    parser.add_argument("--store", action="store_true", help="raise the stored ratios to what was measured")
    return parser


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= 10:
        raise argparse.ArgumentTypeError(f"{text} is not a factor above 0, up to 10")
    return value


if __name__ == "__main__":
    sys.exit(main())
