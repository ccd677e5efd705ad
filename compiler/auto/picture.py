"""The front of accuracy against latency as a picture (SVG)."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

_WIDTH, _HEIGHT = 720, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 40, 56, 64
#: Room that a label takes.
_WIDE, _HIGH = 180, 14

_PAGE = Template(
    """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 $width $height" role="img"
 font-family="sans-serif" font-size="12" fill="#222">
<rect width="100%" height="100%" fill="#fff"/>
<text x="$left" y="24" font-size="15">$title</text>
<text x="$left" y="42" fill="#666">$subtitle</text>
<path d="M$left $top V$bottom H$right" fill="none" stroke="#888"/>
$ticks$bound<polyline points="$line" fill="none" stroke="#3366aa" stroke-width="1.5"/>
$dots<text x="$middle" y="$low" text-anchor="middle">time of all kernels, ms</text>
<text transform="translate(20 $centre) rotate(-90)" text-anchor="middle">drop of $metric</text>
</svg>
"""
)
_TICK_X = '<text x="{x:.1f}" y="{y}" text-anchor="middle" fill="#666">{label}</text>\n'
_TICK_Y = '<text x="{x}" y="{y:.1f}" text-anchor="end" fill="#666">{label}</text>\n'
_BOUND = (
    '<path d="M{x0} {y:.1f} H{x1}" stroke="#bb3333" stroke-dasharray="5 4"/>\n'
    '<text x="{x1}" y="{ty:.1f}" text-anchor="end" fill="#bb3333">allowed: {label}</text>\n'
)
_DOT = (
    '<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}" fill="{fill}"><title>{label}: {ms:.4g} ms, drop '
    "{drop:.3g}</title></circle>\n"
)
_LABEL = '<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}">{label}</text>\n'


def svg(report: Mapping[str, Any]) -> str:
    """The front of an :class:`~burnish.auto.result.AutoReport` (as plain data) as SVG.

    Latency goes to the right, the drop upwards; what was built is marked, and so is the bound.
    """
    front = report["front"]
    times: list[float] = [point["seconds"] * 1e3 for point in front]
    drops: list[float] = [point["drop"] for point in front]
    bound: float | None = report["bound"]
    # A bound far above all drops would squeeze them to a line.
    shown = bound if bound is not None and bound <= 4 * max(drops) else None
    top = 1.1 * max(*drops, shown or 0.0, 1e-12)
    most = 1.05 * max(times)

    def x(ms: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * ms / most

    def y(drop: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * max(0.0, drop) / top

    named = _apart([(x(ms), y(drop)) for ms, drop in zip(times, drops, strict=True)], front)

    def dot(index: int) -> str:
        point, ms, drop = front[index], times[index], drops[index]
        fill, label = ("#bb3333" if point["chosen"] else "#3366aa"), html.escape(point["label"])
        size = 6 if point["chosen"] else 4
        at = x(ms)
        anchor = "end" if at > _WIDTH / 2 else "start"
        text = _LABEL.format(
            x=at + (-9 if anchor == "end" else 9), y=y(drop) - 6, anchor=anchor, fill=fill,
            label=label,
        )  # fmt: skip
        circle = _DOT.format(x=at, y=y(drop), r=size, fill=fill, label=label, ms=ms, drop=drop)
        return circle + (text if index in named else "")

    base = _HEIGHT - _BOTTOM
    marks = "".join(
        _TICK_X.format(x=x(most * i / 4), y=base + 18, label=f"{most * i / 4:.3g}")
        + _TICK_Y.format(x=_LEFT - 6, y=y(top * i / 4) + 4, label=f"{top * i / 4:.2g}")
        for i in range(5)
    )
    line = (
        ""
        if shown is None
        else _BOUND.format(
            x0=_LEFT, x1=_WIDTH - _RIGHT, y=y(shown), ty=y(shown) - 5, label=f"{shown:g}"
        )
    )
    return _PAGE.substitute(
        width=_WIDTH, height=_HEIGHT, left=_LEFT, top=_TOP, bottom=base, right=_WIDTH - _RIGHT,
        title="Accuracy against latency",
        subtitle=html.escape(
            f"judged on {report['judged_on']} samples that nothing was chosen with: drop "
            f"{report['drop']:.3g}; {report['below_fp32']:.0%} of the products' operations below "
            "fp32"
        ),
        ticks=marks, bound=line, dots="".join(map(dot, range(len(front)))),
        line=" ".join(f"{x(ms):.1f},{y(d):.1f}" for ms, d in zip(times, drops, strict=True)),
        middle=(_LEFT + _WIDTH - _RIGHT) / 2, low=_HEIGHT - 20, centre=(_TOP + base) / 2,
        metric=html.escape(report["metric"]),
    )  # fmt: skip


def _apart(places: Sequence[tuple[float, float]], front: Sequence[Mapping[str, Any]]) -> set[int]:
    """Points whose labels do not cover each other's; that of what was built is always there."""
    found: list[int] = []
    for index in sorted(range(len(front)), key=lambda i: not front[i]["chosen"]):
        at, height = places[index]
        if all(abs(places[i][0] - at) > _WIDE or abs(places[i][1] - height) > _HIGH for i in found):
            found.append(index)
    return set(found)
