"""Batches from streams: repeatable, nested, bounded, and as exact as those from memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from coral.errors import TaskError
from coral.fidelity.stages import Stage
from coral.ports import Examples, ExampleStream
from coral.training.base import BaseModel
from coral.training.data import Batch, LoadedTask
from coral.training.prefix import Prefixes
from coral.training.streaming import StreamedSet
from coral.training.texts import tokenize
from coral.training.trainer import LoraTrainer
from tests.training.conftest import LADDER, SEED, MemoryCheckpoints, make_job, plan
from tests.training.models import animals, colours, load

EXAMPLES = 400
SAMPLE = 50


def streaming(
    loaded: LoadedTask, examples: int = EXAMPLES, buffer: int = 40, part: int = 7
) -> LoadedTask:
    """The same task, its train split read in parts."""
    whole = loaded.data.train

    def read() -> Iterator[Examples]:
        for start in range(0, len(whole), part):
            yield whole.take(range(start, min(start + part, len(whole))))

    stream = ExampleStream(examples=examples, buffer=buffer, digest="stream", read=read)
    head = whole.take(range(min(SAMPLE, len(whole))))
    return replace(loaded, data=replace(loaded.data, train=head, stream=stream))


def streamed_set(base: BaseModel, *tasks: LoadedTask) -> StreamedSet:
    return StreamedSet(
        tasks={task.name: task for task in tasks},
        tokenized=partial(tokenize, base.tokenizer),
        sequence_len=16,
    )


@pytest.fixture
def colour() -> LoadedTask:
    # Each text once, so that tests may tell examples by their texts.
    loaded = load(colours(EXAMPLES))["colour"]
    texts = tuple(f"{text} {number}" for number, text in enumerate(loaded.data.train.texts))
    train = replace(loaded.data.train, texts=texts)
    return replace(loaded, data=replace(loaded.data, train=train))


def read_of(loaded: LoadedTask) -> list[str]:
    assert loaded.data.stream is not None
    return [text for part in loaded.data.stream.read() for text in part.texts]


class Listening:
    """A tokenizer that remembers, window by window, what it was given."""

    def __init__(self, base: BaseModel) -> None:
        self.windows: list[list[Any]] = []
        self._base = base

    def __call__(self, texts: Sequence[Any], sequence_len: int) -> Any:
        self.windows.append([content[0] for content in texts])
        return tokenize(self._base.tokenizer, texts, sequence_len)

    @property
    def drawn(self) -> list[str]:
        return [text for window in self.windows for text in window]


def draw(
    base: BaseModel,
    loaded: LoadedTask,
    stage: int = 2,
    seen: Sequence[int] = (),
    values: dict[str, Any] | None = None,
    stages: Sequence[Stage] = LADDER,
) -> list[str]:
    """The texts that a stage draws, window by window."""
    listening = Listening(base)
    streamed = replace(streamed_set(base, loaded), tokenized=listening)
    batches = list(streamed.batches(plan(values), stages, stage, SEED, seen))
    assert all(len(batch.rows) == 8 for batch in batches)
    return listening.drawn


def contents(batches: Sequence[Batch]) -> list[list[list[int]]]:
    return [batch.examples.texts.pad(batch.rows).ids.tolist() for batch in batches]


def once(share: float, epochs: float = 1.0) -> tuple[Stage, ...]:
    return (Stage(name="only", epoch_budget=epochs, data_percentage=share, survival_rate=1),)


def test_batches_are_the_same_each_time(base: BaseModel, colour: LoadedTask) -> None:
    streamed = streamed_set(base, streaming(colour), streaming(load(animals())["animal"], 64))
    one = streamed.batches(plan(), LADDER, 1, SEED)
    two = streamed_set(base, *streamed.tasks.values()).batches(plan(), LADDER, 1, SEED)
    assert contents(list(one)) == contents(list(one)) == contents(list(two))
    assert contents(list(streamed.batches(plan(), LADDER, 1, SEED + 1))) != contents(list(one))
    assert len(list(one)) == len(one)
    assert sum(one.drawn) == 8 * len(one)


def test_the_parts_in_which_a_stream_is_read_change_nothing(
    base: BaseModel, colour: LoadedTask
) -> None:
    drawn = [draw(base, streaming(colour, part=part)) for part in (1, 7, 1000)]
    assert drawn[0] == drawn[1] == drawn[2]


def test_a_pass_gives_each_example_once_in_a_mixed_order(
    base: BaseModel, colour: LoadedTask
) -> None:
    loaded = streaming(colour)
    drawn = draw(base, loaded, 0, stages=once(100))
    assert sorted(drawn) == sorted(read_of(loaded))
    place = {text: number for number, text in enumerate(read_of(loaded))}
    order = [place[text] for text in drawn]
    assert order != sorted(order)
    # Nothing is drawn before it can be in the buffer of 40.
    assert all(number < 40 + step for step, number in enumerate(order))


def test_passes_differ(base: BaseModel, colour: LoadedTask) -> None:
    drawn = draw(base, streaming(colour), 0, stages=once(100, epochs=2.0))
    assert sorted(drawn[:EXAMPLES]) == sorted(drawn[EXAMPLES:])
    assert drawn[:EXAMPLES] != drawn[EXAMPLES:]


def test_a_stage_draws_from_its_share_of_the_stream_and_shares_are_nested(
    base: BaseModel, colour: LoadedTask
) -> None:
    loaded = streaming(colour)
    read = read_of(loaded)
    parts = [set(draw(base, loaded, 0, stages=once(share))) for share in (5, 20, 100)]
    assert [len(part) for part in parts] == [20, 80, 400]
    assert parts == [set(read[:20]), set(read[:80]), set(read)]


def test_an_heir_goes_on_where_its_parents_stopped(base: BaseModel, colour: LoadedTask) -> None:
    loaded = streaming(colour)
    whole = draw(base, loaded, 0, stages=once(100))
    heir = draw(base, loaded, 0, seen=(160,), stages=once(100, epochs=0.5))
    assert heir == whole[160:360]
    beyond = draw(base, loaded, 0, seen=(560,), stages=once(100, epochs=0.5))
    assert beyond == draw(base, loaded, 0, stages=once(100, epochs=2.0))[560:760]


def test_a_curriculum_keeps_long_texts_waiting_within_the_buffer(
    base: BaseModel, colour: LoadedTask
) -> None:
    values = {
        "curriculum.kind": "progressive",
        "curriculum.initial_difficulty": 0.2,
        "curriculum.ramp": 1.0,
    }
    loaded = streaming(colour, buffer=200)
    drawn = draw(base, loaded, 0, values=values, stages=once(100))
    lengths = [len(text) for text in drawn]
    assert sorted(drawn) == sorted(read_of(loaded))
    assert np.mean(lengths[:100]) < 0.7 * np.mean(lengths[-100:])


def test_data_that_end_early_begin_again_and_that_is_told(
    base: BaseModel, colour: LoadedTask
) -> None:
    streamed = streamed_set(base, streaming(colour, examples=500))
    assert len(streamed) == 500
    batches = streamed.batches(plan(), once(100), 0, SEED)
    assert batches.notes == []
    assert len(list(batches)) == 63
    [note] = batches.notes
    assert "end after 400 examples" in note
    assert "an epoch of 500" in note


def test_a_task_in_memory_may_stand_beside_one_that_streams(
    base: BaseModel, colour: LoadedTask
) -> None:
    animal = load(animals(40))["animal"]
    streamed = streamed_set(base, streaming(colour), animal)
    for batch in streamed.batches(plan(), LADDER, 2, SEED):
        for number, task in enumerate(streamed.tasks.values()):
            rows = batch.rows[batch.examples.index.task[batch.rows] == number]
            labels = batch.examples.labels_of(number, rows).tolist()
            for row, label in zip(rows, labels, strict=True):
                ids = batch.examples.texts.pad(np.array([row])).ids[0]
                assert task.data.label_names[label] in base.tokenizer.decode(ids)


def run(base: BaseModel, loaded: LoadedTask, job: Any, **options: Any) -> tuple[Any, Any]:
    checkpoints = options.pop("checkpoints", MemoryCheckpoints())
    tasks = {loaded.name: loaded}
    trainer = LoraTrainer(base, tasks, checkpoints, lambda progress: None, **options)
    [outcome] = trainer.train([job])
    return outcome, trainer


def test_a_job_that_resumes_at_a_stage_ends_in_the_same_weights(
    base: BaseModel, colour: LoadedTask
) -> None:
    checkpoints = MemoryCheckpoints()
    straight, _ = run(base, streaming(colour), make_job(), checkpoints=checkpoints)
    assert straight.failure is None
    address = None
    for stage in range(len(LADDER)):
        outcome, _ = run(
            base,
            streaming(colour),
            make_job(stage=stage, resume_from=address),
            checkpoints=checkpoints,
        )
        address = outcome.checkpoint
    assert address == straight.checkpoint


def test_what_is_broken_far_into_the_data_fails_the_trial_that_reads_it(
    base: BaseModel, colour: LoadedTask
) -> None:
    def read() -> Iterator[Examples]:
        yield colour.data.train.take(range(200))
        raise TaskError("line 201 of rows.jsonl can't be read")

    loaded = streaming(colour)
    assert loaded.data.stream is not None
    broken = replace(loaded.data, stream=replace(loaded.data.stream, read=read))
    early, _ = run(base, replace(loaded, data=broken), make_job(stage=0))
    assert early.failure is None
    late, _ = run(base, replace(loaded, data=broken), make_job())
    assert late.failure.kind == "plugin"
    assert "line 201 of rows.jsonl" in late.failure.message


def test_what_lies_below_adapters_is_not_kept_of_a_stream(
    base: BaseModel, colour: LoadedTask, tmp_path: Any
) -> None:
    job = make_job({"adapter.layers": "top-1"}, stage=0)
    alone, _ = run(base, streaming(colour), job)
    prefixes = Prefixes(base, tmp_path)
    shared, trainer = run(base, streaming(colour), job, prefixes=prefixes, slots=4)
    assert shared.metrics["train_cost"] == alone.metrics["train_cost"]
    assert shared.metrics["auroc"] == pytest.approx(alone.metrics["auroc"])
    kept = {path.name for path in tmp_path.rglob("*") if path.is_dir()}
    assert len(list(tmp_path.iterdir())) == 1, kept  # the validation split's
    survey = trainer.survey()
    assert survey.tasks[0].train_examples == EXAMPLES
    assert not survey.shares_prefixes
    assert survey.slots == 1
    assert any("streamed" in note for note in survey.tasks[0].notes)


def test_a_stream_is_part_of_the_identity_of_the_data(base: BaseModel, colour: LoadedTask) -> None:
    from coral.training.data import data_digest

    one = streaming(colour)
    assert one.data.stream is not None
    other = replace(one, data=replace(one.data, stream=replace(one.data.stream, digest="other")))
    assert data_digest({"colour": one}) != data_digest({"colour": other})


@pytest.mark.parametrize(
    "values", [{"loss.weighting": "inverse_frequency"}, {"sampling.kind": "balanced"}]
)
def test_weights_that_all_labels_would_tell_are_refused(
    base: BaseModel, colour: LoadedTask, values: dict[str, Any]
) -> None:
    outcome, _ = run(base, streaming(colour), make_job(values, stage=0))
    [(key, value)] = values.items()
    assert outcome.failure.kind == "plugin"
    assert f"{key} must be" in outcome.failure.message
    assert value in outcome.failure.message
