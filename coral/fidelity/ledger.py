"""The ledger: what a run spent, on what, and what it saved."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from coral.fidelity.stages import Stage, ladder_steps
from coral.records import Cost, Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Attributes:
    search: spent by stage on trials that were climbing.
    audit: spent on condemned trials, to check their verdicts.
    confirmation: spent on the reference recipe beyond its verdict.
    naive: optimizer steps and examples that training every genome to the last stage would take;
        those that share their weights count once.
    """

    search: tuple[Cost, ...] = ()
    audit: Cost = field(default_factory=Cost)
    confirmation: Cost = field(default_factory=Cost)
    naive: Cost = field(default_factory=Cost)

    @property
    def searched(self) -> Cost:
        """What the search spent, audits included and final confirmation aside."""
        return sum(self.search, start=self.audit)

    @property
    def share_of_naive(self) -> float:
        """Optimizer steps of the search over those of naive full training."""
        return self.searched.optimizer_steps / max(1, self.naive.optimizer_steps)


def book(
    ledger: Ledger,
    trials: Sequence[Trial],
    batch_sizes: Sequence[int],
    stages: Sequence[Stage],
    train_examples: int,
    shared: Collection[int] = (),
) -> Ledger:
    """Return ``ledger`` with the costs of finished ``trials`` entered.

    Args:
        batch_sizes: examples per optimizer step of each trial.
        train_examples: size of the full train set.
        shared: numbers of trials whose weights others had trained.
    """
    search = list(ledger.search) or [Cost()] * len(stages)
    audit, confirmation, naive = ledger.audit, ledger.confirmation, ledger.naive
    for trial, batch_size in zip(trials, batch_sizes, strict=True):
        full = ladder_steps(stages, train_examples, batch_size)[-1]
        if trial.number in shared:
            full = 0
        naive = replace(
            naive,
            optimizer_steps=naive.optimizer_steps + full,
            examples=naive.examples + full * batch_size,
        )
        for outcome in trial.outcomes:
            if outcome.stage <= trial.verdict.stage:
                search[outcome.stage] = search[outcome.stage] + outcome.cost
            elif trial.candidate.lineage.operator == "reference":
                confirmation = confirmation + outcome.cost
            else:
                audit = audit + outcome.cost
    return Ledger(search=tuple(search), audit=audit, confirmation=confirmation, naive=naive)
