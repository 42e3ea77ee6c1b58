"""How alike two genomes are."""

from __future__ import annotations

from typing import Any

from coral.genome.genes import FloatGene, Gene, IntGene, SimplexGene, SubsetGene
from coral.genome.space import Genome, SearchSpace
from coral.plan import is_trained
from coral.records import GeneValue


def similarity(space: SearchSpace, one: Genome, two: Genome) -> float:
    """Return one minus the mean distance of the genes that are active in both genomes.

    Genes without a say in the weights make no difference.
    Numbers differ by their distance on the gene's scale, as a share of its range; subsets by the
    share of names that only one has, where a name for many, such as the default recipe's
    ``all-linear``, is one name; shares on a simplex by what would have to move; everything else by
    0 or 1. Two genomes that share no active gene are alike.

    Source: Gower 1971.
    """
    shared = space.active(one).keys() & space.active(two).keys()
    distances = [
        _distance(gene, one[gene.path], two[gene.path])
        for gene in space.genes
        if gene.path in shared and is_trained(gene.path)
    ]
    return 1.0 - sum(distances) / len(distances) if distances else 1.0


def _distance(gene: Gene, one: GeneValue, two: GeneValue) -> float:
    match gene:
        case FloatGene() | IntGene():
            return min(1.0, abs(gene.encode(one) - gene.encode(two)))
        case SubsetGene():
            names, others = set(_members(one)), set(_members(two))
            return len(names ^ others) / len(names | others)
        case SimplexGene():
            shares = zip(_members(one), _members(two), strict=True)
            return sum(abs(float(a) - float(b)) for a, b in shares) / 2
        case _:
            return float(one != two)


def _members(value: GeneValue) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
