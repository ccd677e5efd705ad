"""Run the suite and publish its counts: ``python -m tests.onnx_suite [PATTERN]``.

Without a pattern, all cases run and ``RESULTS.md`` is written. Exits 1 if a case contradicts the
list of refused cases.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from pathlib import Path

from tests.onnx_suite import denied, report
from tests.onnx_suite.cases import load_cases
from tests.onnx_suite.outcome import Outcome
from tests.onnx_suite.pool import Pool

RESULTS = Path(__file__).with_name("RESULTS.md")


def run(names: list[str], jobs: int | None, show: bool) -> dict[str, Outcome]:
    """Outcomes by name, in the order of the names."""
    found: dict[str, Outcome] = {}
    with Pool(jobs) as pool:
        pool.submit(names)
        for done, name in enumerate(names, start=1):
            found[name] = pool.outcome(name)
            if show:
                sys.stderr.write(f"\r{done}/{len(names)}")
    if show:
        sys.stderr.write("\n")
    return found


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(prog="python -m tests.onnx_suite", description=__doc__)
    parser.add_argument("pattern", nargs="?", help="run the cases whose name it matches (a regex)")
    parser.add_argument("--jobs", type=int, help="cases at a time; default: one on each CPU")
    parser.add_argument("--slowest", type=int, default=0, metavar="N", help="print the slowest")
    parser.add_argument(
        "--update", action="store_true", help="rewrite the cases of each group of denied.toml"
    )
    options = parser.parse_args()
    if options.update and options.pattern:
        parser.error("--update needs all cases")
    cases = load_cases()
    names = [name for name in cases if re.search(options.pattern or "", name)]
    outcomes = run(names, options.jobs, sys.stderr.isatty())
    groups, inexact = denied.read(), denied.read_inexact()
    if options.update:
        groups = denied.update(groups, outcomes)
        denied.write(groups, inexact)
    listed = denied.by_case(groups)
    failures = 0
    for name, outcome in outcomes.items():
        problem = denied.problem(
            outcome, listed.get(name), any(row.case == name for row in inexact)
        )
        if problem:
            failures += 1
            print(f"{name}: {problem}")
    for name in sorted(outcomes, key=lambda n: -outcomes[n].seconds)[: options.slowest]:
        print(f"{outcomes[name].seconds:7.2f} s  {name}")
    print(", ".join(f"{n} {s}" for s, n in Counter(o.status for o in outcomes.values()).items()))
    if not options.pattern:
        kinds = {name: case.kind for name, case in cases.items()}
        RESULTS.write_text(report.markdown(kinds, outcomes, groups, inexact), encoding="utf-8")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
