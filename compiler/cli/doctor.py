"""``burnish doctor``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from burnish.cli.common import emit_json, json_option

if TYPE_CHECKING:
    from burnish.bench.roofline import Roofline


@click.command("doctor")
@click.option("--roofline", is_flag=True, help="Also measure what the CPU can do at most.")
@json_option
def command(roofline: bool, json_path: str | None) -> int:
    """Check this machine and installation; one line a check, with the fix where one is needed."""
    from burnish.report.doctor import checks

    rows = checks()
    limits = _limits() if roofline else []
    failed = [row for row in rows if row.required and not row.ok]
    if json_path:
        data: dict[str, Any] = {"schema_version": 1, "ok": not failed}
        data["checks"] = [row.to_dict() for row in rows]
        if roofline:
            data["roofline"] = [limit.to_dict() for limit in limits]
        emit_json(data, json_path)
    else:
        for row in rows:
            mark = "ok  " if row.ok else ("FAIL" if row.required else "note")
            click.echo(
                f"{mark} {row.name}: {row.detail}" + (f"\n     fix: {row.fix}" if row.fix else "")
            )
        for limit in limits:
            rates = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in limit.rates.items())
            click.echo(
                f"roofline, {limit.threads} thread(s): {rates} GFLOP/s, "
                f"{limit.bandwidth / 1e9:.1f} GB/s from memory, "
                f"{limit.cache_bandwidth / 1e9:.0f} GB/s from caches"
            )
    return 5 if failed else 0


def _limits() -> list[Roofline]:
    """The limits of one thread, and of all that this process may use."""
    from burnish.bench.roofline import measure_roofline
    from burnish.runtime import default_threads

    return [measure_roofline(threads) for threads in sorted({1, default_threads()})]
