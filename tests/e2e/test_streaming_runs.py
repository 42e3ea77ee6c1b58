"""An evolution on data that stream: other workers and a kill change nothing."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tests.e2e.test_real_runs import coral, kill_after, trials
from tests.tiny import CONFIG, write_project

COLOURS = ("red", "green", "blue")
TASK = """
  - name: colours
    type: text-classification
    path: rows.jsonl
    streaming: true
    train_examples: 192
    validation_examples: 60
    test_examples: 60
    shuffle_buffer: 50
"""


def write_rows(path: Path) -> None:
    draw = random.Random(0)
    rows = []
    for number in range(1500):
        words = [f"w{draw.randrange(9)}" for _ in range(draw.randint(4, 9))]
        words.insert(draw.randrange(len(words)), COLOURS[number % 3])
        rows.append({"text": " ".join(words), "label": COLOURS[number % 3]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_killed_run_on_a_stream_ends_as_an_uninterrupted_one_on_other_workers(
    tmp_path: Path,
) -> None:
    config = write_project(tmp_path)
    write_rows(tmp_path / "rows.jsonl")
    streaming = CONFIG.replace("[colours]", TASK, 1).replace("generations: 2", "generations: 1")
    config.write_text(streaming + "confirm: {top_k: 0}\n")

    finished = coral(tmp_path, "evolve", "toy.yaml", "execution.workers=1")
    assert finished.returncode == 0, finished.stderr
    best = max(
        o["metrics"]["auroc"] for t in json.loads(trials(tmp_path, "run")) for o in t["outcomes"]
    )
    assert best > 0.8

    kill_after(tmp_path, "killed", events=4, cache="cache-killed")
    resumed = coral(tmp_path, "resume", "killed", cache="cache-killed")
    assert resumed.returncode == 0, resumed.stderr
    assert trials(tmp_path, "killed") == trials(tmp_path, "run")
