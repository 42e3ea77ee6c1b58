"""Real or fake by text and image: reading, bad images, domains, and model inputs."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL")

from PIL import Image

from coral.capabilities import collating, proxies_at, views_of
from coral.errors import TaskError
from coral.ports import DataContext, Examples, HasDomains, TaskData
from coral.tasks import TEXT_ONLY, discover
from coral.testing import TaskConformance
from tests.training.vision_models import IMAGE_TOKENS, build_processor, write_news

TYPE = "fakenews-gemma3n"
Load = Callable[..., TaskData]


@pytest.fixture(scope="module")
def news(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty posts; every second one has an image."""
    return write_news(tmp_path_factory.mktemp("news") / "data", 80, image_every=2)


@pytest.fixture(scope="module")
def processor() -> Any:
    return build_processor()


def build(path: Path | str, **options: Any) -> Any:
    return discover().build(TYPE, {"path": str(path), **options})


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(path: Path, **options: Any) -> TaskData:
        data: TaskData = build(path, **options).load(DataContext(cache_dir=tmp_path / "cache"))
        return data

    return load


def with_bad_images(folder: Path) -> Path:
    """Posts of which one image is missing, one is cut short, and one is no image at all."""
    place = write_news(folder, 80)
    with place.open() as file:
        rows = list(csv.DictReader(file))
    (folder / rows[3]["image"]).unlink()
    whole = (folder / rows[4]["image"]).read_bytes()
    (folder / rows[4]["image"]).write_bytes(whole[:40])
    (folder / rows[5]["image"]).write_text("<html>not found</html>")
    return place


def splits(data: TaskData) -> tuple[Examples, Examples, Examples]:
    return data.train, data.validation, data.test


class TestConformance(TaskConformance):
    @pytest.fixture
    def task(self, news: Path) -> Any:
        return build(news)


def test_it_has_what_tasks_on_images_need(news: Path) -> None:
    task = build(news)
    assert isinstance(task, HasDomains)
    assert collating(task) is task
    assert task.primary_metric == "auroc"


def test_what_texts_alone_tell_is_a_proxy_of_the_stage_that_is_asked_for(news: Path) -> None:
    task = build(news, metrics=["auroc", "ece"], proxy_stage=1)
    (proxy,) = proxies_at(task, 1).values()
    assert (proxy.view, proxy.stands_for) == (TEXT_ONLY, "auroc")
    assert [views_of(task, stage) for stage in (None, 0, 1, 2)] == [(), (), (TEXT_ONLY,), ()]


@pytest.mark.parametrize("metrics", [["auroc", "text_only_auroc"], ["ece"]])
def test_it_is_no_proxy_where_it_is_a_metric_or_foretells_none(
    news: Path, metrics: list[str]
) -> None:
    assert build(news, metrics=metrics).proxies == {}


def test_fake_is_the_positive_class_whatever_the_data_call_it(
    tmp_path: Path, news: Path, load: Load
) -> None:
    assert load(news).label_names == ("real", "fake")
    told = tmp_path / "told.csv"
    told.write_text(news.read_text().replace("fake", "hoax"))
    with pytest.raises(TaskError, match="positive must name the label that is fake, got None"):
        load(told)
    assert load(told, positive="hoax", image_root=str(news.parent)).label_names == ("real", "hoax")
    with pytest.raises(TaskError, match=r"one of hoax, real"):
        load(told, positive="lie")


def test_more_than_two_classes_are_refused(tmp_path: Path, news: Path, load: Load) -> None:
    lines = news.read_text().splitlines()
    third = tmp_path / "third.csv"
    third.write_text("\n".join([*lines, "one more,,satire"]))
    with pytest.raises(TaskError, match="holds 3 classes: fake, real, satire"):
        load(third)


class TestBadImages:
    def test_texts_are_kept_without_them_and_they_are_counted(
        self, tmp_path: Path, load: Load
    ) -> None:
        data = load(with_bad_images(tmp_path / "data"))
        assert sum(map(len, splits(data))) == 80
        pictures = [p for split in splits(data) for p in split.inputs["image"]]
        assert pictures.count(None) == 3
        (note,) = data.notes
        assert "3 of 80 images of train can't be used (2 broken and 1 missing)" in note
        assert "their texts are kept without; the first is that of row 3: there is no file" in note

    def test_rows_are_dropped_if_so_configured(self, tmp_path: Path, load: Load) -> None:
        data = load(with_bad_images(tmp_path / "data"), on_bad_image="drop")
        assert sum(map(len, splits(data))) == 77
        assert "their rows are dropped" in data.notes[0]
        assert all(p is not None for split in splits(data) for p in split.inputs["image"])

    def test_a_row_that_never_had_one_is_a_text_and_nothing_bad(
        self, news: Path, load: Load
    ) -> None:
        data = load(news, on_bad_image="drop")
        assert not data.notes
        pictures = [p for split in splits(data) for p in split.inputs["image"]]
        assert (len(pictures), pictures.count(None)) == (80, 40)

    def test_nothing_left_is_an_error_that_names_the_folder_to_look_at(
        self, news: Path, load: Load
    ) -> None:
        with pytest.raises(TaskError, match="image_root"):
            load(write_news(news.parent / "far", 16), image_root="nowhere", on_bad_image="drop")

    def test_another_word_for_them_is_refused(self, news: Path) -> None:
        with pytest.raises(TaskError, match=r"on_bad_image must be drop or text_only, got 'skip'"):
            build(news, on_bad_image="skip")


def test_bytes_in_parquet_are_images_as_well_as_paths(
    tmp_path: Path, news: Path, load: Load
) -> None:
    import datasets

    with news.open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["image"] = (news.parent / row["image"]).read_bytes() if row["image"] else None
    table = datasets.Dataset.from_list(rows)
    table.to_parquet(str(tmp_path / "bytes.parquet"))
    packed = load(tmp_path / "bytes.parquet")
    declared = table.cast_column("image", datasets.Image())
    declared.to_parquet(str(tmp_path / "declared.parquet"))
    for other in (packed, load(tmp_path / "declared.parquet")):
        assert other.train.inputs["image"] == load(news).train.inputs["image"]


def test_an_image_is_known_by_its_content_wherever_it_is_kept(tmp_path: Path, news: Path) -> None:
    one, two = (
        build(news).load(DataContext(cache_dir=tmp_path / place)).train.inputs["image"]
        for place in ("one", "two")
    )
    assert one == two
    assert repr(one) == repr(two)
    shown = next(picture for picture in one if picture is not None)
    assert shown.pixels().mode == "RGB"


def test_posts_with_one_image_stay_in_one_split(tmp_path: Path, load: Load) -> None:
    place = write_news(tmp_path / "data", 60)
    with place.open() as file:
        rows = list(csv.reader(file))
    for i, row in enumerate(rows[1:]):
        row[1] = rows[1 + i // 6 * 6][1]
    with place.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    seen = [set(split.inputs["image"]) for split in splits(load(place))]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


class TestModelInputs:
    @pytest.fixture
    def data(self, news: Path, load: Load) -> Examples:
        return load(news).train

    def test_an_image_stands_before_its_text_and_texts_alone_have_none(
        self, news: Path, data: Examples, processor: Any
    ) -> None:
        pictured = [picture is not None for picture in data.inputs["image"]]
        rows = [pictured.index(True), pictured.index(False)]
        made = build(news).collate(data, rows, processor, 16)
        assert made["pixel_values"].shape[0] == 1
        marks = made["input_ids"] == processor.tokenizer.image_token_id
        assert marks.sum(dim=1).tolist() == [IMAGE_TOKENS, 0]
        assert made["attention_mask"][1].tolist()[-1] == 0  # padded on the right
        alone = processor.tokenizer(data.texts[rows[1]])["input_ids"]
        assert made["input_ids"][1][: len(alone)].tolist() == alone

    def test_texts_without_any_image_need_no_pixels(
        self, news: Path, data: Examples, processor: Any
    ) -> None:
        task = build(news)
        made = task.collate(task.view(data, "text_only"), [0, 1, 2], processor, 16)
        assert "pixel_values" not in made

    @pytest.mark.parametrize("sequence_len", [3, 16])
    def test_lengths_are_those_of_the_inputs(
        self, news: Path, data: Examples, processor: Any, sequence_len: int
    ) -> None:
        task = build(news)
        rows = list(range(len(data)))
        made = task.collate(data, rows, processor, sequence_len)
        lengths = task.lengths(data, processor, sequence_len)
        assert made["attention_mask"].sum(dim=1).tolist() == lengths.tolist()
        assert lengths.max() <= sequence_len + IMAGE_TOKENS + 2

    def test_a_text_that_writes_of_images_asks_for_none(self, news: Path, processor: Any) -> None:
        tricky = f"see {processor.image_token} {processor.tokenizer.image_token} red"
        examples = Examples(
            texts=(tricky,), labels=np.zeros(1, np.int64), inputs={"image": (None,)}
        )
        made = build(news).collate(examples, [0], processor, 16)
        assert processor.tokenizer.image_token_id not in made["input_ids"]


def test_domains_are_texts_with_and_without_image(news: Path, load: Load) -> None:
    train = load(news).train
    domains = build(news).domains(train)
    assert [name == "text and image" for name in domains] == [
        picture is not None for picture in train.inputs["image"]
    ]
    assert len(set(domains)) == 2


def test_views_change_texts_or_images_and_nothing_else(news: Path, load: Load) -> None:
    train, task = load(news).train, build(news)
    blind, slipped = task.view(train, "text_only"), task.view(train, "perturbed")
    assert blind.texts == train.texts
    assert set(blind.inputs["image"]) == {None}
    assert slipped.texts != train.texts
    assert slipped.inputs == train.inputs


def test_without_pillow_it_says_what_to_install(
    news: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(TaskError, match=r"pip install 'coral-lora\[multimodal\]'"):
        load(news)


def test_pictures_of_another_mode_are_read_as_rgb(tmp_path: Path, load: Load) -> None:
    place = write_news(tmp_path / "data", 24)
    for path in (tmp_path / "data" / "images").glob("*.png"):
        Image.open(path).convert("P").save(path)
    data = load(place)
    assert not data.notes
    assert all(picture.pixels().mode == "RGB" for picture in data.train.inputs["image"])
