"""Time LoRA's forward and backward pass over one frozen map: PEFT's way and laid flat, one thread.

.venv/bin/python scripts/bench_thin.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.table import Table
from torch import nn

from coral.training.thin import lay_flat

MAPS = ((384, 384), (384, 1536), (1536, 384))
RANKS = (4, 8, 32)
TOKENS = (96, 480)
ROUNDS, PASSES = 15, 5


def adapted_map(inputs: int, outputs: int, rank: int) -> Any:
    """Return a frozen linear map under PEFT's LoRA."""
    torch.manual_seed(0)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=["0"], init_lora_weights=False)
    made: Any = get_peft_model(nn.Sequential(nn.Linear(inputs, outputs)), config)  # type: ignore[arg-type]
    return made.base_model.model[0]


def one_pass(layer: Any, tokens: int) -> Callable[[], None]:
    """Return a forward and backward pass over random tokens."""
    base = layer.get_base_layer()
    x = torch.randn(tokens, base.in_features, requires_grad=True)
    gradient = torch.randn(tokens, base.out_features)
    wanted = [x, layer.lora_A["default"].weight, layer.lora_B["default"].weight]
    return lambda: torch.autograd.grad(layer(x), wanted, gradient) and None


def fastest(passes: list[Callable[[], None]]) -> list[float]:
    """Return each one's best mean time in ms; they take turns."""
    best = [float("inf")] * len(passes)
    for _ in range(ROUNDS):
        for i, run in enumerate(passes):
            started = time.perf_counter()
            for _ in range(PASSES):
                run()
            best[i] = min(best[i], 1000 * (time.perf_counter() - started) / PASSES)
    return best


def main() -> None:
    torch.set_num_threads(1)
    table = Table("map", "rank", "tokens", box=None)
    for title in ("PEFT, ms", "flat, ms", "of PEFT"):
        table.add_column(title, justify="right")
    for (inputs, outputs), rank, tokens in product(MAPS, RANKS, TOKENS):
        peft, flat = (adapted_map(inputs, outputs, rank) for _ in range(2))
        lay_flat([flat], "default")
        slow, fast = fastest([one_pass(peft, tokens), one_pass(flat, tokens)])
        shape = f"{inputs} to {outputs}"
        shares = (f"{slow:.2f}", f"{fast:.2f}", f"{fast / slow:.0%}")
        table.add_row(shape, str(rank), str(tokens), *shares)
    Console().print(table)


if __name__ == "__main__":
    main()
