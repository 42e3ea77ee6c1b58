"""The judge: at a stage's end, who goes on and why the others do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coral.fidelity.proxies import CURVE_PROXIES
from coral.fidelity.prune import PruneRule, PruneSettings, breach, threshold_of
from coral.fidelity.stages import Stage, survivor_count
from coral.records import Outcome, Status, Verdict
from coral.rng import stream

Select = Callable[[Sequence[Outcome], int], Sequence[int]]
"""Indices of the best ``k`` outcomes, best first."""

NOT_PROMOTED = "not promoted"
COMPARABLE = 2.0
"""Factor between the experience of trials that a rule may compare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A trial at the end of a stage.

    Attributes:
        verdict: None while it climbs; set if it was condemned earlier and is audited.
        exempt: it climbs on whatever its verdict (the reference recipe).
        experience: optimizer steps that its weights have ever seen, as a multiple of those that a
            cold start has behind it at the same stage.
    """

    trial: int
    outcome: Outcome
    verdict: Verdict | None = None
    exempt: bool = False
    experience: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Attributes:
    verdict: None means that the trial is promoted.
    climbs: it trains in the next stage: promoted, audited or exempt.
    """

    verdict: Verdict | None
    climbs: bool


def judge(
    contenders: Sequence[Contender],
    stages: Sequence[Stage],
    index: int,
    prune: PruneSettings,
    select: Select,
    seed: int,
) -> list[Decision]:
    """Judge all trials that ended stage ``index``, in their order.

    Failures fall first, then those that a rule condemns, then those beyond the stage's survival
    quota, which counts everyone who entered. Audited trials stand outside the quota.

    Rules compare like with like: a threshold relative to the median counts only peers of comparable
    experience, and a fixed threshold on the training curve, which is meant for training that began
    from nothing, spares weights with more than ``COMPARABLE`` times the steps of a cold start.

    Args:
        select: picks the best of several outcomes.
        seed: of the run; the audit draws from a stream named by the trial.
    """
    stage, last = stages[index], index == len(stages) - 1
    verdicts: list[Verdict | None] = [contender.verdict for contender in contenders]
    peers = [c for c in contenders if c.outcome.failure is None]
    climbing = [i for i, contender in enumerate(contenders) if contender.verdict is None]
    entered = len(climbing)

    for i, contender in enumerate(contenders):
        if contender.outcome.failure is not None and contender.verdict is None:
            verdicts[i] = _fall(contender.outcome, index)
    if not last:
        rules = [rule for rule in prune.rules if rule.stage in ("", stage.name)]
        thresholds = _Thresholds(rules, peers)
        for i in [i for i in climbing if verdicts[i] is None]:
            verdicts[i] = _condemn(
                contenders[i].outcome, thresholds.of(contenders[i].experience), index
            )

    standing = [i for i in climbing if verdicts[i] is None]
    if last:
        for i in standing:
            verdicts[i] = Verdict(status="completed", stage=index)
    else:
        quota = min(len(standing), survivor_count(stage, entered))
        chosen = {standing[k] for k in select([contenders[i].outcome for i in standing], quota)}
        for i in standing:
            if i not in chosen:
                reason = f"not among the best {quota} of {entered} that entered {stage.name}"
                verdicts[i] = Verdict(
                    status="pruned", stage=index, reason=reason, rule=NOT_PROMOTED
                )
    return [
        _decide(contender, verdict, last, prune.audit_fraction, seed)
        for contender, verdict in zip(contenders, verdicts, strict=True)
    ]


class _Thresholds:
    """What the rules of a stage compare with, by experience."""

    def __init__(self, rules: Sequence[PruneRule], peers: Sequence[Contender]) -> None:
        self._rules = rules
        self._peers = peers
        self._known: dict[float, list[tuple[PruneRule, float]]] = {}

    def of(self, experience: float) -> list[tuple[PruneRule, float]]:
        """Return the rules that hold for this experience, each with its threshold."""
        if experience not in self._known:
            alike = [
                peer.outcome
                for peer in self._peers
                if 1 / COMPARABLE <= peer.experience / experience <= COMPARABLE
            ]
            self._known[experience] = [
                (rule, threshold_of(rule, alike))
                for rule in self._rules
                if rule.is_relative or rule.metric not in CURVE_PROXIES or experience <= COMPARABLE
            ]
        return self._known[experience]


def _fall(outcome: Outcome, index: int) -> Verdict:
    """Return the verdict of a failure: divergence is the genome's own doing, the rest is not."""
    failure = outcome.failure
    assert failure is not None
    status: Status = "pruned" if failure.kind == "diverged" else "failed"
    return Verdict(status=status, stage=index, reason=failure.message, rule=failure.kind)


def _condemn(
    outcome: Outcome, thresholds: Sequence[tuple[PruneRule, float]], index: int
) -> Verdict | None:
    for rule, threshold in thresholds:
        reason = breach(rule, outcome, threshold)
        if reason is not None:
            return Verdict(status="pruned", stage=index, reason=reason, rule=str(rule))
    return None


def _decide(
    contender: Contender, verdict: Verdict | None, last: bool, audit_fraction: float, seed: int
) -> Decision:
    if contender.outcome.failure is not None:
        return Decision(verdict=verdict, climbs=False)
    if verdict is None or last:
        return Decision(verdict=verdict, climbs=not last)
    audited = contender.verdict is None and (
        contender.exempt or _is_audited(contender.trial, audit_fraction, seed)
    )
    if not audited:
        return Decision(verdict=verdict, climbs=contender.verdict is not None)
    return Decision(
        verdict=Verdict(
            status=verdict.status,
            stage=verdict.stage,
            reason=verdict.reason,
            rule=verdict.rule,
            audited=True,
        ),
        climbs=True,
    )


def _is_audited(trial: int, audit_fraction: float, seed: int) -> bool:
    if audit_fraction == 0:
        return False  # the usual case; a stream costs as much as all else in a decision
    return bool(stream(seed, "audit", trial).random() < audit_fraction)
