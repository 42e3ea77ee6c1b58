"""A trainer that plays a script: real outcomes in no time, and every way to fail.

It obeys the ``Trainer`` protocol without a model, for tests of executors and of whole evolutions.
What a plan earns follows from the plan alone, so an evolution on it has something to find: the best
learning rate is 1e-3, more rank helps less and less, and later stages do better. Inherited weights
count as training already done, and a soup is better than its members.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from coral.errors import ModelError
from coral.fidelity import CURVE_PROXIES, ladder_steps
from coral.plan import TrainingPlan, adapted_modules, digest_of
from coral.ports import LinearModule, Progress, Survey, TaskSurvey, TrainingJob
from coral.records import (
    Cost,
    Curve,
    Failure,
    Inheritance,
    Interval,
    Outcome,
    TestScore,
    weights_of,
)

BEST_LEARNING_RATE = 1e-3
TRAIN_EXAMPLES = 400
_TASKS = {"origin": 0.90, "kind": 0.96}
_DEPTH = 2
_WIDTH = 64
_MODULES = tuple(
    LinearModule(name=f"layer.{layer}.{name}", layer=layer, in_features=_WIDTH, out_features=_WIDTH)
    for layer in range(_DEPTH)
    for name in ("query", "value", "dense")
)
_MODEL_BYTES = 1 << 20


def scripted_trainer(
    payload: Mapping[str, Any], device: str, report: Callable[[Progress], None]
) -> ScriptedTrainer:
    """Build a ``ScriptedTrainer``, as a worker does.

    Args:
        payload: plain values, all optional.

            * ``refuse``: a message; the trainer can't be built, with a ModelError that says so.
            * ``kill_builds``: a file; each build appends a byte, then dies of SIGKILL.
            * ``seconds``: how long each job takes.
            * ``slots``: how many jobs it says to train side by side.
            * ``journal``: a file; each attempt appends a JSON line with ``trial``, ``stage``,
              ``attempt``, ``device``, ``pid`` and ``pack``, the number of jobs given at once.
            * ``trials``: trial number (as text) to what happens in it, one of ``{"raise": text}``,
              ``{"sleep": seconds}``, ``{"hang": true}``, ``{"diverge": true}``,
              ``{"oom_above": largest micro-batch that fits}``,
              ``{"lost": true}`` (what it inherits can't be read, until it knows its ancestors),
              ``{"die": n}`` (SIGKILL in the first n attempts) and ``{"exit": status}`` (ends the
              process in every attempt).

    Raises:
        ModelError: the payload says ``refuse``.
    """
    if "refuse" in payload:
        raise ModelError(payload["refuse"])
    if "kill_builds" in payload:
        with Path(payload["kill_builds"]).open("a") as builds:
            builds.write(".")
        os.kill(os.getpid(), signal.SIGKILL)
    return ScriptedTrainer(payload, device, report)


class ScriptedTrainer:
    """A ``Trainer`` whose outcomes are computed from the plan, see ``scripted_trainer``."""

    def __init__(
        self, payload: Mapping[str, Any], device: str, report: Callable[[Progress], None]
    ) -> None:
        self._payload = payload
        self._device = device
        self._report = report

    def survey(self) -> Survey:
        """Return two tasks of three classes and a stack of two layers."""
        tasks = tuple(
            TaskSurvey(
                name=name,
                metrics={"auroc": "max", "log_loss": "min"},
                primary_metric="auroc",
                label_names=("red", "green", "blue"),
                train_examples=TRAIN_EXAMPLES // len(_TASKS),
                validation_examples=50,
                test_examples=50,
            )
            for name in _TASKS
        )
        return Survey(
            model_digest=digest_of("scripted model"),
            data_digest=digest_of("scripted data"),
            depth=_DEPTH,
            linear_modules=_MODULES,
            tasks=tasks,
            device=self._device,
            mean_tokens=16.0,
            slots=self._payload.get("slots", 1),
        )

    def train(self, jobs: Sequence[TrainingJob]) -> Iterator[Outcome]:
        """Play each job's part of the script."""
        for job in jobs:
            self._log(job, len(jobs))
            if "seconds" in self._payload:
                time.sleep(self._payload["seconds"])
            failure = self._play(job)
            if failure is None:
                yield self._finish(job)
            else:
                yield Outcome(key=job.key, stage=job.stage, failure=failure)

    def score(self, finalists: Sequence[TrainingJob], seed: int) -> tuple[TestScore, ...]:
        """Score each finalist a little below its validation quality; intervals are 0.02 wide."""
        tested = [
            {name: value - 0.01 for name, value in _metrics(finalist.plan, 1.0).items()}
            for finalist in finalists
        ]
        return tuple(
            TestScore(
                trial=finalist.trial,
                metrics=metrics,
                intervals={"auroc": _around(metrics["auroc"])},
                difference={"auroc": _around(metrics["auroc"] - tested[-1]["auroc"])},
            )
            for finalist, metrics in zip(finalists, tested, strict=True)
        )

    def export(self, finalist: TrainingJob, folder: Path, card: Mapping[str, Any]) -> None:
        """Write ``card`` as ``coral.json``; there are no weights."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "coral.json").write_text(json.dumps(dict(card), indent=2, sort_keys=True) + "\n")

    def _log(self, job: TrainingJob, pack: int) -> None:
        if "journal" not in self._payload:
            return
        line = {
            "trial": job.trial,
            "stage": job.stage,
            "attempt": job.attempt,
            "device": self._device,
            "pid": os.getpid(),
            "pack": pack,
        }
        with Path(self._payload["journal"]).open("a") as journal:
            journal.write(json.dumps(line) + "\n")

    def _play(self, job: TrainingJob) -> Failure | None:
        script: Mapping[str, Any] = self._payload.get("trials", {}).get(str(job.trial), {})
        for act, value in script.items():
            match act:
                case "raise":
                    raise RuntimeError(value)
                case "sleep":
                    time.sleep(value)
                case "hang":
                    while True:
                        time.sleep(3600)
                case "die":
                    if job.attempt <= value:
                        os.kill(os.getpid(), signal.SIGKILL)
                case "exit":
                    os._exit(value)
                case "diverge" | "lost" | "oom_above":
                    if failure := _failure(act, value, job):
                        return failure
                case _:
                    raise ValueError(
                        f"the script of trial {job.trial} must hold known acts, got {act!r}."
                        " See scripted_trainer for the list."
                    )
        return None

    def _finish(self, job: TrainingJob) -> Outcome:
        ends = ladder_steps(job.stages, TRAIN_EXAMPLES, job.plan.schedule.batch_size)
        first = ends[job.stage - 1] if job.stage else 0
        last = ends[job.stage]
        inherited = ends[-1] if job.inherits else 0
        checkpoint = digest_of([weights_of(job.key), job.stage])
        known = job.resume_from == checkpoint
        steps = 0 if job.derivation or known else last - first
        metrics = _metrics(job.plan, (last + inherited * _worth(job)) / ends[-1])
        for step in (first + 1, last):
            self._report(
                Progress.of(
                    job,
                    step=step,
                    end_step=last,
                    loss=metrics["log_loss"],
                )
            )
        if known:
            metrics |= dict.fromkeys(CURVE_PROXIES, math.nan)
        examples = steps * job.plan.schedule.batch_size
        parameters = _trainable_parameters(job.plan)
        return Outcome(
            key=job.key,
            stage=job.stage,
            metrics=metrics,
            cost=Cost(
                optimizer_steps=steps,
                examples=examples,
                tokens=16 * examples,
                teraflops=6e-12 * 16 * examples * parameters,
                train_seconds=examples / 1000,
            ),
            curve=Curve()
            if known
            else Curve(
                step=(first + 1, last),
                loss=(metrics["log_loss"] + 0.1, metrics["log_loss"]),
                gradient_norm=(metrics["gradient_norm"],) * 2,
            ),
            cumulative_steps=inherited + (0 if job.derivation else last),
            trainable_parameters=parameters,
            checkpoint=checkpoint,
            checkpoint_bytes=0 if known else 12 * parameters,
            inheritance=None if known else _inheritance(job),
            peak_memory_bytes=_MODEL_BYTES + 8 * parameters,
        )


def _failure(act: str, value: Any, job: TrainingJob) -> Failure | None:
    """Return the failure that an act of the script means for a job; None if it is spared."""
    match act:
        case "diverge":
            return Failure(kind="diverged", message="the loss is not finite at step 3")
        case "lost" if not job.ancestors:
            return Failure(kind="lost", message="the weights of its parent are lost")
        case "oom_above":
            examples = job.micro_batch_size or job.plan.schedule.batch_size
            if examples > value:
                return Failure(kind="oom", message=f"{examples} examples do not fit")
    return None


def _worth(job: TrainingJob) -> float:
    """Return what inherited weights are worth, as a share of a full training."""
    if job.derivation is None:
        return 0.5
    return 1 - 1 / (1 + len(job.inherits))


def _inheritance(job: TrainingJob) -> Inheritance | None:
    if not job.inherits or job.stage != job.entry:
        return None
    return Inheritance(
        retained_energy=1.0,
        by_module={module.name: 1.0 for module in _MODULES},
        sources=tuple(item.trial for item in job.inherits),
        moments_kept=len(job.inherits) == 1 and job.derivation is None,
    )


def _metrics(plan: TrainingPlan, progress: float) -> dict[str, float]:
    """Return validation metrics after ``progress``, the share of the horizon trained."""
    distance = math.log10(plan.schedule.learning_rate / BEST_LEARNING_RATE)
    skill = math.exp(-(distance**2) / 2) * plan.adapter.rank / (plan.adapter.rank + 1)
    skill *= 1 - 0.5 * math.exp(-3 * progress)
    metrics = {}
    for task, ceiling in _TASKS.items():
        auroc = 0.5 + (ceiling - 0.5) * skill
        metrics[f"{task}.auroc"] = auroc
        metrics[f"{task}.log_loss"] = -math.log(auroc)
    for metric in ("auroc", "log_loss"):
        metrics[metric] = sum(metrics[f"{task}.{metric}"] for task in _TASKS) / len(_TASKS)
    metrics["gradient_norm"] = 1.0 + max(0.0, distance)
    metrics["loss_slope"] = -0.1 * skill
    return metrics


def _trainable_parameters(plan: TrainingPlan) -> int:
    named = [(module.name, module.layer) for module in _MODULES]
    return len(adapted_modules(plan.adapter, named, _DEPTH)) * plan.adapter.rank * 2 * _WIDTH


def _around(estimate: float) -> Interval:
    return Interval(estimate=estimate, low=estimate - 0.01, high=estimate + 0.01)
