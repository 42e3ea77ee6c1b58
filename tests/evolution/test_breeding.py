from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coral.evolution import EvolutionState, breed
from coral.evolution.recipes import RECIPES
from coral.genome import ChoiceGene, SearchSpace, flag
from coral.plan import TrainingPlan, with_values
from coral.records import Candidate
from coral.settings import RunSpec
from tests.evolution.generations import SPACE, SPEC, live, reached, sized, start

ALIKE = [reached(0.5 + 0.01 * i, 0.6, 0.7) for i in range(8)]


def second_generation(spec: RunSpec = SPEC) -> EvolutionState:
    """A first generation as bred, the reference its best."""
    fates = [reached(0.5, 0.6, 0.9 - 0.01 * i) for i in range(spec.evolution.population_size)]
    return live(start(), *fates, spec=spec, candidates=breed(start(), spec))


def by_operator(candidates: tuple[Candidate, ...]) -> dict[str, int]:
    operators = [candidate.lineage.operator for candidate in candidates]
    return {operator: operators.count(operator) for operator in operators}


def test_the_first_candidate_is_the_default_recipe_even_out_of_range() -> None:
    reference = breed(start(), SPEC)[0]
    assert (reference.number, reference.lineage.operator) == (0, "reference")
    assert reference.genome == {
        "schedule.learning_rate": 2e-4,
        "adapter.rank": 16,
        "curriculum.kind": "none",
        "curriculum.ramp": 0.5,
        "tasks.weights": (0.5, 0.5),
    }
    assert SPEC.plan_of(reference) == SPEC.training


def test_known_good_recipes_follow_cut_to_the_space() -> None:
    recipes = [c for c in breed(start(), SPEC) if c.lineage.operator == "recipe"]
    assert [c.genome for c in recipes] == [
        SPACE.project(with_values(TrainingPlan(), recipe)) for recipe in RECIPES
    ]
    assert [c.genome["adapter.rank"] for c in recipes] == [8, 8]
    for candidate in recipes:
        SPACE.check(candidate.genome)


def test_recipes_of_the_config_come_before_the_known_good_ones() -> None:
    own = {"schedule.learning_rate": 5e-3, "adapter.rank": 3}
    spec = replace(SPEC, evolution=replace(SPEC.evolution, recipes=(own,)))
    first = breed(start(), spec)[1]
    assert first.lineage.operator == "recipe"
    assert (first.genome["schedule.learning_rate"], first.genome["adapter.rank"]) == (5e-3, 3)


def test_a_sobol_design_fills_the_first_generation() -> None:
    candidates = breed(start(), SPEC)
    assert by_operator(candidates) == {"reference": 1, "recipe": 2, "sobol": 5}
    for candidate in candidates[1:]:
        SPACE.check(candidate.genome)


@pytest.mark.parametrize(("size", "known"), [(2, 1), (3, 1), (4, 2), (6, 3), (20, 3)])
def test_recipes_take_at_most_half_of_the_first_generation(size: int, known: int) -> None:
    counts = by_operator(breed(start(), sized(size)))
    assert counts["reference"] + counts.get("recipe", 0) == known
    assert sum(counts.values()) == size


def test_candidates_are_numbered_through_the_run() -> None:
    state = second_generation()
    assert [c.number for c in breed(start(), SPEC)] == list(range(8))
    assert [c.number for c in breed(state, SPEC)] == list(range(8, 16))
    assert {c.generation for c in breed(state, SPEC)} == {1}


@settings(max_examples=10)
@given(st.integers(0, 2**31))
def test_no_digest_of_a_run_is_drawn_twice(seed: int) -> None:
    spec = replace(SPEC, seed=seed)
    state = second_generation(spec)
    state = live(state, *ALIKE, spec=spec, candidates=breed(state, spec))
    digests = [trial.candidate.digest for trial in state.trials]
    digests += [candidate.digest for candidate in breed(state, spec)]
    assert len(set(digests)) == len(digests) == 24


def test_a_candidates_digest_is_its_genomes() -> None:
    for candidate in (*breed(start(), SPEC), *breed(second_generation(), SPEC)):
        assert candidate.digest == SPACE.digest(candidate.genome)


def small(size: int) -> RunSpec:
    """Four genomes in all, the default recipe among them."""
    genes = (ChoiceGene(path="adapter.rank", options=(8, 16)), flag("adapter.rslora"))
    return replace(sized(size), space=SearchSpace(genes=genes))


def test_a_small_space_gives_fewer_candidates_not_the_same_twice() -> None:
    candidates = breed(start(), small(8))
    assert len({candidate.digest for candidate in candidates}) == len(candidates) == 4
    assert [candidate.number for candidate in candidates] == [0, 1, 2, 3]


def test_a_space_that_is_used_up_gives_no_candidates() -> None:
    spec = small(4)
    state = live(start(), *ALIKE[:4], spec=spec, candidates=breed(start(), spec))
    assert breed(state, spec) == ()


def test_a_space_without_genes_breeds_the_reference_alone() -> None:
    spec = replace(SPEC, space=SearchSpace())
    candidates = breed(start(), spec)
    assert [candidate.genome for candidate in candidates] == [{}]
    assert breed(live(start(), ALIKE[0], spec=spec, candidates=candidates), spec) == ()


def test_the_same_state_and_seed_breed_the_same_candidates() -> None:
    state = second_generation()
    assert breed(start(), SPEC) == breed(start(), SPEC)
    assert breed(state, SPEC) == breed(state, SPEC)


def test_another_seed_breeds_other_candidates() -> None:
    other = replace(SPEC, seed=1)
    state = second_generation()
    assert breed(start(), SPEC)[3:] != breed(start(), other)[3:]
    assert breed(state, SPEC) != breed(state, other)


def test_a_generation_breeds_other_children_than_the_one_before_it() -> None:
    state = second_generation()
    later = replace(state, generation=state.generation + 1)
    assert [c.genome for c in breed(state, SPEC)] != [c.genome for c in breed(later, SPEC)]


@settings(max_examples=10)
@given(st.integers(0, 2**31))
def test_children_of_a_parent_out_of_range_are_in_range(seed: int) -> None:
    spec = replace(SPEC, seed=seed, evolution=replace(SPEC.evolution, mutation_rate=0.0))
    state = second_generation(spec)
    assert state.champion == 0
    for child in breed(state, spec):
        SPACE.check(child.genome)


def test_children_have_parents_from_the_population_and_say_what_changed() -> None:
    state = second_generation()
    children = breed(state, SPEC)
    assert set(by_operator(children)) == {"mutation", "crossover"}
    for child in children:
        parents = [state.trials[number].candidate for number in child.lineage.parents]
        assert len(parents) == (2 if child.lineage.operator == "crossover" else 1)
        assert len(set(child.lineage.parents)) == len(parents)
        assert set(child.lineage.parents) <= set(state.population)
        assert set(child.lineage.changed) == {
            path for path in child.genome if child.genome[path] != parents[0].genome[path]
        }


def test_a_child_inherits_the_values_of_inactive_genes_too() -> None:
    spec = replace(SPEC, evolution=replace(SPEC.evolution, mutation_rate=0.0, crossover_rate=0.0))
    state = second_generation(spec)
    dormant = [
        child
        for child in breed(state, spec)
        if child.genome["curriculum.kind"] == "none" and 0 not in child.lineage.parents
    ]
    assert dormant
    for child in dormant:
        (parent,) = (state.trials[number].candidate for number in child.lineage.parents)
        assert child.genome["curriculum.ramp"] == parent.genome["curriculum.ramp"] or (
            parent.genome["curriculum.kind"] == "progressive"
        )
        assert len(child.lineage.changed) == 1


def test_without_crossover_every_child_has_one_parent() -> None:
    spec = replace(SPEC, evolution=replace(SPEC.evolution, crossover_rate=0.0))
    assert by_operator(breed(second_generation(spec), spec)) == {"mutation": 8}


def test_larger_tournaments_favour_better_parents() -> None:
    def mean_rank(size: int) -> float:
        settings = replace(SPEC.evolution, tournament_size=size, crossover_rate=0.0)
        spec = replace(sized(40), evolution=replace(settings, population_size=40))
        state = second_generation(spec)
        ranks = [state.population.index(c.lineage.parents[0]) for c in breed(state, spec)]
        return sum(ranks) / len(ranks)

    assert mean_rank(5) < mean_rank(2) < mean_rank(1)
