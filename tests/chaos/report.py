"""The table at the end of a chaos run."""

from __future__ import annotations

from tests.chaos.run import Outcome


def table(outcome: Outcome) -> str:
    """What came out, in lines of a name and a value."""
    rows = [
        ("seed", str(outcome.seed)),
        ("seconds", f"{outcome.seconds:.0f}"),
        ("faults", str(outcome.faults.total())),
        *((f"  {kind}", str(count)) for kind, count in sorted(outcome.faults.items())),
        ("batches delivered", str(outcome.delivered)),
        ("  lost", str(outcome.lost)),
        ("  doubled", str(outcome.doubled)),
        ("  wrong", str(outcome.wrong)),
        ("longest stall", f"{outcome.longest_stall:.1f} s"),
        *((f"restarts of {what}", str(count)) for what, count in sorted(outcome.restarts.items())),
        *((f"left behind: {what}", ", ".join(found) or "none") for what, found in sorted(outcome.left.items())),
        ("outcome", "all well" if outcome.ok else "FAILED"),
    ]
    return "\n".join(f"{name:24} {value}" for name, value in rows)
