"""``burnish doctor``."""

from __future__ import annotations

from typing import Any

import click

from burnish.cli.common import emit_json, json_option


@click.command("doctor")
@json_option
def command(json_path: str | None) -> int:
    """Check this machine and installation; one line a check, with the fix where one is needed."""
    from burnish.report.doctor import checks

    rows = checks()
    failed = [row for row in rows if row.required and not row.ok]
    if json_path:
        data: dict[str, Any] = {"schema_version": 1, "ok": not failed}
        emit_json(data | {"checks": [row.to_dict() for row in rows]}, json_path)
    else:
        for row in rows:
            mark = "ok  " if row.ok else ("FAIL" if row.required else "note")
            click.echo(
                f"{mark} {row.name}: {row.detail}" + (f"\n     fix: {row.fix}" if row.fix else "")
            )
    return 5 if failed else 0
