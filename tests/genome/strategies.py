"""Hypothesis strategies for genes, and a search space that holds one of every kind."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from coral.genome import (
    ChoiceGene,
    Condition,
    FloatGene,
    Gene,
    IntGene,
    SearchSpace,
    SimplexGene,
    SubsetGene,
    flag,
)
from coral.records import GeneValue

NAMES = ("query", "key", "value", "dense", "gate")

seeds = st.integers(0, 2**32 - 1)
strengths = st.floats(0.001, 2)


@st.composite
def float_genes(draw: st.DrawFn) -> FloatGene:
    log = draw(st.booleans())
    low = draw(st.floats(1e-6, 1e3) if log else st.floats(-1e3, 1e3))
    width = draw(st.floats(1e-3, 1e4))
    return FloatGene(path="schedule.learning_rate", low=low, high=low + width, log=log)


@st.composite
def int_genes(draw: st.DrawFn) -> IntGene:
    log = draw(st.booleans())
    low = draw(st.integers(1 if log else -50, 60))
    return IntGene(path="adapter.rank", low=low, high=low + draw(st.integers(1, 300)), log=log)


schedulers: st.SearchStrategy[GeneValue] = st.sampled_from(
    ["linear", "cosine", "constant", 1, 2.5, False]
)
choice_genes = st.lists(schedulers, min_size=2, unique=True).map(
    lambda options: ChoiceGene(path="schedule.scheduler", options=tuple(options))
)


@st.composite
def subset_genes(draw: st.DrawFn) -> SubsetGene:
    options = draw(st.lists(st.sampled_from(NAMES), min_size=2, unique=True))
    least = draw(st.integers(1, len(options) - 1))
    return SubsetGene(path="adapter.target_modules", options=tuple(options), least=least)


@st.composite
def simplex_genes(draw: st.DrawFn) -> SimplexGene:
    names = draw(st.lists(st.sampled_from(NAMES), min_size=2, unique=True))
    floor = draw(st.floats(0, 0.9)) / len(names)
    return SimplexGene(path="tasks.weights", names=tuple(names), floor=floor)


genes: st.SearchStrategy[Gene] = st.one_of(
    float_genes(), int_genes(), choice_genes, subset_genes(), simplex_genes()
)


@st.composite
def points(draw: st.DrawFn, dimensions: int) -> NDArray[np.float64]:
    """A point of the closed unit cube, its corners likely."""
    coordinates = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))
    return np.array([draw(coordinates) for _ in range(dimensions)])


PROGRESSIVE = Condition(path="curriculum.kind", values=("progressive",))

SPACE = SearchSpace(
    genes=(
        FloatGene(path="schedule.learning_rate", low=1e-4, high=1e-2, log=True),
        FloatGene(path="adapter.scaling", low=0.5, high=4.0),
        IntGene(path="adapter.rank", low=2, high=32, log=True),
        ChoiceGene(path="schedule.batch_size", options=(8, 16, 32)),
        SubsetGene(path="adapter.target_modules", options=("query", "value", "dense")),
        SimplexGene(path="tasks.weights", names=("origin", "kind")),
        flag("adapter.rslora"),
        ChoiceGene(path="curriculum.kind", options=("none", "progressive")),
        FloatGene(path="curriculum.ramp", low=0.1, high=0.9, when=PROGRESSIVE),
    )
)

genomes = points(SPACE.dimensions).map(SPACE.decode)
