"""Soups and squeezed adapters as candidates: who goes in, with what weight, at which rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from coral.evolution.state import EvolutionState
from coral.genome import Genome, nearest
from coral.plan import digest_of
from coral.records import Candidate, Derivation, Legacy, Lineage, Trial
from coral.settings import RunSpec

TUNING_STRENGTH = 0.5
"""Standard deviation of the logarithm of a weight's change."""


def soup_pool(state: EvolutionState, spec: RunSpec) -> list[Trial]:
    """Return the trials that may go into the next soup, the best first.

    All of them read texts as the best one does: a head means something on its own encoding only.
    DoRA rescales the base, so its updates and plain ones are not added to each other.
    """
    if spec.soup.candidates < 2:
        return []
    trained = [state.trials[number] for number in state.finishers]
    if not trained:
        return []

    def kind(trial: Trial) -> object:
        plan = spec.plan_of(trial.candidate)
        return plan.encoding, plan.adapter.dora

    wanted = kind(trained[0])
    alike = (trial for trial in trained if kind(trial) == wanted)
    return list(islice(alike, spec.soup.candidates))


def soup_of(
    members: Sequence[tuple[Trial, float]], number: int, state: EvolutionState, spec: RunSpec
) -> Candidate:
    """Return the soup of some trials as a candidate, with the genome of the first.

    Args:
        members: trials with their weights.
    """
    rank = spec.soup.rank or max(spec.plan_of(trial.candidate).adapter.rank for trial, _ in members)
    total = sum(weight for _, weight in members)
    legacy = tuple(
        Legacy(trial=trial.number, stage=trial.best_stage, weight=round(weight / total, 6))
        for trial, weight in members
    )
    return _derived(members[0][0], legacy, Derivation(kind="soup", rank=rank), number, state, spec)


def tuned(
    members: Sequence[tuple[Trial, float]], rng: np.random.Generator
) -> list[tuple[Trial, float]]:
    """Return the members with their weights mutated by log-normal factors."""
    factors = np.exp(rng.normal(0.0, TUNING_STRENGTH, size=len(members)))
    return [
        (trial, weight * float(factor))
        for (trial, weight), factor in zip(members, factors, strict=True)
    ]


def squeezes_of(
    source: Trial, number: int, state: EvolutionState, spec: RunSpec
) -> list[Candidate]:
    """Return the smaller adapters to cut from a trial's.

    Args:
        number: of the first of them.
    """
    rank = spec.plan_of(source.candidate).adapter.rank
    wanted = [
        *(Derivation(kind="squeeze", rank=least) for least in spec.squeeze.ranks if least < rank),
        *(Derivation(kind="squeeze", energy=share) for share in spec.squeeze.energies),
    ]
    legacy = (Legacy(trial=source.number, stage=source.best_stage),)
    made = [_derived(source, legacy, how, number, state, spec) for how in wanted]
    new = [candidate for candidate in made if candidate.digest not in state.digests]
    return [replace(candidate, number=number + i) for i, candidate in enumerate(new)]


def _derived(
    model: Trial,
    legacy: tuple[Legacy, ...],
    derivation: Derivation,
    number: int,
    state: EvolutionState,
    spec: RunSpec,
) -> Candidate:
    genome = _at_rank(model.candidate.genome, derivation.rank, spec)
    digest = digest_of(
        [
            model.candidate.digest,
            [derivation.kind, derivation.rank, derivation.energy],
            [[item.trial, item.stage, item.weight] for item in legacy],
        ]
    )
    return Candidate(
        number=number,
        generation=state.generation - 1,
        genome=genome,
        digest=digest,
        lineage=Lineage(
            operator=derivation.kind,
            parents=tuple(item.trial for item in legacy),
            changed=("adapter.rank",) if genome != model.candidate.genome else (),
        ),
        legacy=legacy,
        entry=spec.last_stage,
        derivation=derivation,
    )


def _at_rank(genome: Genome, rank: int | None, spec: RunSpec) -> Genome:
    """Return the genome within the space, which the reference may lie outside, at a rank."""
    wanted = genome if rank is None else {**genome, "adapter.rank": rank}
    return {gene.path: nearest(gene, wanted[gene.path]) for gene in spec.space.genes}
