"""Genomes: which fields of the plan are searched, and how they vary."""

from coral.genome.genes import (
    ChoiceGene,
    Condition,
    FloatGene,
    Gene,
    IntGene,
    SimplexGene,
    SubsetGene,
    extremes,
    flag,
    nearest,
)
from coral.genome.similarity import similarity
from coral.genome.space import Genome, SearchSpace
from coral.genome.variation import changed_genes, mate, mutate, sobol_design

__all__ = [
    "ChoiceGene",
    "Condition",
    "FloatGene",
    "Gene",
    "Genome",
    "IntGene",
    "SearchSpace",
    "SimplexGene",
    "SubsetGene",
    "changed_genes",
    "extremes",
    "flag",
    "mate",
    "mutate",
    "nearest",
    "similarity",
    "sobol_design",
]
