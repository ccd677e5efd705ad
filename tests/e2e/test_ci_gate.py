"""The example of the CI gate: the steps of its workflow run here as they would on a runner."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

EXAMPLES = Path(__file__).parents[2] / "examples"
WORKFLOW = EXAMPLES / "03_ci_gate" / "workflow.yml"


def steps() -> list[dict[str, Any]]:
    jobs = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]
    (job,) = jobs.values()
    found: list[dict[str, Any]] = job["steps"]
    return found


class Runner:
    """A checkout on a machine with burnish installed, and the environment of a job."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(EXAMPLES, folder / "examples")
        commands = folder / "bin"
        commands.mkdir()
        # The installed commands, whatever environment the tests run in.
        burnish = commands / "burnish"
        burnish.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m burnish "$@"\n')
        burnish.chmod(0o755)
        self.summary = folder / "step-summary.md"
        workflow = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
        self.environment = os.environ | {
            **workflow["env"],
            "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_STEP_SUMMARY": str(self.summary),
        }

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        # As GitHub runs a step.
        shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", command]
        return subprocess.run(
            shell,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(tmp_path_factory.mktemp("checkout"))


def test_the_workflow_installs_checks_and_uploads() -> None:
    found = steps()
    assert all(("uses" in step) != ("run" in step) for step in found)
    installs = [step["run"] for step in found if step.get("name") == "Install"]
    assert installs == ["pip install ."]
    uploads = [s for s in found if s.get("uses", "").startswith("actions/upload-artifact")]
    assert [upload["if"] for upload in uploads] == ["always()"]


@pytest.mark.slow
def test_the_steps_of_the_workflow(runner: Runner) -> None:
    ran = []
    for step in steps():
        if "run" not in step or step["name"] == "Install":
            continue  # actions need GitHub; burnish is what the tests run with
        done = runner.run(step["run"])
        assert done.returncode == 0, step["name"] + done.stdout + done.stderr
        ran.append(step["name"])
    assert ran == ["First baseline", "Check", "New baseline"]
    report = json.loads((runner.folder / "report" / "report.json").read_text())
    (row,) = report["rows"]
    checks = {f"{c['gate']} {c['subject']}".strip(): c["outcome"] for c in row["checks"]}
    assert {name.split()[0] for name in checks} == {
        "compile",
        "accuracy",
        "latency",
        "size",
        "memory",
        "precision",
        "placement",
    }
    # A busy machine may leave a ratio undecided; nothing else.
    undecided = {name for name, outcome in checks.items() if outcome != "passed"}
    assert all(name.startswith("latency") for name in undecided)
    assert all(checks[name] == "inconclusive" for name in undecided)
    junit = ElementTree.parse(runner.folder / "report" / "junit.xml").getroot()
    assert (junit.get("failures"), junit.get("errors")) == ("0", "0")
    assert "## ✅ burnish check" in runner.summary.read_text()
    (artifact,) = (runner.folder / "baseline").iterdir()
    assert artifact.name == "text-direction-x86-64-v3-fp32.burnish"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gate", "code"), [("accuracy", 10), ("latency", 11), ("size", 12), ("precision", 13)]
)
def test_the_variant_that_fails(runner: Runner, gate: str, code: int) -> None:
    command = f"burnish check examples/03_ci_gate/failing.toml --only {gate} --json {gate}.json"
    done = runner.run(command)
    assert done.returncode == code, done.stdout + done.stderr
    assert f"FAILED (exit code {code})" in done.stdout
    assert f"::error title={gate}-x86-64-v3-fp32%3A {gate}" in done.stderr
    report = json.loads((runner.folder / f"{gate}.json").read_text())
    failed = [c["gate"] for r in report["rows"] for c in r["checks"] if c["exit_code"]]
    assert failed == [gate]
