"""Tables and figures out of error files: the room that knows what a paper shows, and never imports torch.

    errors = ntdm.reports.errors("runs/ntdm")                     a row a sample
    table = ntdm.reports.table(2, ["runs/ntdm", "runs/nemo"])     as printed, with n and intervals
    breakdown = ntdm.reports.breakdown(2, ["runs/ntdm"])          by category, with intervals

are pandas frames of what `ntdm report` writes to files. pandas is imported at the first use of one of them.
"""

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "errors": "ntdm.reports.frames",
    "table": "ntdm.reports.tables",
    "breakdown": "ntdm.reports.tables",
}
__all__ = list(_HOMES)

if TYPE_CHECKING:
    from ntdm.reports.frames import errors as errors
    from ntdm.reports.tables import breakdown as breakdown
    from ntdm.reports.tables import table as table


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ntdm.reports' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
