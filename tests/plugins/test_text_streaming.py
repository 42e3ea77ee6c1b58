"""Texts with labels that stream: what is read, what is held out, what is refused."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coral.errors import TaskError
from coral.ports import DataContext, Examples, Task, TaskData
from coral.tasks import discover
from coral.testing import TaskConformance

COLOURS = ("red", "green", "blue")
ROWS: list[dict[str, Any]] = [
    {
        "text": f"text {number} {COLOURS[number % 3]}",
        "label": COLOURS[number % 3],
        "author": f"author {number % 60}",
        "tags": list(COLOURS[: number % 4]),
        "score": number % 10 / 2,
    }
    for number in range(600)
]
FEW = {"train_examples": 300, "validation_examples": 20, "test_examples": 30}


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]] = ROWS) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_table(path: Path, rows: Sequence[Mapping[str, Any]] = ROWS, sep: str = ",") -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=sep)
        writer.writeheader()
        writer.writerows(rows)
    return path


def build(path: Path, kind: str = "text-classification", **options: Any) -> Task:
    given = {"name": "colours", "path": str(path), "text": "text", "label": "label"}
    return discover().build(kind, given | {"streaming": True} | FEW | options)


def load(path: Path, kind: str = "text-classification", **options: Any) -> TaskData:
    return build(path, kind, **options).load(DataContext(cache_dir=path.parent / "cache"))


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(TaskError) as error:
        load(path, **options)
    return str(error.value)


def streamed(data: TaskData) -> list[Examples]:
    assert data.stream is not None
    return list(data.stream.read())


def texts_of(parts: Sequence[Examples]) -> list[str]:
    return [text for part in parts for text in part.texts]


class TestAStreamingTask(TaskConformance):
    @pytest.fixture
    def task(self, tmp_path: Path) -> Task:
        return build(write_lines(tmp_path / "rows.jsonl"))


def test_everything_that_is_not_held_out_is_streamed_in_the_order_of_the_file(
    tmp_path: Path,
) -> None:
    data = load(write_lines(tmp_path / "rows.jsonl"))
    held = {*data.validation.texts, *data.test.texts}
    assert (len(data.validation), len(data.test)) == (20, 30)
    assert texts_of(streamed(data)) == [row["text"] for row in ROWS if row["text"] not in held]
    labels = np.concatenate([part.labels for part in streamed(data)]).tolist()
    assert [data.label_names[label] for label in labels] == [
        row["label"] for row in ROWS if row["text"] not in held
    ]
    assert data.train_examples == 300
    assert texts_of(streamed(data))[: len(data.train)] == list(data.train.texts)


def test_every_format_gives_the_same(tmp_path: Path) -> None:
    import datasets

    rows = [{"text": row["text"], "label": row["label"]} for row in ROWS]
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "rows.parquet"))
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "stored"))
    places = [
        write_lines(tmp_path / "rows.jsonl", rows),
        write_lines(tmp_path / "rows.json", rows),
        write_table(tmp_path / "rows.csv", rows),
        write_table(tmp_path / "rows.tsv", rows, sep="\t"),
        tmp_path / "rows.parquet",
        tmp_path / "stored",
    ]
    found = [load(place) for place in places]
    for data in found[1:]:
        assert data.label_names == found[0].label_names
        assert data.test.texts == found[0].test.texts
        assert texts_of(streamed(data)) == texts_of(streamed(found[0]))
        assert data.train.labels.tolist() == found[0].train.labels.tolist()


def test_files_of_a_folder_follow_each_other(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(3):
        part = ROWS[200 * number : 200 * (number + 1)]
        write_lines(folder / f"{number}.jsonl", part)
    one = load(write_lines(tmp_path / "rows.jsonl"))
    assert texts_of(streamed(load(folder))) == texts_of(streamed(one))


def test_copies_of_a_held_out_text_are_not_trained_on(tmp_path: Path) -> None:
    copies = [row | {"text": f"  {str(row['text']).upper()} "} for row in ROWS]
    data = load(write_lines(tmp_path / "rows.jsonl", [*ROWS, *copies]), train_examples=1100)
    held = {*data.validation.texts, *data.test.texts}
    plain = {" ".join(text.split()).casefold() for text in held}
    assert not {" ".join(text.split()).casefold() for text in texts_of(streamed(data))} & plain


def test_rows_of_one_group_stay_in_one_split(tmp_path: Path) -> None:
    data = load(write_lines(tmp_path / "rows.jsonl"), group="author")
    author = {row["text"]: row["author"] for row in ROWS}
    train, validation, test = (
        {author[text] for text in texts}
        for texts in (texts_of(streamed(data)), data.validation.texts, data.test.texts)
    )
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_another_seed_holds_out_other_rows(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl")
    assert set(load(path).test.texts) != set(load(path, split_seed=1).test.texts)


def test_splits_that_the_data_have_are_used(tmp_path: Path) -> None:
    import datasets

    rows = [{"text": row["text"], "label": COLOURS.index(row["label"])} for row in ROWS]
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=list(COLOURS))}
    )
    parts = {"train": rows[:400], "dev": rows[400:500], "test": rows[500:]}
    datasets.DatasetDict(
        {name: datasets.Dataset.from_list(part, features=features) for name, part in parts.items()}
    ).save_to_disk(str(tmp_path / "stored"))
    data = load(tmp_path / "stored", validation_examples=100, test_examples=40)
    assert data.label_names == COLOURS
    assert data.validation.texts == tuple(row["text"] for row in rows[400:500])
    assert data.test.texts == tuple(row["text"] for row in rows[500:540])
    assert texts_of(streamed(data)) == [row["text"] for row in rows[:400]]


def test_sets_of_labels_numbers_and_pairs_stream_too(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl")
    sets = load(path, "multilabel-classification", label="tags")
    row = next(row for row in ROWS if row["text"] == sets.train.texts[7])
    flags = sets.train.labels[7].tolist()
    assert {name for name, on in zip(sets.label_names, flags, strict=True) if on} == set(
        row["tags"]
    )
    numbers = load(path, "regression", label="score")
    row = next(row for row in ROWS if row["text"] == numbers.train.texts[7])
    assert numbers.train.labels[7].tolist() == [row["score"]]
    pairs = load(path, "text-pair-classification", text=["text", "author"])
    row = next(row for row in ROWS if row["text"] == pairs.train.texts[7])
    assert pairs.train.pairs[7] == row["author"]


def test_more_examples_than_the_data_hold_are_cut_to_what_there_is(tmp_path: Path) -> None:
    data = load(write_lines(tmp_path / "rows.jsonl"), train_examples=5000)
    assert data.train_examples == sum(map(len, streamed(data))) == 550
    assert any("5,000" in note and "550" in note for note in data.notes)


def test_a_stream_is_known_by_its_files_and_not_read_for_that(tmp_path: Path) -> None:
    def digest() -> str:
        stream = load(path).stream
        assert stream is not None
        return stream.digest

    path = write_lines(tmp_path / "rows.jsonl")
    first = digest()
    assert digest() == first
    os.utime(path, (1, 1))
    assert digest() != first


class TestBadRows:
    """What is wrong far into the data is told when it is reached."""

    def reached(self, path: Path, **options: Any) -> str:
        # The last row is beyond what is looked at when the task is loaded.
        data = load(path, validation_share=0.5, test_share=0.5, **options)
        with pytest.raises(TaskError) as error:
            streamed(data)
        return str(error.value).splitlines()[0]

    @pytest.fixture
    def rows(self) -> list[dict[str, Any]]:
        return [row | {"text": f"{row['text']} {copy}"} for copy in range(4) for row in ROWS]

    def test_a_broken_line(self, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
        path = write_lines(tmp_path / "rows.jsonl", rows)
        with path.open("a") as file:
            file.write('{"text": "broken\n')
        assert "line 2,401 of" in self.reached(path)

    def test_a_line_that_is_no_object(self, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
        path = write_lines(tmp_path / "rows.jsonl", rows)
        with path.open("a") as file:
            file.write("[1]\n")
        assert "line 2,401 of" in self.reached(path)

    def test_a_row_with_too_many_cells(self, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
        path = write_table(tmp_path / "rows.csv", rows)
        with path.open("a") as file:
            file.write("a,b,c,d,e,f,g\n")
        assert "line 2402" in self.reached(path)

    def test_a_label_that_turns_up_late(self, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
        path = write_lines(tmp_path / "rows.jsonl", [*rows, {"text": "new", "label": "purple"}])
        message = self.reached(path)
        assert "line 2,401 of" in message
        assert "'purple'" in message
        assert "labels:" in message
        named = load(path, labels=[*COLOURS, "purple"])
        assert named.label_names == (*COLOURS, "purple")
        assert streamed(named)[-1].labels[-1] == 3

    def test_a_text_that_is_none(self, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
        path = write_lines(tmp_path / "rows.jsonl", [*rows, {"text": 7, "label": "red"}])
        assert "must hold texts, but line 2,401 of" in self.reached(path)

    def test_a_missing_label(self, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
        path = write_lines(tmp_path / "rows.jsonl", [*rows, {"text": "new"}])
        assert "has no label in line 2,401 of" in self.reached(path)


class TestBadInput:
    def test_a_stream_needs_the_size_of_an_epoch(self, tmp_path: Path) -> None:
        path = write_lines(tmp_path / "rows.jsonl")
        assert "need train_examples" in refused(path, train_examples=None)
        for option in ("train_examples", "validation_examples", "test_examples", "shuffle_buffer"):
            assert f"{option} must be at least 1, got 0" in refused(path, **{option: 0})

    @pytest.mark.parametrize("option", ["train_examples", "shuffle_buffer", "labels"])
    def test_options_of_streams_need_a_stream(self, tmp_path: Path, option: str) -> None:
        given: dict[str, Any] = dict.fromkeys(FEW) | {option: ["a"] if option == "labels" else 5}
        message = refused(write_lines(tmp_path / "rows.jsonl"), streaming=False, **given)
        assert f"{option} is for data that stream" in message

    def test_a_format_that_can_not_stream(self, tmp_path: Path) -> None:
        (tmp_path / "rows.txt").write_text("a\nb\n")
        assert "can't be read row by row" in refused(tmp_path / "rows.txt")
        (tmp_path / "rows.json").write_text(json.dumps(ROWS))
        assert "is one list" in refused(tmp_path / "rows.json")

    def test_missing_and_empty_files(self, tmp_path: Path) -> None:
        assert "doesn't exist" in refused(tmp_path / "none.jsonl")
        (tmp_path / "empty.jsonl").write_text("")
        assert "is empty" in refused(tmp_path / "empty.jsonl")
        (tmp_path / "empty.csv").write_text("")
        assert "can't be read" in refused(tmp_path / "empty.csv")

    def test_one_class_or_too_many(self, tmp_path: Path) -> None:
        same = write_lines(tmp_path / "same.jsonl", [row | {"label": "red"} for row in ROWS])
        assert "at least two classes" in refused(same)
        many = write_lines(tmp_path / "many.jsonl", [row | {"label": row["text"]} for row in ROWS])
        assert "these are no classes" in refused(many)

    def test_too_few_rows(self, tmp_path: Path) -> None:
        assert "too few" in refused(write_lines(tmp_path / "rows.jsonl", ROWS[:2]))

    def test_a_column_that_is_not_there(self, tmp_path: Path) -> None:
        path = write_lines(tmp_path / "rows.jsonl")
        assert "'body' isn't in the data" in refused(path, text="body")
        assert "'who' isn't in the data" in refused(path, group="who")
