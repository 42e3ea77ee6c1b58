"""The search space: genes, what is linked, and the way from a genome to a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coral.errors import GenomeError
from coral.genome.genes import Gene, SimplexGene, nearest
from coral.plan import TrainingPlan, digest_of, is_trained, value_at, with_values
from coral.records import GeneValue

Genome = Mapping[str, GeneValue]

LINKED = (("schedule.learning_rate", "adapter.scaling", "schedule.batch_size"),)
"""Genes that only work together: the best learning rate moves with scaling and batch size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """The genes, over a base plan that fixes every other field.

    Attributes:
        base: plan with the fixed fields.
        genes: in a stable order.
        linked: groups of gene paths that crossover keeps together.
    """

    base: TrainingPlan = field(default_factory=TrainingPlan)
    genes: tuple[Gene, ...] = ()
    linked: tuple[tuple[str, ...], ...] = LINKED

    def __post_init__(self) -> None:
        paths = [gene.path for gene in self.genes]
        if len(set(paths)) != len(paths):
            raise GenomeError(f"each field is searched by one gene, got {', '.join(paths)}")

    @property
    def dimensions(self) -> int:
        return sum(gene.dimensions for gene in self.genes)

    @property
    def shares_weights(self) -> bool:
        """Whether genomes can differ and have the same weights."""
        return any(not is_trained(gene.path) for gene in self.genes)

    @property
    def abstains(self) -> bool:
        """Whether a genome may leave examples without an answer."""
        return bool(self.base.inference.abstention) or any(
            gene.path == "inference.abstention" for gene in self.genes
        )

    def blocks(self) -> list[tuple[str, ...]]:
        """Return the gene paths in blocks that are inherited whole."""
        paths = [gene.path for gene in self.genes]
        blocks = [tuple(path for path in group if path in paths) for group in self.linked]
        together = {path for block in blocks for path in block}
        return [block for block in blocks if block] + [(p,) for p in paths if p not in together]

    def decode(self, point: NDArray[np.float64]) -> Genome:
        """Return the genome at a point of the unit cube, ``(dimensions,)``."""
        genome: dict[str, GeneValue] = {}
        start = 0
        for gene in self.genes:
            genome[gene.path] = gene.decode(point[start : start + gene.dimensions])
            start += gene.dimensions
        return genome

    def project(self, plan: TrainingPlan) -> Genome:
        """Return the genome closest to ``plan``."""
        values = self.values_of(plan)
        return {gene.path: nearest(gene, values[gene.path]) for gene in self.genes}

    def values_of(self, plan: TrainingPlan) -> Genome:
        """Return the values of ``plan`` at the gene paths, in range or not."""
        return {gene.path: self._gene_value(gene, plan) for gene in self.genes}

    @staticmethod
    def _gene_value(gene: Gene, plan: TrainingPlan) -> GeneValue:
        value = value_at(plan, gene.path)
        if isinstance(gene, SimplexGene):
            if not value:
                return nearest(gene, ())  # no weights at all mean equal shares
            return tuple(float(value.get(name, 0.0)) for name in gene.names)
        checked: GeneValue = value
        return checked

    def active(self, genome: Genome) -> Genome:
        """Return the genes that have an effect, given the values of the others."""
        return {
            gene.path: genome[gene.path] for gene in self.genes if self._is_active(gene, genome)
        }

    def _is_active(self, gene: Gene, genome: Genome) -> bool:
        if gene.when is None:
            return True
        path = gene.when.path
        value = genome[path] if path in genome else value_at(self.base, path)
        return value in gene.when.values

    def digest(self, genome: Genome) -> str:
        """Return the SHA-256 of the active genes' canonical JSON."""
        return digest_of(dict(self.active(genome)))

    def check(self, genome: Genome) -> None:
        """Check a genome against the genes.

        Raises:
            GenomeError: a gene is missing, unknown or out of range.
        """
        expected = {gene.path for gene in self.genes}
        if set(genome) != expected:
            raise GenomeError(
                f"a genome of this space has {', '.join(sorted(expected))}; got"
                f" {', '.join(sorted(genome))}"
            )
        for gene in self.genes:
            gene.check(genome[gene.path])

    def express(self, genome: Genome) -> TrainingPlan:
        """Return the plan that a genome stands for; inactive genes leave the base's value.

        Raises:
            GenomeError: the genome does not fit the space.
            PlanError: the plan breaks an invariant.
        """
        self.check(genome)
        active = self.active(genome)
        return with_values(
            self.base,
            {
                gene.path: self._field_value(gene, active[gene.path])
                for gene in self.genes
                if gene.path in active
            },
        )

    def field_of(self, genome: Genome, path: str) -> Any:
        """Return what ``express`` puts at a plan's dotted path, without making the plan."""
        gene = next((gene for gene in self.genes if gene.path == path), None)
        if gene is None or not self._is_active(gene, genome):
            return value_at(self.base, path)
        return self._field_value(gene, genome[path])

    @staticmethod
    def _field_value(gene: Gene, value: GeneValue) -> GeneValue | dict[str, float]:
        if isinstance(gene, SimplexGene):
            assert isinstance(value, tuple)
            return dict(zip(gene.names, map(float, value), strict=True))
        return value
