"""Measures how well the AUROC on texts alone foretells that on texts with images.

Posts and images are drawn by code, and the model is a tiny Gemma 3 with random weights: the figures
say that the measurement works, and nothing about real posts.

.venv/bin/python scripts/measure_proxy.py --trials 8
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

import coral
from coral.fidelity import proxy_trust
from coral.storage import SqliteRunStore
from coral.stored_run import open_run
from tests.training.vision_models import save_model, write_news

CONFIG = """
base_model: {folder}/model
tasks:
  - name: news
    type: fakenews-gemma3n
    path: {folder}/data/news.csv
    metrics: [auroc, text_only_auroc]
training: {{sequence_len: 16, encoding.pooling: last, batch_size: 8}}
search_space:
  lora_r: {{low: 1, high: 16, log: true}}
  learning_rate: {{low: 3e-4, high: 3e-2, log: true}}
  scaling: {{low: 0.5, high: 4, log: true}}
  layers: [all, top-1]
evolution: {{population_size: {trials}, generations: 1}}
training_stages:
  - {{name: S0, epoch_budget: 0.25, data_percentage: 5, survival_rate: 1}}
  - {{name: S1, epoch_budget: 1, data_percentage: 20, survival_rate: 1}}
  - {{name: S2, epoch_budget: 1.5, data_percentage: 100, survival_rate: 1}}
  - {{name: S3, epoch_budget: 3, data_percentage: 100, survival_rate: 1}}
prune: {{rules: []}}
warm_start: {{mode: none}}
soup: {{candidates: 0}}
squeeze: {{sources: 0}}
confirm: {{top_k: 0}}
cache: {folder}/cache
output_dir: {folder}/run
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--posts", type=int, default=240)
    parser.add_argument("--telling", type=float, default=0.5, help="share of telling texts")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder / "model")
        write_news(folder / "data", arguments.posts, telling=arguments.telling)
        config = folder / "news.yaml"
        config.write_text(CONFIG.format(folder=folder, trials=arguments.trials))
        facts = coral.evolve(config)
        with SqliteRunStore.read_only(folder / "run") as store:
            run = open_run(folder / "run", store)
            stages = run.spec.training_stages
            measured = proxy_trust(
                run.state().trials, {"news.text_only_auroc": "news.auroc"}, len(stages) - 1
            )
    table = Table("stage", "text_only_auroc", "auroc itself", "trials", box=None)
    itself = {trust["stage"]: trust["kendall_tau"] for trust in facts["audit"]["stage_trust"]}
    for trust in measured:
        name = stages[trust.stage].name
        own = itself.get(name)
        cells = (
            "–" if tau is None or math.isnan(tau) else f"{tau:.2f}" for tau in (trust.tau, own)
        )
        table.add_row(name, *cells, str(trust.trials))
    console = Console()
    console.print("Kendall's tau with auroc at the last stage")
    console.print(table)


if __name__ == "__main__":
    main()
