"""What the cost table loses, from a tuning whose times are known."""

from __future__ import annotations

from typing import Any

from tests.bench.regret import lines, regret


def problem(name: str, table: float, chosen: float, nodes: int = 1) -> dict[str, Any]:
    """One that the cost table misjudged if the times differ."""
    return {
        "problem": name,
        "nodes": nodes,
        "table": "direct",
        "table_us": table,
        "chosen": "direct" if table == chosen else "winograd",
        "chosen_us": chosen,
        "gain_us": nodes * (table - chosen),
        "unmeasured": ["blocked"],
    }


TUNING = {
    "problems": [problem("a", 10, 10), problem("b", 20, 15, nodes=2), problem("c", 50, 30)],
    "verdict": "the tuned build is 30 % faster",
}


def test_the_loss_is_a_share_of_all_problems() -> None:
    rows = regret(TUNING)
    assert [(r["problem"], r["loss_us"], r["loss"]) for r in rows] == [
        ("c", 20.0, 0.2),
        ("b", 10.0, 0.1),
    ]


def test_lines_name_both_tactics_and_the_sum() -> None:
    first, *_, last = lines("net", TUNING)
    assert first == " 20.00%   1 x direct 50.0 us, best winograd 30.0 us: c"
    assert last == (
        "net: the cost table loses 30.00% in 2 of 3 problems; 3 tactics not measured; "
        "the tuned build is 30 % faster"
    )
