"""Multi-fidelity: the ladder of stages, proxies, prune rules, judge, ledger and audit."""

from coral.fidelity.audit import (
    ProxyTrust,
    RuleAudit,
    StageTrust,
    audit_rules,
    proxy_trust,
    stage_trust,
)
from coral.fidelity.judge import NOT_PROMOTED, Contender, Decision, judge
from coral.fidelity.ledger import Ledger, book
from coral.fidelity.proxies import CURVE_PROXIES, gradient_norm, loss_slope
from coral.fidelity.prune import DEFAULT_RULES, PruneRule, PruneSettings, breach, threshold_of
from coral.fidelity.rank_correlation import kendall_tau
from coral.fidelity.schedule import completion_times, makespan
from coral.fidelity.stages import (
    DEFAULT_LADDER,
    Stage,
    check_ladder,
    entrants_by_stage,
    ladder_share,
    ladder_steps,
    survivor_count,
)

__all__ = [
    "CURVE_PROXIES",
    "DEFAULT_LADDER",
    "DEFAULT_RULES",
    "NOT_PROMOTED",
    "Contender",
    "Decision",
    "Ledger",
    "ProxyTrust",
    "PruneRule",
    "PruneSettings",
    "RuleAudit",
    "Stage",
    "StageTrust",
    "audit_rules",
    "book",
    "breach",
    "check_ladder",
    "completion_times",
    "entrants_by_stage",
    "gradient_norm",
    "judge",
    "kendall_tau",
    "ladder_share",
    "ladder_steps",
    "loss_slope",
    "makespan",
    "proxy_trust",
    "stage_trust",
    "survivor_count",
    "threshold_of",
]
