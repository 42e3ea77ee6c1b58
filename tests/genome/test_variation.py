from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coral.genome import (
    FloatGene,
    Genome,
    SearchSpace,
    changed_genes,
    mate,
    mutate,
    sobol_design,
)
from tests.genome.strategies import SPACE, genomes, seeds

CUBE = SearchSpace(
    genes=(
        FloatGene(path="adapter.dropout", low=0, high=1),
        FloatGene(path="schedule.warmup_ratio", low=0, high=1),
        FloatGene(path="curriculum.ramp", low=0, high=1),
    )
)


@given(genomes, seeds, st.floats(0, 1), st.floats(0.01, 1))
def test_a_mutated_genome_stays_in_the_space(
    genome: Genome, seed: int, rate: float, strength: float
) -> None:
    SPACE.check(mutate(SPACE, genome, rate, strength, np.random.default_rng(seed)))


@given(genomes, seeds)
def test_a_rate_of_zero_still_mutates_one_active_gene(genome: Genome, seed: int) -> None:
    mutated = mutate(SPACE, genome, 0.0, 0.3, np.random.default_rng(seed))
    changed = changed_genes(mutated, genome)
    assert len(changed) <= 1  # a step of a float may round away
    assert set(changed) <= set(SPACE.active(genome))


def test_a_rate_of_one_mutates_every_active_gene() -> None:
    genome = SPACE.decode(np.full(SPACE.dimensions, 0.3))
    mutated = mutate(SPACE, genome, 1.0, 0.2, np.random.default_rng(0))
    assert set(changed_genes(mutated, genome)) == set(SPACE.active(genome))
    assert "curriculum.ramp" not in SPACE.active(genome)


def test_a_space_whose_genes_are_all_inactive_has_nothing_to_mutate() -> None:
    ramp = next(gene for gene in SPACE.genes if gene.path == "curriculum.ramp")
    space = SearchSpace(genes=(ramp,))
    genome = {"curriculum.ramp": 0.5}
    assert mutate(space, genome, 1.0, 0.2, np.random.default_rng(0)) == genome


def test_genes_mutate_about_as_often_as_the_rate_says() -> None:
    genome = CUBE.decode(np.full(3, 0.5))
    rng = np.random.default_rng(0)
    counts = [len(changed_genes(mutate(CUBE, genome, 0.5, 0.1, rng), genome)) for _ in range(400)]
    # Binomial(3, 1/2), its zeros made ones: a mean of 1.5 + 1/8.
    assert np.mean(counts) == pytest.approx(1.625, abs=0.12)


def test_mutation_leaves_its_parent_alone() -> None:
    genome = SPACE.decode(np.full(SPACE.dimensions, 0.3))
    before = dict(genome)
    mutate(SPACE, genome, 1.0, 0.5, np.random.default_rng(0))
    assert genome == before


@given(genomes, genomes, seeds)
def test_crossover_hands_every_value_of_both_parents_on(
    first: Genome, second: Genome, seed: int
) -> None:
    one, two = mate(SPACE, first, second, np.random.default_rng(seed))
    for path in first:
        assert (one[path], two[path]) in [
            (first[path], second[path]),
            (second[path], first[path]),
        ]


@given(seeds)
def test_linked_genes_stay_together_in_crossover(seed: int) -> None:
    first, second = (SPACE.decode(np.full(SPACE.dimensions, u)) for u in (0.2, 0.9))
    child, _ = mate(SPACE, first, second, np.random.default_rng(seed))
    linked = ("schedule.learning_rate", "adapter.scaling", "schedule.batch_size")
    origins = {child[path] == first[path] for path in linked}
    assert len(origins) == 1


def test_crossover_mixes_blocks_of_both_parents() -> None:
    first, second = (SPACE.decode(np.full(SPACE.dimensions, u)) for u in (0.2, 0.9))
    rng = np.random.default_rng(0)
    children = [mate(SPACE, first, second, rng)[0] for _ in range(40)]
    for path in ("schedule.learning_rate", "adapter.rank", "adapter.rslora"):
        assert {child[path] for child in children} == {first[path], second[path]}


@given(genomes, genomes, seeds)
def test_the_same_generator_makes_the_same_child(first: Genome, second: Genome, seed: int) -> None:
    def child() -> Genome:
        rng = np.random.default_rng(seed)
        return mutate(SPACE, mate(SPACE, first, second, rng)[0], 0.3, 0.2, rng)

    assert child() == child()


def test_variation_leaves_the_global_generators_alone() -> None:
    def draws() -> tuple[float, float]:
        return random.random(), np.random.random()

    random.seed(5)
    np.random.seed(5)
    expected = draws()
    random.seed(5)
    np.random.seed(5)
    rng = np.random.default_rng(0)
    first, second = sobol_design(SPACE, 2, seed=3)
    mutate(SPACE, mate(SPACE, first, second, rng)[0], 0.5, 0.2, rng)
    assert draws() == expected


@given(seeds, st.sampled_from([2, 4, 8, 16, 32]))
def test_a_sobol_design_puts_half_of_its_points_in_each_half_of_each_axis(
    seed: int, count: int
) -> None:
    design = sobol_design(CUBE, count, seed)
    for gene in CUBE.genes:
        values = np.array([genome[gene.path] for genome in design])
        assert np.count_nonzero(values < 0.5) == count // 2


def test_a_sobol_design_follows_its_seed() -> None:
    assert sobol_design(SPACE, 5, seed=1) == sobol_design(SPACE, 5, seed=1)
    assert sobol_design(SPACE, 5, seed=1) != sobol_design(SPACE, 5, seed=2)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [0, 1, 3, 6])
def test_a_sobol_design_has_any_size(count: int) -> None:
    design = sobol_design(SPACE, count, seed=0)
    assert len(design) == count
    for genome in design:
        SPACE.check(genome)


def test_a_changed_gene_is_one_whose_value_or_type_differs() -> None:
    parent = {"adapter.rank": 8, "adapter.dropout": 0.0, "adapter.rslora": True}
    child = {"adapter.rank": 16, "adapter.dropout": 0.0, "adapter.rslora": 1}
    assert changed_genes(child, parent) == ("adapter.rank", "adapter.rslora")
