"""Small adapters, hard examples and fresh blood: one strategy of every kind."""

from .strategies import (
    AurocPerMillion,
    hard_first,
    long_texts_often,
    rare_and_long,
    youngest,
)

__version__ = "0.3"

CURRICULA = {"hard_first": hard_first}
SAMPLERS = {"long_texts_often": long_texts_often}
LOSS_WEIGHTINGS = {"rare_and_long": rare_and_long}
SELECTIONS = {"youngest": youngest}
OBJECTIVES = {"auroc_per_million": AurocPerMillion()}
