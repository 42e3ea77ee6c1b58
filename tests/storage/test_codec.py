from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from types import MappingProxyType
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coral.errors import GenomeError
from coral.records import (
    Candidate,
    CandidatesJoined,
    Cost,
    Curve,
    Event,
    Failure,
    GenerationStarted,
    GeneValue,
    Interval,
    Lineage,
    Outcome,
    RunConfirmed,
    StageFinished,
    TestScore,
)
from coral.storage.codec import decode, encode

finite = st.floats(allow_nan=False, allow_infinity=False)
gene_values = st.one_of(
    st.booleans(),
    st.integers(),
    finite,
    st.text(),
    st.sampled_from(["NaN", "true", "1", "1.0", "null", ""]),
    st.lists(st.text(), max_size=4).map(tuple),
    st.lists(finite, max_size=4).map(tuple),
)

numbers = st.dictionaries(st.text(), st.floats(), max_size=4)
shares = st.lists(st.floats(), max_size=4).map(tuple)
stages_finished = st.builds(
    StageFinished,
    outcome=st.builds(
        Outcome,
        metrics=numbers,
        cost=st.builds(Cost, tokens=st.integers(), teraflops=st.floats()),
        curve=st.builds(Curve, loss=shares, gradient_norm=shares),
        checkpoint=st.none() | st.text(),
        failure=st.none() | st.builds(Failure, traceback=st.text()),
    ),
)
intervals = st.dictionaries(st.text(), st.builds(Interval), max_size=2)
runs_confirmed = st.builds(
    RunConfirmed,
    scores=st.lists(
        st.builds(TestScore, metrics=numbers, intervals=intervals, difference=intervals),
        max_size=2,
    ).map(tuple),
)


def generation_started(genome: dict[str, GeneValue]) -> GenerationStarted:
    candidate = Candidate(
        number=7, generation=0, genome=genome, digest="d", lineage=Lineage(operator="sobol")
    )
    return GenerationStarted(generation=0, candidates=(candidate,))


def stage_finished(outcome: Outcome) -> StageFinished:
    return StageFinished(trial=3, outcome=outcome)


# repr tells True from 1 from 1.0, a tuple from a list, -0.0 from 0.0, equates NaN with itself,
# and shows the order of mappings: equality does none of it.


@given(genome=st.dictionaries(st.text(), gene_values, max_size=6))
def test_gene_values_come_back_with_their_exact_types(genome: dict[str, GeneValue]) -> None:
    event = generation_started(genome)
    assert repr(decode(*encode(event))) == repr(event)


@given(event=st.one_of(stages_finished, runs_confirmed))
def test_events_come_back_as_they_were_nan_and_infinity_included(event: Event) -> None:
    assert repr(decode(*encode(event))) == repr(event)


def test_every_kind_of_event_comes_back(events: tuple[Event, ...]) -> None:
    assert repr([decode(*encode(event)) for event in events]) == repr(list(events))


def test_the_written_form_is_pinned() -> None:
    outcome = Outcome(
        key="k", stage=1, metrics={"b": math.nan, "a": 1.0}, cost=Cost(teraflops=-math.inf)
    )
    payload = (
        '{"trial":3,"outcome":{"key":"k","stage":1,"metrics":{"b":"NaN","a":1.0},'
        '"cost":{"optimizer_steps":0,"examples":0,"tokens":0,"teraflops":"-Infinity",'
        '"train_seconds":0.0,"evaluation_seconds":0.0},'
        '"curve":{"step":[],"loss":[],"gradient_norm":[]},"cumulative_steps":0,'
        '"trainable_parameters":0,"checkpoint":null,"checkpoint_bytes":0,"inheritance":null,'
        '"failure":null,"peak_memory_bytes":0,"attempts":1,"notes":[]}}'
    )
    assert encode(stage_finished(outcome)) == ("stage_finished", payload)


def test_what_was_written_before_weights_were_inherited_is_read() -> None:
    candidate = (
        '{"number":7,"generation":0,"genome":{},"digest":"d","lineage":{"operator":"sobol"}}'
    )
    started = f'{{"generation":0,"candidates":[{candidate}]}}'
    assert decode("generation_started", started) == generation_started({})
    assert decode("stage_finished", '{"trial":3,"outcome":{"key":"k","stage":0}}') == (
        stage_finished(Outcome(key="k", stage=0))
    )
    confirmed = '{"champion":1,"reference":0,"scores":[]}'
    assert decode("run_confirmed", confirmed) == RunConfirmed(champion=1, reference=0, scores=())


def test_another_process_writes_the_same_bytes() -> None:
    script = (
        "import hashlib; from coral.records import *; from coral.storage.codec import encode\n"
        "outcome = Outcome(key='k', stage=0, metrics={'z': 1.0, 'a': 0.1})\n"
        "e = StageFinished(trial=1, outcome=outcome)\n"
        "print(hashlib.sha256(encode(e)[1].encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    event = StageFinished(trial=1, outcome=Outcome(key="k", stage=0, metrics={"z": 1.0, "a": 0.1}))
    assert digests == {hashlib.sha256(encode(event)[1].encode()).hexdigest()}


@pytest.mark.parametrize("value", [math.nan, math.inf, (0.5, -math.inf)])
def test_a_gene_that_is_not_finite_is_refused(value: GeneValue) -> None:
    started = generation_started({"schedule.lr": value})
    for event in (started, CandidatesJoined(candidates=started.candidates)):
        with pytest.raises(GenomeError, match=r"trial 7: gene schedule.lr must be finite"):
            encode(event)


def test_a_value_of_another_type_than_declared_is_refused() -> None:
    outcome = Outcome(key="k", stage=0, metrics=cast(Any, {"auroc": "high"}))
    with pytest.raises(TypeError, match="StageFinished event must hold the types"):
        encode(stage_finished(outcome))


def test_a_mapping_of_any_type_is_written_and_comes_back_as_a_dict() -> None:
    frozen = Outcome(key="k", stage=0, metrics=MappingProxyType({"auroc": math.inf}))
    plain = Outcome(key="k", stage=0, metrics={"auroc": math.inf})
    assert decode(*encode(stage_finished(frozen))) == stage_finished(plain)


def test_text_that_utf8_cannot_hold_is_escaped() -> None:
    failure = Failure(kind="crashed", message="no such file: caf\udce9.txt")
    outcome = Outcome(key="k", stage=0, metrics={"a": math.nan}, failure=failure)
    event = decode(*encode(stage_finished(outcome)))
    assert isinstance(event, StageFinished)
    assert event.outcome.failure is not None
    assert event.outcome.failure.message == r"no such file: caf\udce9.txt"
    assert math.isnan(event.outcome.metrics["a"])


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"kind must be one of generation_started.*'party'"):
        decode("party", "{}")
