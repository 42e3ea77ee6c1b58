from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coral.errors import GenomeError
from coral.genome import FloatGene, Genome, SearchSpace
from coral.plan import TrainingPlan, plan_paths, value_at, with_values
from tests.genome.strategies import SPACE, genomes

IN_ANOTHER_PROCESS = """
import numpy as np
from tests.genome.strategies import SPACE
print(SPACE.digest(SPACE.decode(np.linspace(0.1, 0.9, SPACE.dimensions))))
"""

ranges = {
    "adapter.rank": st.integers(1, 500),
    "adapter.scaling": st.floats(0.01, 100),
    "adapter.target_modules": st.sampled_from(
        ["all-linear", "query", ("dense",), ("key",), ("dense", "query")]
    ),
    "schedule.learning_rate": st.floats(1e-8, 1),
    "schedule.batch_size": st.integers(1, 500),
    "curriculum.kind": st.sampled_from(["none", "progressive"]),
    "curriculum.ramp": st.floats(0, 1),
    "tasks.weights": st.sampled_from([{}, {"origin": 1.0}, {"kind": 0.3, "origin": 0.7}]),
}


def with_kind(genome: Genome, kind: str, ramp: float) -> Genome:
    return {**genome, "curriculum.kind": kind, "curriculum.ramp": ramp}


@given(genomes)
def test_a_plan_says_what_its_active_genes_say_and_the_base_the_rest(genome: Genome) -> None:
    plan, active = SPACE.express(genome), SPACE.active(genome)
    for path in plan_paths():
        if path == "tasks.weights":
            weights = genome["tasks.weights"]
            assert list(value_at(plan, path)) == ["origin", "kind"]
            assert tuple(value_at(plan, path).values()) == weights
        else:
            assert value_at(plan, path) == active.get(path, value_at(SPACE.base, path))


@given(genomes)
def test_a_single_field_is_that_of_the_plan(genome: Genome) -> None:
    plan = SPACE.express(genome)
    for path in plan_paths():
        assert SPACE.field_of(genome, path) == value_at(plan, path)


@given(genomes)
def test_an_inactive_gene_leaves_the_base_its_value(genome: Genome) -> None:
    plan = SPACE.express(with_kind(genome, "none", 0.9))
    assert plan.curriculum.ramp == SPACE.base.curriculum.ramp
    assert SPACE.express(with_kind(genome, "progressive", 0.9)).curriculum.ramp == 0.9


@given(genomes)
def test_an_inactive_gene_has_no_part_in_the_digest(genome: Genome) -> None:
    one, two = (SPACE.digest(with_kind(genome, "none", ramp)) for ramp in (0.2, 0.8))
    assert one == two
    one, two = (SPACE.digest(with_kind(genome, "progressive", ramp)) for ramp in (0.2, 0.8))
    assert one != two


@given(genomes, genomes)
def test_genomes_have_equal_digests_only_if_their_plans_are_equal(one: Genome, two: Genome) -> None:
    assert (SPACE.digest(one) == SPACE.digest(two)) == (SPACE.express(one) == SPACE.express(two))


def test_a_condition_may_hang_on_a_fixed_field() -> None:
    ramp = next(gene for gene in SPACE.genes if gene.path == "curriculum.ramp")
    fixed = SearchSpace(genes=(ramp,))
    assert fixed.active({"curriculum.ramp": 0.4}) == {}
    base = with_values(TrainingPlan(), {"curriculum.kind": "progressive"})
    assert replace(fixed, base=base).active({"curriculum.ramp": 0.4}) == {"curriculum.ramp": 0.4}


def test_a_digest_does_not_depend_on_the_order_of_the_genes() -> None:
    genome = SPACE.decode(np.full(SPACE.dimensions, 0.3))
    backwards = replace(SPACE, genes=SPACE.genes[::-1])
    assert backwards.digest(
        {path: genome[path] for path in reversed(list(genome))}
    ) == SPACE.digest(genome)


def test_a_digest_is_the_same_in_another_process_with_another_hash_seed() -> None:
    here = SPACE.digest(SPACE.decode(np.linspace(0.1, 0.9, SPACE.dimensions)))
    root = str(Path(__file__).parents[2])
    told = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS],
        env={
            **os.environ,
            "PYTHONHASHSEED": "1",
            "PYTHONPATH": os.pathsep.join([root, *sys.path]),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == here


@given(st.fixed_dictionaries({}, optional=ranges))
def test_projecting_puts_any_plan_in_range(values: dict[str, object]) -> None:
    SPACE.check(SPACE.project(with_values(SPACE.base, values)))


@given(genomes)
def test_a_plan_of_the_space_projects_to_the_same_plan(genome: Genome) -> None:
    plan = SPACE.express(genome)
    assert SPACE.express(SPACE.project(plan)) == plan


def test_the_values_of_a_plan_may_lie_out_of_range() -> None:
    plan = with_values(SPACE.base, {"adapter.rank": 500, "tasks.weights": {"kind": 1.0}})
    values = SPACE.values_of(plan)
    assert values["adapter.rank"] == 500
    assert values["tasks.weights"] == (0.0, 1.0)
    with pytest.raises(GenomeError):
        SPACE.check(values)


def test_no_task_weights_at_all_are_equal_shares() -> None:
    assert SPACE.values_of(SPACE.base)["tasks.weights"] == (0.5, 0.5)


def test_linked_genes_share_a_block_and_the_others_have_their_own() -> None:
    blocks = SPACE.blocks()
    assert blocks[0] == ("schedule.learning_rate", "adapter.scaling", "schedule.batch_size")
    assert sorted(path for block in blocks for path in block) == sorted(
        gene.path for gene in SPACE.genes
    )
    assert {len(block) for block in blocks[1:]} == {1}


def test_a_link_to_a_field_that_is_not_searched_is_passed_over() -> None:
    space = SearchSpace(genes=(FloatGene(path="adapter.scaling", low=1, high=2),))
    assert space.blocks() == [("adapter.scaling",)]


def test_a_genome_that_lacks_a_gene_is_refused() -> None:
    genome = dict(SPACE.decode(np.full(SPACE.dimensions, 0.5)))
    del genome["adapter.rank"]
    with pytest.raises(GenomeError, match=r"a genome of this space has adapter\.rank"):
        SPACE.express(genome)


def test_a_genome_out_of_range_is_not_expressed() -> None:
    genome = {**SPACE.decode(np.full(SPACE.dimensions, 0.5)), "adapter.rank": 33}
    with pytest.raises(GenomeError, match=r"adapter\.rank must be a whole number in \[2, 32\]"):
        SPACE.express(genome)


def test_two_genes_for_one_field_are_refused() -> None:
    gene = FloatGene(path="adapter.scaling", low=1, high=2)
    with pytest.raises(GenomeError, match="each field is searched by one gene"):
        SearchSpace(genes=(gene, gene))
