"""Breeding: the candidates of the next generation, from the state alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from coral.evolution.fitness import ranked_finishers
from coral.evolution.lineage import entry_of, legacy_of, shared_with
from coral.evolution.recipes import RECIPES
from coral.evolution.state import EvolutionState
from coral.evolution.toolbox import build_toolbox, vary
from coral.genome import Genome, changed_genes, nearest, sobol_design
from coral.plan import with_values
from coral.records import Candidate, Legacy, Lineage, Operator, Trial
from coral.rng import derive_seed, stream
from coral.settings import RunSpec

REDRAWS = 50


def breed(state: EvolutionState, spec: RunSpec) -> tuple[Candidate, ...]:
    """Return the next generation's candidates; no digest of the run is drawn twice.

    May return fewer than the population size when a small space runs out of new genomes.
    """
    toolbox = build_toolbox(spec.space, spec.evolution, spec.objectives)
    first = state.generation == 0
    cold = _cold_places(state, spec)
    proposals = _first_proposals(spec) if first else _children(toolbox, state, spec)
    taken = set(state.digests)
    candidates: list[Candidate] = []
    for index, proposal in enumerate(proposals):
        unique = _redrawn(toolbox, index, *proposal, taken, state, spec)
        if unique is None:
            continue
        genome, lineage, digest = unique
        taken.add(digest)
        parents = [state.trials[n] for n in lineage.parents]
        able = [p for p in parents if index not in cold or not p.candidate.legacy]
        shared = shared_with(genome, able, spec)
        legacy = legacy_of(genome, [] if index in cold else parents, spec)
        candidate = Candidate(
            number=len(state.trials) + len(candidates),
            generation=state.generation,
            genome=genome,
            digest=digest,
            lineage=lineage,
            legacy=legacy,
            entry=entry_of(legacy, spec),
        )
        if shared is not None:
            twin, weights = shared
            candidate = replace(
                candidate,
                legacy=twin.candidate.legacy,
                entry=twin.candidate.entry,
                shares=weights,
            )
        candidates.append(candidate)
    return (*candidates, *_trained_on(state, len(candidates), taken, spec))


def _trained_on(
    state: EvolutionState, place: int, taken: set[str], spec: RunSpec
) -> Iterator[Candidate]:
    """Yield the best squeezed adapters of the last generation as genomes that train on.

    Only those whose rank a genome can say: a uniform one, within the range of its gene.
    """
    squeezed = [
        trial
        for trial in ranked_finishers(state.last_generation, spec)
        if trial.candidate.derivation is not None
        and trial.candidate.derivation.kind == "squeeze"
        and trial.candidate.genome.get("adapter.rank") == trial.candidate.derivation.rank
    ]
    made = 0
    for trial in squeezed:
        digest = spec.space.digest(trial.candidate.genome)
        if made == spec.squeeze.train:
            return
        if digest in taken:
            continue
        taken.add(digest)
        yield Candidate(
            number=len(state.trials) + place + made,
            generation=state.generation,
            genome=trial.candidate.genome,
            digest=digest,
            lineage=Lineage(operator="squeeze", parents=(trial.number,)),
            legacy=(Legacy(trial=trial.number, stage=spec.last_stage),),
            entry=spec.last_stage,
        )
        made += 1


def _cold_places(state: EvolutionState, spec: RunSpec) -> set[int]:
    """Return the places of the children that inherit nothing, a fixed share chosen at random."""
    size = spec.evolution.population_size
    rng = stream(spec.seed, "cold", state.generation)
    return set(rng.permutation(size)[: round(spec.warm_start.cold_share * size)].tolist())


Proposal = tuple[Genome, Lineage]


def _first_proposals(spec: RunSpec) -> list[Proposal]:
    """Reference, recipes, then a shifted Sobol design, to the population's size."""
    size, space = spec.evolution.population_size, spec.space
    proposals: list[Proposal] = [(_reference_genome(spec), Lineage(operator="reference"))]
    for recipe in (*spec.evolution.recipes, *RECIPES):
        plan = with_values(spec.training, recipe)
        proposals.append((space.project(plan), Lineage(operator="recipe")))
    proposals = proposals[: max(1, size // 2)]
    design = sobol_design(space, size - len(proposals), derive_seed(spec.seed, "sobol"))
    return proposals + [(genome, Lineage(operator="sobol")) for genome in design]


def _reference_genome(spec: RunSpec) -> Genome:
    """Return the default recipe's values at the gene paths, in range or not."""
    return spec.space.values_of(spec.training)


def _children(toolbox: Any, state: EvolutionState, spec: RunSpec) -> list[Proposal]:
    make = partial(_child, toolbox, state, spec, 0)
    return list(toolbox.map(make, range(spec.evolution.population_size)))


def _child(
    toolbox: Any, state: EvolutionState, spec: RunSpec, attempt: int, index: int
) -> Proposal:
    """Return child ``index`` of the generation; it depends on nothing but the state and names."""
    rng = stream(spec.seed, "breed", state.generation, index, attempt)
    parents = [state.trials[number] for number in state.population]
    first = _tournament(parents, spec.evolution.tournament_size, rng)
    second = _tournament(parents, spec.evolution.tournament_size, rng)
    crossed = second is not first and rng.random() < spec.evolution.crossover_rate
    one, two = _in_range(first, spec), _in_range(second, spec)
    genome = vary(toolbox, one, two if crossed else None, rng)
    numbers = (first.number, second.number) if crossed else (first.number,)
    operator: Operator = "crossover" if crossed else "mutation"
    return genome, Lineage(
        operator=operator, parents=numbers, changed=changed_genes(genome, first.candidate.genome)
    )


def _tournament(ranked: Sequence[Trial], size: int, rng: np.random.Generator) -> Trial:
    """Return the best of ``size`` drawn from a list that is ordered best first."""
    return ranked[int(rng.integers(len(ranked), size=size).min())]


def _in_range(trial: Trial, spec: RunSpec) -> Genome:
    """Return a parent's genome within the space; the reference may lie outside."""
    genome = trial.candidate.genome
    return {gene.path: nearest(gene, genome[gene.path]) for gene in spec.space.genes}


def _redrawn(
    toolbox: Any,
    index: int,
    genome: Genome,
    lineage: Lineage,
    taken: set[str],
    state: EvolutionState,
    spec: RunSpec,
) -> tuple[Genome, Lineage, str] | None:
    """Return the proposal, or the first redraw whose digest is new; None if there is none."""
    digest = spec.space.digest(genome)
    for attempt in range(1, REDRAWS + 1):
        if digest not in taken:
            return genome, lineage, digest
        if state.generation == 0:
            rng = stream(spec.seed, "redraw", index, attempt)
            genome = spec.space.decode(rng.random(spec.space.dimensions))
            lineage = Lineage(operator="sobol")
        else:
            genome, lineage = _child(toolbox, state, spec, attempt, index)
        digest = spec.space.digest(genome)
    return (genome, lineage, digest) if digest not in taken else None
