"""A tiny real encoder, a toy task plugin and a config: everything for a real run in seconds."""

from __future__ import annotations

from pathlib import Path

from tests.training.models import save_model

PLUGIN = '''
"""A toy task: the colour word tells the label."""

from dataclasses import dataclass

import numpy as np

from coral.ports import Examples, TaskData
from coral.rng import stream
from coral.tasks import CLASSIFICATION_METRICS, score_classification

COLOURS = ("red", "green", "blue")
REST = tuple(f"w{number}" for number in range(9))


@dataclass(frozen=True)
class Colours:
    name: str = "colours"
    primary_metric: str = "auroc"
    train_examples: int = 192

    @property
    def metrics(self):
        return CLASSIFICATION_METRICS

    def load(self, context):
        return TaskData(
            train=draw("train", self.train_examples),
            validation=draw("validation", 90),
            test=draw("test", 90),
            label_names=COLOURS,
        )

    def score(self, labels, probabilities):
        return score_classification(labels, probabilities)


def draw(split, count):
    rng = stream(0, "colours", split)
    labels = rng.permutation(np.arange(count) % 3)
    texts = []
    for label in labels:
        words = list(rng.choice(REST, size=int(rng.integers(3, 9))))
        words.insert(int(rng.integers(len(words))), COLOURS[label])
        texts.append(" ".join(words))
    return Examples(texts=tuple(texts), labels=labels.astype(np.int64))


TASKS = {"colours": Colours}
'''

CONFIG = """
base_model: ./model
tasks: [colours]
training: {sequence_len: 16, learning_rate: 1e-2, adapter.dropout: 0.1}
search_space:
  lora_r: {low: 1, high: 8, log: true}
  learning_rate: {low: 1e-3, high: 3e-2, log: true}
  layers: [all, top-1]
  batch_size: [8, 16]
evolution: {population_size: 4, generations: 2}
training_stages:
  - {name: short, epoch_budget: 0.5, data_percentage: 50, survival_rate: 0.5}
  - {name: long, epoch_budget: 2.0, data_percentage: 100, survival_rate: 0.5}
prune: {rules: [], audit_fraction: 0.3}
execution: {workers: 2, pack: 1}
output_dir: run
"""


def write_project(folder: Path) -> Path:
    """Write model, plugin and config into ``folder``; return the config's path."""
    save_model(folder / "model")
    plugin = folder / "plugins" / "toy"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").write_text(PLUGIN)
    config = folder / "toy.yaml"
    config.write_text(CONFIG)
    return config
