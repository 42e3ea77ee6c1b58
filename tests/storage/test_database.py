"""The views of a run's database, and files of older versions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from coral.records import Event, GenerationFinished, GenerationStarted, Verdict
from coral.storage import SqliteRunStore
from tests.storage.test_run_store import raw, stage_finished


def test_the_views_tell_each_trials_end_and_each_outcome(
    folder: Path, events: tuple[Event, ...]
) -> None:
    with SqliteRunStore.open(folder) as store:
        store.append_many(events)
    with raw(folder) as connection:
        trials = connection.execute(
            "SELECT number, generation, digest, operator, parents, status, rule FROM trials"
        ).fetchall()
        outcomes = connection.execute(
            "SELECT trial, stage, optimizer_steps, cumulative_steps, failure_kind, metrics"
            " FROM outcomes"
        ).fetchall()
    assert trials == [
        (0, 0, "digest-0", "mutation", "[0]", "completed", ""),
        (1, 0, "digest-1", "mutation", "[1]", "failed", "oom"),
        (2, 0, "digest-0", "exploit", "[0]", "pruned", "not promoted"),
        (3, 0, "digest-0", "squeeze", "[0]", "completed", ""),
    ]
    assert [row[:-1] for row in outcomes] == [
        (0, 0, 12, 30, None),
        (1, 0, 0, 0, "oom"),
        (2, 1, 0, 0, None),
        (3, 1, 0, 0, None),
        (0, 1, 0, 0, None),
    ]
    assert json.loads(outcomes[0][-1])["loss_slope"] == "NaN"


def test_the_views_tell_whose_weights_a_trial_started_from(
    folder: Path, events: tuple[Event, ...]
) -> None:
    with SqliteRunStore.open(folder) as store:
        store.append_many(events)
    with raw(folder) as connection:
        trials = connection.execute("SELECT legacy, entry FROM trials").fetchall()
        outcomes = connection.execute(
            "SELECT trial, retained_energy, notes, confirmation FROM outcomes"
        ).fetchall()
    assert [(json.loads(legacy), entry) for legacy, entry in trials] == [
        ([], 0),
        ([], 0),
        ([{"trial": 0, "stage": 0, "weight": 1.0}], 1),
        ([{"trial": 0, "stage": 0, "weight": 0.5}], 0),
    ]
    assert outcomes == [
        (0, None, "[]", 0),
        (1, None, "[]", 0),
        (2, 0.75, '["trial 0 made again"]', 0),
        (3, None, "[]", 0),
        (0, None, "[]", 1),  # trained again, after the search
    ]


def test_a_later_generations_verdicts_stay_with_their_trials(
    folder: Path, events: tuple[Event, ...]
) -> None:
    first = events[0]
    assert isinstance(first, GenerationStarted)
    candidates = tuple(
        replace(candidate, number=number, generation=1)
        for number, candidate in enumerate(first.candidates, start=4)
    )
    verdicts = (Verdict(status="pruned", stage=0), Verdict(status="completed", stage=1))
    with SqliteRunStore.open(folder) as store:
        store.append_many(
            [
                *events,
                GenerationStarted(generation=1, candidates=candidates),
                stage_finished(4),
                GenerationFinished(generation=1, verdicts=verdicts),
            ]
        )
    with raw(folder) as connection:
        ended = connection.execute("SELECT number, status FROM trials WHERE number > 3").fetchall()
        assert ended == [(4, "pruned"), (5, "completed")]
        (last,) = connection.execute("SELECT confirmation FROM outcomes WHERE trial = 4")
        assert last == (0,)


def as_version_1(folder: Path) -> None:
    """Give a run the mark and the views of a file that knows no derived trials."""
    with raw(folder) as connection:
        connection.executescript(
            "DROP VIEW trials; CREATE VIEW trials AS SELECT 'old' AS number;"
            "DROP VIEW outcomes; CREATE VIEW outcomes AS SELECT 'old' AS trial;"
            "PRAGMA user_version = 1;"
        )


def test_an_older_file_is_read_as_it_is(folder: Path, events: tuple[Event, ...]) -> None:
    with SqliteRunStore.open(folder) as store:
        store.append_many(events[:2])
    as_version_1(folder)
    with SqliteRunStore.read_only(folder) as store:
        assert len(list(store.events())) == 2
    with raw(folder) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        assert connection.execute("SELECT number FROM trials").fetchone() == ("old",)


def test_an_older_file_gets_the_views_of_what_may_be_appended(
    folder: Path, events: tuple[Event, ...]
) -> None:
    with SqliteRunStore.open(folder) as store:
        store.append_many(events[:2])
    as_version_1(folder)
    with SqliteRunStore.open(folder) as store:
        store.append_many(events[2:])
        assert len(list(store.events())) == len(events)
    with raw(folder) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)
        numbers = connection.execute("SELECT number FROM trials").fetchall()
        assert numbers == [(0,), (1,), (2,), (3,)]
        assert connection.execute("SELECT count(*) FROM outcomes").fetchone() == (5,)


def test_a_trial_under_way_is_listed_without_a_verdict(
    folder: Path, events: tuple[Event, ...]
) -> None:
    with SqliteRunStore.open(folder) as store:
        store.append(events[0])
    with raw(folder) as connection:
        assert connection.execute("SELECT number, status FROM trials").fetchall() == [
            (0, None),
            (1, None),
        ]
