"""Texts from files, described in the config alone."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from coral.errors import TaskError
from coral.ports import DataContext, Task, TaskData
from coral.tasks import CLASSIFICATION_METRICS, discover
from coral.testing import TaskConformance

TYPE = "text-classification"
CLASSES = ("bad", "fair", "good")
ROWS = [
    {"id": i, "review": f"review number {i} says {CLASSES[i % 3]}", "stars": CLASSES[i % 3]}
    for i in range(90)
]

Load = Callable[..., TaskData]
Build = Callable[..., Task]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    registry = discover()

    def load(path: Path | str, **options: Any) -> TaskData:
        task = registry.build(TYPE, {"path": str(path), "name": "reviews", **options})
        return task.load(DataContext(cache_dir=tmp_path / "cache"))

    return load


@pytest.fixture
def build() -> Build:
    registry = discover()

    def build(kind: str, path: Path, **options: Any) -> Task:
        return registry.build(kind, {"path": str(path), "name": "mine", **options})

    return build


def loaded(task: Task, folder: Path) -> TaskData:
    return task.load(DataContext(cache_dir=folder / "cache"))


def write_csv(path: Path, rows: list[dict[str, Any]] = ROWS, delimiter: str = ",") -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_lines(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path: Path) -> Path:
    import datasets

    datasets.Dataset.from_list(ROWS).to_parquet(str(path))
    return path


def save(path: Path) -> Path:
    import datasets

    labels = datasets.ClassLabel(names=list(CLASSES))
    whole = datasets.Dataset.from_list(ROWS).cast_column("stars", labels)
    parts = {name: whole.select(range(i, 90, 3)) for i, name in enumerate(("train", "dev", "test"))}
    parts = {name: whole.select(range(30 * i, 30 * i + 30)) for i, name in enumerate(parts)}
    datasets.DatasetDict(parts).save_to_disk(str(path))
    return path


class TestConformance(TaskConformance):
    @pytest.fixture
    def task(self, tmp_path: Path) -> Task:
        path = write_csv(tmp_path / "reviews.csv")
        return discover().build(TYPE, {"path": str(path), "text": "review", "label": "stars"})


class TestConformanceWithMetricsOfAllKinds(TaskConformance):
    @pytest.fixture
    def task(self, tmp_path: Path) -> Task:
        path = write_csv(tmp_path / "reviews.csv")
        metrics = ["auroc", "ece", "fpr_at_90_recall", "robust_auroc"]
        options = {"text": "review", "label": "stars", "metrics": metrics}
        return discover().build(TYPE, {"path": str(path), **options})


def test_metrics_are_asked_for_by_name_and_the_first_is_the_primary_one() -> None:
    build = discover().build
    task = build(TYPE, {"path": "r.csv", "metrics": ["log_loss", "robust_auroc"]})
    assert (task.metrics, task.primary_metric) == (
        {"log_loss": "min", "robust_auroc": "max"},
        "log_loss",
    )
    assert tuple(build(TYPE, {"path": "r.csv"}).metrics) == tuple(CLASSIFICATION_METRICS)
    with pytest.raises(TaskError, match=r"did you mean 'robust_auroc'"):
        build(TYPE, {"path": "r.csv", "metrics": ["auroc", "robust_auc"]})


def everything(data: TaskData) -> Counter[tuple[str, str]]:
    return Counter(
        (text, data.label_names[label])
        for split in (data.train, data.validation, data.test)
        for text, label in zip(split.texts, split.labels, strict=True)
    )


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("r.csv", write_csv),
        ("r.tsv", lambda path: write_csv(path, delimiter="\t")),
        ("r.jsonl", write_lines),
        ("r.json", lambda path: path.write_text(json.dumps(ROWS)) and path),
        ("r.parquet", write_parquet),
    ],
)
def test_files_of_every_kind_hold_the_same(
    tmp_path: Path, load: Load, name: str, write: Callable[[Path], Path]
) -> None:
    data = load(write(tmp_path / name))
    assert everything(data) == Counter((row["review"], row["stars"]) for row in ROWS)
    assert data.label_names == CLASSES
    sizes = [len(split) for split in (data.train, data.validation, data.test)]
    assert sizes == pytest.approx([72, 9, 9], abs=2)
    for split in (data.train, data.validation, data.test):
        counts = np.bincount(split.labels, minlength=3)
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("where", ["folder", "folder/*.jsonl", "folder/**/*.jsonl"])
def test_folders_and_globs_are_read_as_one(tmp_path: Path, load: Load, where: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for i in range(3):
        write_lines(folder / f"{i}.jsonl", ROWS[30 * i : 30 * i + 30])
    assert sum(everything(load(tmp_path / where)).values()) == 90


def test_splits_and_class_names_of_the_data_are_kept(tmp_path: Path, load: Load) -> None:
    data = load(save(tmp_path / "saved"))
    assert data.label_names == CLASSES
    for split, rows in zip(
        (data.train, data.validation, data.test), (ROWS[:30], ROWS[30:60], ROWS[60:]), strict=True
    ):
        assert split.texts == tuple(row["review"] for row in rows)


def test_numbers_are_classes_in_their_order(tmp_path: Path, load: Load) -> None:
    rows = [{"text": f"text {i}", "label": (2, 10, 1)[i % 3]} for i in range(60)]
    assert load(write_csv(tmp_path / "n.csv", rows)).label_names == ("1", "2", "10")


def test_a_text_is_on_one_side_only_however_it_is_spaced(tmp_path: Path, load: Load) -> None:
    rows = [
        {"text": f"Text  {i // 3}" if i % 2 else f"text {i // 3} ", "label": i // 3 % 2}
        for i in range(120)
    ]
    data = load(write_lines(tmp_path / "d.jsonl", rows))
    sides = [
        {" ".join(text.split()).casefold() for text in split.texts}
        for split in (data.train, data.validation, data.test)
    ]
    assert all(sides)
    assert sum(map(len, sides)) == 40


def test_a_group_is_on_one_side_only(tmp_path: Path, load: Load) -> None:
    rows = [{"text": f"text {i}", "label": i % 2, "author": f"a{i // 6}"} for i in range(120)]
    data = load(write_csv(tmp_path / "g.csv", rows), group="author")
    author = {row["text"]: row["author"] for row in rows}
    sides = [
        {author[text] for text in split.texts} for split in (data.train, data.validation, data.test)
    ]
    assert all(sides)
    assert sum(map(len, sides)) == 20


def test_the_seed_decides_the_splits(tmp_path: Path, load: Load) -> None:
    path = write_csv(tmp_path / "r.csv")
    assert load(path).test.texts == load(path).test.texts
    assert load(path).test.texts != load(path, split_seed=1).test.texts


class TestBadInput:
    def refused(self, load: Load, path: Path | str, **options: Any) -> str:
        with pytest.raises(TaskError) as caught:
            load(path, **options)
        assert "reviews" in str(caught.value)
        return str(caught.value)

    def test_a_missing_file_is_named_with_where_it_was_looked_for(
        self, tmp_path: Path, load: Load
    ) -> None:
        assert f"{tmp_path}/no.csv doesn't exist" in self.refused(load, tmp_path / "no.csv")

    def test_a_pattern_that_matches_nothing(self, tmp_path: Path, load: Load) -> None:
        assert "no file matches" in self.refused(load, tmp_path / "*.csv")

    def test_a_folder_without_data(self, tmp_path: Path, load: Load) -> None:
        assert "must hold data files" in self.refused(load, tmp_path)

    def test_files_of_two_kinds(self, tmp_path: Path, load: Load) -> None:
        folder = tmp_path / "mixed"
        folder.mkdir()
        write_csv(folder / "a.csv")
        write_lines(folder / "b.jsonl")
        assert ".csv, .jsonl" in self.refused(load, folder)

    def test_a_line_that_can_not_be_read_is_named(self, tmp_path: Path, load: Load) -> None:
        path = tmp_path / "broken.csv"
        path.write_text("text,label\na,b\nc,d,e\n")
        assert "line 3" in self.refused(load, path)

    def test_a_missing_column_with_those_there_are(self, tmp_path: Path, load: Load) -> None:
        path = write_csv(tmp_path / "r.csv")
        message = self.refused(load, path, text="reviw")
        assert "'reviw' isn't in the data" in message
        assert "id, review, stars" in message
        assert "group column 'author'" in self.refused(load, path, group="author")

    def test_columns_that_can_not_be_guessed(self, tmp_path: Path, load: Load) -> None:
        rows = [{"text": "a", "body": "b", "label": 1}]
        assert "could be text or body" in self.refused(load, write_csv(tmp_path / "r.csv", rows))
        rows = [{"text": "a", "n": 1, "m": 2}]
        message = self.refused(load, write_csv(tmp_path / "q.csv", rows))
        assert "label column can't be guessed" in message

    def test_one_class_only(self, tmp_path: Path, load: Load) -> None:
        rows = [{"text": f"t{i}", "label": "same"} for i in range(9)]
        assert "at least two classes" in self.refused(load, write_csv(tmp_path / "r.csv", rows))

    def test_labels_that_are_no_classes(self, tmp_path: Path, load: Load) -> None:
        rows = [{"text": f"t{i}", "label": i} for i in range(99)]
        message = self.refused(load, write_csv(tmp_path / "r.csv", rows))
        assert "99 different values in 99 rows" in message

    def test_a_missing_label(self, tmp_path: Path, load: Load) -> None:
        rows = [*ROWS, {"id": 1, "review": "more", "stars": None}]
        message = self.refused(load, write_lines(tmp_path / "r.jsonl", rows))
        assert "no label in row 90" in message

    def test_texts_that_are_not_strings(self, tmp_path: Path, load: Load) -> None:
        rows = [{"text": i, "label": i % 2} for i in range(9)]
        message = self.refused(load, write_lines(tmp_path / "r.jsonl", rows))
        assert "row 0 holds 0" in message

    def test_labels_that_training_never_sees(self, tmp_path: Path, load: Load) -> None:
        import datasets

        def part(*labels: str) -> Any:
            return datasets.Dataset.from_list([{"text": f"{x}", "label": x} for x in labels])

        parts = {"train": part("a", "b"), "test": part("a", "c")}
        datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
        assert "'c' isn't" in self.refused(load, tmp_path / "saved")

    def test_too_few_rows_to_split(self, tmp_path: Path, load: Load) -> None:
        rows = [{"text": "same", "label": i} for i in range(2)]
        assert "too few" in self.refused(load, write_csv(tmp_path / "r.csv", rows))

    @pytest.mark.parametrize("share", [0, -0.1, 0.6])
    def test_a_share_that_makes_no_split(self, tmp_path: Path, load: Load, share: float) -> None:
        path = write_csv(tmp_path / "r.csv")
        assert "at most 0.5" in self.refused(load, path, test_share=share)

    def test_a_hub_id_offline_says_what_to_do(
        self, load: Load, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import datasets

        def offline(*_: Any, **__: Any) -> None:
            raise ConnectionError("Couldn't reach 'someone/reviews' on the Hub")

        monkeypatch.setattr(datasets, "load_dataset", offline)
        assert "has in its cache" in self.refused(load, "someone/reviews")


class TestPairs:
    """Two texts an example."""

    ROWS: ClassVar = [
        {"premise": f"it is {i}", "hypothesis": f"it is {i + i % 3}", "label": CLASSES[i % 3]}
        for i in range(60)
    ]

    def test_both_texts_are_read_and_stay_together(self, tmp_path: Path, build: Build) -> None:
        path = write_csv(tmp_path / "nli.csv", self.ROWS)
        data = loaded(build("text-pair-classification", path), tmp_path)
        for split in (data.train, data.validation, data.test):
            for first, second in zip(split.texts, split.pairs, strict=True):
                row = self.ROWS[int(first.split()[-1])]
                assert (first, second) == (row["premise"], row["hypothesis"])
        assert data.notes == ("guessed the columns text: premise, hypothesis; label: label",)

    def test_one_column_is_too_few(self, tmp_path: Path, build: Build) -> None:
        path = write_csv(tmp_path / "nli.csv", self.ROWS)
        with pytest.raises(TaskError, match="must name two columns"):
            loaded(build("text-pair-classification", path, text="premise"), tmp_path)


class TestLabelSets:
    """Any number of labels an example."""

    @pytest.mark.parametrize(
        "written",
        [
            {"label": "a|b", "none": "", "last": "b"},
            {"label": ["a", "b"], "none": [], "last": ["b"]},
        ],
    )
    def test_lists_and_separated_texts_say_which_labels_are_set(
        self, tmp_path: Path, build: Build, written: dict[str, Any]
    ) -> None:
        rows = [
            {"text": f"text {i} {name}", "label": value}
            for i in range(20)
            for name, value in written.items()
        ]
        path = write_lines(tmp_path / "sets.jsonl", rows)
        data = loaded(build("multilabel-classification", path), tmp_path)
        assert data.label_names == ("a", "b")
        expected = {"label": [1, 1], "none": [0, 0], "last": [0, 1]}
        for text, flags in zip(data.train.texts, data.train.labels.tolist(), strict=True):
            assert flags == expected[text.split()[-1]]

    def test_columns_of_flags_are_labels(self, tmp_path: Path, build: Build) -> None:
        rows = [{"text": f"t {i}", "rude": i % 2, "loud": str(i % 3 == 0)} for i in range(60)]
        path = write_csv(tmp_path / "flags.csv", rows)
        data = loaded(build("multilabel-classification", path, label=["rude", "loud"]), tmp_path)
        assert data.label_names == ("rude", "loud")
        for text, flags in zip(data.train.texts, data.train.labels.tolist(), strict=True):
            number = int(text.split()[-1])
            assert flags == [number % 2, int(number % 3 == 0)]

    def test_a_flag_that_is_none_is_named_with_its_row(self, tmp_path: Path, build: Build) -> None:
        rows = [{"text": f"t {i}", "rude": 2 if i == 7 else 0, "loud": 1} for i in range(20)]
        path = write_csv(tmp_path / "flags.csv", rows)
        with pytest.raises(TaskError, match="'rude' must hold 0 or 1, but row 7 holds 2"):
            loaded(build("multilabel-classification", path, label=["rude", "loud"]), tmp_path)


class TestNumbers:
    """Numbers to predict."""

    ROWS: ClassVar = [{"text": f"it costs {i}", "score": 1000 + 2.5 * i} for i in range(80)]

    def test_numbers_keep_their_unit_and_every_split_spans_them(
        self, tmp_path: Path, build: Build
    ) -> None:
        data = loaded(build("regression", write_csv(tmp_path / "n.csv", self.ROWS)), tmp_path)
        assert data.label_names == ("score",)
        for split in (data.train, data.validation, data.test):
            numbers = [1000 + 2.5 * int(text.split()[-1]) for text in split.texts]
            assert split.labels[:, 0].tolist() == numbers
            assert np.ptp(numbers) > 100

    @pytest.mark.parametrize(
        ("value", "told"),
        [("cheap", "must hold numbers, but row 3 holds 'cheap'"), (None, "row 3 holds None")],
    )
    def test_what_is_no_number_is_named_with_its_row(
        self, tmp_path: Path, build: Build, value: str | None, told: str
    ) -> None:
        rows = [{"text": f"t {i}", "score": str(i) if i != 3 else value} for i in range(20)]
        with pytest.raises(TaskError, match=told):
            loaded(build("regression", write_lines(tmp_path / "n.jsonl", rows)), tmp_path)

    def test_one_number_alone_is_refused(self, tmp_path: Path, build: Build) -> None:
        rows = [{"text": f"t {i}", "score": 2.0} for i in range(20)]
        with pytest.raises(TaskError, match="must hold different numbers, it holds 2 alone"):
            loaded(build("regression", write_csv(tmp_path / "n.csv", rows)), tmp_path)


@pytest.mark.parametrize(
    ("rows", "kind", "options"),
    [
        (ROWS, "text-classification", {"text": "review", "label": "stars"}),
        (
            TestPairs.ROWS,
            "text-pair-classification",
            {"text": ["premise", "hypothesis"], "label": "label"},
        ),
        (TestNumbers.ROWS, "regression", {"text": "text", "label": "score"}),
        (
            [{"text": f"t {i}", "labels": ["a"] * (i % 2)} for i in range(20)],
            "multilabel-classification",
            {"text": "text", "label": "labels"},
        ),
    ],
)
def test_what_data_are_for_is_told_by_their_columns(
    tmp_path: Path, rows: list[dict[str, Any]], kind: str, options: dict[str, Any]
) -> None:
    path = str(write_lines(tmp_path / "data.jsonl", rows))
    found = discover().suggest(path, DataContext(cache_dir=tmp_path / "cache"))
    assert found == (kind, {"path": path, **options})


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"text": "said", "label": "mood"}, "text-classification"),
        ({"text": ["said", "asked"], "label": "mood"}, "text-pair-classification"),
        ({"text": "said", "label": ["loud", "rude"]}, "multilabel-classification"),
        ({"text": "said", "label": "hours"}, "regression"),
    ],
)
def test_columns_that_are_given_need_no_guess(
    tmp_path: Path, options: dict[str, Any], kind: str
) -> None:
    rows = [
        {"said": f"a {i}", "asked": f"b {i}", "mood": CLASSES[i % 3], "hours": i / 4}
        | {"loud": i % 2, "rude": 0}
        for i in range(60)
    ]
    path = str(write_lines(tmp_path / "data.jsonl", rows))
    context = DataContext(cache_dir=tmp_path / "cache")
    assert discover().suggest(path, context, options) == (kind, {"path": path, **options})


def test_files_called_after_splits_are_these_splits(tmp_path: Path, load: Load) -> None:
    folder = tmp_path / "folder"
    (folder / "dev").mkdir(parents=True)
    write_lines(folder / "train-0.jsonl", ROWS[:60])
    write_lines(folder / "dev" / "rows.jsonl", ROWS[60:75])
    write_lines(folder / "test.jsonl", ROWS[75:])
    data = load(folder)
    assert data.test.texts == tuple(row["review"] for row in ROWS[75:])
    assert data.validation.texts == tuple(row["review"] for row in ROWS[60:75])
    assert len(data.train) == 60


def test_files_of_which_one_names_no_split_are_all_one(tmp_path: Path, load: Load) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, rows in (("test", ROWS[:45]), ("other", ROWS[45:])):
        write_lines(folder / f"{name}.jsonl", rows)
    assert sum(everything(load(folder)).values()) == 90
