"""How a check is written: ``@gate`` or ``@warning`` names the asset, ``check_result`` says what it measured and wanted.

The function's name is the check's name, and its docstring is the description on the asset's page.
"""

from collections.abc import Callable, Mapping
from functools import partial

import dagster as dg

from genrec_dagster.failures import reasons_in_results

Measured = int | float | str
Check = Callable[..., dg.AssetCheckResult]
WARN = dg.AssetCheckSeverity.WARN


def gate(
    asset: dg.AssetsDefinition, *inputs: str, blocking: bool = True
) -> Callable[[Check], dg.AssetChecksDefinition]:
    """Decorate a check of ``asset`` that stops everything downstream when it fails.

    The function takes the values of the asset and of the ``inputs``, which are other assets, by name.
    """

    def decorate(function: Check) -> dg.AssetChecksDefinition:
        additional = {name: dg.AssetIn(name) for name in inputs}
        return dg.asset_check(asset=asset, blocking=blocking, additional_ins=additional)(reasons_in_results(function))

    return decorate


warning = partial(gate, blocking=False)  # decorates a check that never stops a run


def check_result(
    passed: bool,
    measured: Measured,
    wanted: str,
    *,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
    detail: str | None = None,
    metadata: Mapping[str, Measured | dg.MetadataValue] | None = None,
) -> dg.AssetCheckResult:
    """A result that says both sides in its description and in the metadata ``measured`` and ``wanted``.

    ``detail`` is added to the description, and to the metadata of a failed check as ``reason``.
    """
    shown = f"{measured:.4g}" if isinstance(measured, float) else str(measured)
    sentence = f"measured {shown}, wanted {wanted}"
    reason = {"reason": detail} if detail and not passed else {}
    return dg.AssetCheckResult(
        passed=bool(passed),
        severity=severity,
        description=f"{sentence}; {detail}" if detail else sentence,
        metadata={"measured": measured, "wanted": wanted, **reason, **(metadata or {})},
    )


def skipped(reason: str, metadata: Mapping[str, Measured] | None = None) -> dg.AssetCheckResult:
    """A passed result of a check that had nothing to compare with."""
    noted: dict[str, Measured] = {"skipped": reason, **(metadata or {})}
    return dg.AssetCheckResult(passed=True, description=f"skipped: {reason}", metadata=noted)
