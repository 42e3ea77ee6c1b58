"""Variation: Sobol designs, mutation and crossover of genomes, each with an injected generator."""

from __future__ import annotations

import numpy as np

from coral.genome.sobol import sobol_points
from coral.genome.space import Genome, SearchSpace
from coral.records import GeneValue


def sobol_design(space: SearchSpace, count: int, seed: int) -> list[Genome]:
    """Return ``count`` genomes that fill the space evenly; see ``sobol_points``."""
    points = sobol_points(max(0, count), space.dimensions, seed)
    return [space.decode(point) for point in points]


def mutate(
    space: SearchSpace, genome: Genome, rate: float, strength: float, rng: np.random.Generator
) -> Genome:
    """Mutate each active gene with probability ``rate``, and one at least if any is active.

    Args:
        rate: probability for each gene.
        strength: standard deviation of a step, as a share of a gene's range.
    """
    active = space.active(genome)
    candidates = [gene for gene in space.genes if gene.path in active]
    chosen = [gene for gene in candidates if rng.random() < rate]
    if candidates and not chosen:
        chosen = [candidates[int(rng.integers(len(candidates)))]]
    mutated = dict(genome)
    for gene in chosen:
        mutated[gene.path] = gene.mutate(genome[gene.path], strength, rng)
    return mutated


def mate(
    space: SearchSpace, first: Genome, second: Genome, rng: np.random.Generator
) -> tuple[Genome, Genome]:
    """Exchange blocks of linked genes between two parents, each with probability one half.

    Source: uniform crossover (Syswerda 1989), over blocks.
    """
    one, two = dict(first), dict(second)
    for block in space.blocks():
        if rng.random() < 0.5:
            for path in block:
                one[path], two[path] = second[path], first[path]
    return one, two


def changed_genes(genome: Genome, parent: Genome) -> tuple[str, ...]:
    """Return the paths whose values differ from the parent's."""
    differing: list[str] = [
        path for path, value in genome.items() if not _same(value, parent[path])
    ]
    return tuple(differing)


def _same(one: GeneValue, two: GeneValue) -> bool:
    return type(one) is type(two) and one == two
