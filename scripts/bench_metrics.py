"""Time one scoring of 800 predictions over 16 classes: Coral's metrics beside scikit-learn's.

.venv/bin/python scripts/bench_metrics.py
"""

from __future__ import annotations

import timeit

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score

from coral.tasks import score_classification


def main() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(16, size=800)
    probabilities = rng.dirichlet(np.ones(16), size=800)

    def reference() -> None:
        predicted = probabilities.argmax(axis=1)
        roc_auc_score(labels, probabilities, multi_class="ovr")
        accuracy_score(labels, predicted)
        f1_score(labels, predicted, average="macro")
        log_loss(labels, probabilities)

    def own() -> None:
        score_classification(labels, probabilities)

    for name, function in (("scikit-learn", reference), ("coral", own)):
        seconds = min(timeit.repeat(function, number=20, repeat=5)) / 20
        print(f"{name:<12} {1000 * seconds:6.2f} ms")


if __name__ == "__main__":
    main()
