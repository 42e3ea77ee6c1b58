"""Where jobs run: in this process, in worker processes that may die, or in virtual time.

Names load on first use. A worker imports this package before its thread limits are set, and so must
not load numpy with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coral.execution.inline import InlineExecutor
    from coral.execution.pool import PoolExecutor
    from coral.execution.virtual import VirtualExecutor

__all__ = ["InlineExecutor", "PoolExecutor", "VirtualExecutor"]


def __getattr__(name: str) -> Any:
    match name:
        case "InlineExecutor":
            from coral.execution.inline import InlineExecutor

            return InlineExecutor
        case "PoolExecutor":
            from coral.execution.pool import PoolExecutor

            return PoolExecutor
        case "VirtualExecutor":
            from coral.execution.virtual import VirtualExecutor

            return VirtualExecutor
        case _:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
