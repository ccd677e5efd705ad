"""Runs commands in this process."""

from __future__ import annotations

import json
from typing import Any

import pytest

from burnish.artifact import SCHEMA_VERSION
from burnish.cli.main import main


class Cli:
    """Runs commands, and checks what they exit with."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self.capfd = capfd

    def __call__(self, *args: object, code: int = 0) -> str:
        """What the command prints; errors as well if one is expected."""
        found = main([str(arg) for arg in args])
        out, err = self.capfd.readouterr()
        assert found == code, err
        assert "Traceback" not in err
        return out if code == 0 else out + err

    def json(self, *args: object, code: int = 0) -> dict[str, Any]:
        """What the command writes as JSON."""
        data = json.loads(self(*args, "--json", "-", code=code))
        # What inspect prints of an artifact is its manifest.
        assert data["schema_version"] in (1, SCHEMA_VERSION)
        return dict(data)
