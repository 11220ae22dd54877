"""The result of a check: what was measured beside what was wanted, as metadata and as a sentence."""

from collections.abc import Mapping

import dagster as dg

Measured = int | float | str


def verdict(
    passed: bool,
    measured: Measured,
    wanted: str,
    *,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
    detail: str | None = None,
    numbers: Mapping[str, Measured] | None = None,
) -> dg.AssetCheckResult:
    """A check result that names both sides.

    Args:
        passed: whether the measured value is as wanted.
        measured: what was found.
        wanted: what would have passed.
        severity: of a failure.
        detail: where to look, of a failure; also a field of its own, ``reason``.
        numbers: further metadata, by name.
    """
    shown = f"{measured:.4g}" if isinstance(measured, float) else str(measured)
    sentence = f"measured {shown}, wanted {wanted}"
    reason = {"reason": detail} if detail and not passed else {}
    return dg.AssetCheckResult(
        passed=bool(passed),
        severity=severity,
        description=f"{sentence}; {detail}" if detail else sentence,
        metadata={"measured": measured, "wanted": wanted, **reason, **(numbers or {})},
    )
