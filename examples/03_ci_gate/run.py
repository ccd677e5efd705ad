"""Check a model as CI does: store a baseline, check against it, and see every gate fail."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
GATES = {"accuracy": 10, "latency": 11, "size": 12, "precision": 13}


def check(config: str, *options: str) -> int:
    """Run ``burnish check``; returns its exit code."""
    command = [sys.executable, "-m", "burnish", "check", str(HERE / config), *options]
    print("$ burnish", *command[3:], flush=True)
    code = subprocess.run(command, check=False).returncode
    print(f"exit code {code}\n", flush=True)
    return code


def main() -> int:
    """Run the example; the exit code is 0 if every gate did what it should."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--time-budget", default="60", help="seconds for each ratio of times")
    budget = ("--time-budget", parser.parse_args().time_budget)
    with tempfile.TemporaryDirectory(prefix="ci-gate-") as folder:
        baseline = ("--baseline", f"{folder}/baseline")
        codes = [
            check("burnish.toml", *baseline, "--update-baseline", *budget),
            check("burnish.toml", *baseline, *budget, "--output", f"{folder}/report"),
        ]
        print(Path(folder, "report", "summary.md").read_text(encoding="utf-8"))
        expected = [0, 0, *GATES.values()]
        codes += [check("failing.toml", "--only", gate, *budget) for gate in GATES]
    return 0 if codes == expected else 1


if __name__ == "__main__":
    sys.exit(main())
