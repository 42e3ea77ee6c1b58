"""Reporting: a run as facts, and the facts as tables."""

from coral.reporting.comparison import Way, comparison_facts
from coral.reporting.facts import (
    Facts,
    adapter_card,
    as_json,
    cost_facts,
    export_state,
    finite,
    run_facts,
    trial_facts,
)
from coral.reporting.forecast import BYTES_PER_PARAMETER, forecast, outline, probe_ladder
from coral.reporting.lineage import find_trial, lineage_facts

__all__ = [
    "BYTES_PER_PARAMETER",
    "Facts",
    "Way",
    "adapter_card",
    "as_json",
    "comparison_facts",
    "cost_facts",
    "export_state",
    "find_trial",
    "finite",
    "forecast",
    "lineage_facts",
    "outline",
    "probe_ladder",
    "run_facts",
    "trial_facts",
]
