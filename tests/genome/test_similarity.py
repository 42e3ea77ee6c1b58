from __future__ import annotations

from coral.genome import ChoiceGene, FloatGene, SearchSpace, similarity


def test_genes_without_a_say_in_the_weights_make_no_difference() -> None:
    genes = (
        ChoiceGene(path="adapter.rank", options=(4, 8)),
        FloatGene(path="inference.temperature", low=0.5, high=4.0),
    )
    space = SearchSpace(genes=genes)
    one = {"adapter.rank": 4, "inference.temperature": 0.5}
    assert similarity(space, one, {**one, "inference.temperature": 4.0}) == 1.0
    assert similarity(space, one, {**one, "adapter.rank": 8}) == 0.0
