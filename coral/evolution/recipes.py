"""Known-good recipes that generation 0 starts from, besides the default one.

The search space cuts them to its ranges.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RECIPES: tuple[Mapping[str, Any], ...] = (
    # Small encoders: the best validation AUROC came from 2e-3 to 6e-3 at scaling 0.5 to 5.
    {
        "adapter.rank": 8,
        "adapter.scaling": 1.0,
        "adapter.dropout": 0.0,
        "schedule.learning_rate": 3e-3,
        "schedule.head_lr_multiplier": 3.0,
        "schedule.batch_size": 16,
    },
    # Ten times the usual full fine-tuning rate (Schulman et al. 2025, "LoRA Without Regret").
    {
        "adapter.rank": 16,
        "adapter.scaling": 2.0,
        "schedule.learning_rate": 1e-3,
        "schedule.head_lr_multiplier": 5.0,
        "schedule.batch_size": 16,
    },
)
