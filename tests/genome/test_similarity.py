from __future__ import annotations

from coral.genome import ChoiceGene, FloatGene, SearchSpace, SubsetGene, similarity


def test_genes_without_a_say_in_the_weights_make_no_difference() -> None:
    genes = (
        ChoiceGene(path="adapter.rank", options=(4, 8)),
        FloatGene(path="inference.temperature", low=0.5, high=4.0),
    )
    space = SearchSpace(genes=genes)
    one = {"adapter.rank": 4, "inference.temperature": 0.5}
    assert similarity(space, one, {**one, "inference.temperature": 4.0}) == 1.0
    assert similarity(space, one, {**one, "adapter.rank": 8}) == 0.0


def test_a_name_for_many_modules_is_one_name_among_subsets() -> None:
    """The default recipe may adapt all linear maps where a gene picks some by name."""
    path = "adapter.target_modules"
    space = SearchSpace(genes=(SubsetGene(path=path, options=("query", "value")),))
    assert similarity(space, {path: "all-linear"}, {path: ("query", "value")}) == 0.0
    assert similarity(space, {path: "all-linear"}, {path: "all-linear"}) == 1.0
    assert similarity(space, {path: ("query",)}, {path: ("query", "value")}) == 0.5
