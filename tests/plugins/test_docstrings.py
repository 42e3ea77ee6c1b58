from __future__ import annotations

import hashlib
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from coral.compose import Source
from coral.compose import load as load_config
from coral.errors import TaskError
from coral.ports import DataContext, TaskData
from coral.tasks import Registry, discover
from coral.testing import TaskConformance

SMALL = ("rich", "accelerate", "datasets")
"""Libraries that are read in a third of a second each."""


@pytest.fixture(scope="module")
def registry() -> Registry:
    return discover()


@pytest.fixture(scope="module")
def plugin(registry: Registry) -> str:
    """The name that the registry imported the plugin under."""
    task = registry.build("docstring_kind", {})
    return type(task).__module__.rpartition(".")[0]


@pytest.fixture(scope="module")
def reading(plugin: str) -> Any:
    return importlib.import_module(f"{plugin}.reading")


@pytest.fixture(scope="module")
def corpus(plugin: str) -> Any:
    return importlib.import_module(f"{plugin}.corpus")


@pytest.fixture(scope="module")
def masking(plugin: str) -> Any:
    return importlib.import_module(f"{plugin}.masking")


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> DataContext:
    return DataContext(cache_dir=tmp_path_factory.mktemp("docstrings"))


@pytest.fixture(scope="module")
def docstrings(corpus: Any, context: DataContext) -> Any:
    return corpus.load_corpus(context.cache_dir, SMALL)


def load(registry: Registry, context: DataContext, task: str, **options: Any) -> TaskData:
    return registry.build(task, {"libraries": SMALL, **options}).load(context)


class TestDocstringLibrary(TaskConformance):
    name = "docstring_library"
    options: ClassVar[dict[str, Any]] = {"libraries": ["rich", "accelerate"]}


class TestDocstringKind(TaskConformance):
    name = "docstring_kind"
    options: ClassVar[dict[str, Any]] = {
        "libraries": ["datasets"],
        "train_examples": 100,
        "validation_examples": 40,
    }


def test_without_a_search_space_both_tasks_search_what_is_worth_it_on_docstrings(
    tmp_path: Path,
) -> None:
    config = tmp_path / "config.yaml"
    tasks = "tasks: [docstring_kind, docstring_library]"
    config.write_text(f"base_model: org/encoder\n{tasks}\n")
    spec = load_config(Source(path=config), {}).spec
    genes = {gene.path: gene for gene in spec.space.genes}
    assert genes["schedule.learning_rate"].low == 5e-4
    assert genes["adapter.layers"].options == ("all", "top-3", "top-2", "top-1")
    assert spec.simulation.profile == "minilm-docstrings"


def test_by_default_sixteen_libraries_are_told_apart(registry: Registry) -> None:
    labels = registry.build("docstring_library", {}).label_names  # type: ignore[attr-defined]
    assert len(labels) == 16
    assert labels[:3] == ("stdlib", "numpy", "scipy")


def test_every_library_is_found_and_skips_its_tests(reading: Any) -> None:
    for library in reading.LIBRARIES:
        modules = [module for module, _ in reading._modules(library)]
        assert len(modules) >= 50, library
        assert not [name for name in modules if ".tests." in name or ".test_" in name], library


def test_no_module_is_in_two_splits_and_every_split_has_some(corpus: Any, docstrings: Any) -> None:
    splits: dict[str, set[str]] = {}
    for docstring in docstrings:
        splits.setdefault(corpus.split_of(docstring.module), set()).add(docstring.module)
    assert set(splits) == {"train", "validation", "test"}
    assert sum(len(modules) for modules in splits.values()) == len(set.union(*splits.values()))


def test_no_text_occurs_twice_however_it_is_written(reading: Any, docstrings: Any) -> None:
    prints = [reading.fingerprint(docstring.text) for docstring in docstrings]
    assert len(set(prints)) == len(prints)


def test_a_text_that_two_libraries_share_is_left_out(
    corpus: Any, reading: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(library: str) -> tuple[Any, ...]:
        texts = [f"Only {library} says this about itself.", "Return the VALUE, all say."]
        return tuple(
            reading.Docstring(library=library, kind="class", module=library, text=text)
            for text in texts
        )

    monkeypatch.setattr(corpus, "read_library", read)
    found = corpus.load_corpus(tmp_path, ["numpy", "scipy"])
    assert [docstring.library for docstring in found] == ["numpy", "scipy"]


def test_no_text_holds_a_library_name(reading: Any, docstrings: Any) -> None:
    names = [*(name for name in reading.LIBRARIES), "scikit-learn", "hugging face", "huggingface"]
    for docstring in docstrings:
        assert not [name for name in names if name in docstring.text.casefold()], docstring


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (
            "A NumPy array, see numpy.asarray or np.asarray",
            "A library array, see library.asarray or library.asarray",
        ),
        ("torch_dtype of PyTorch and TorchScript", "library_dtype of library and libraryScript"),
        ("scikit-learn, Scikit Learn, sklearn.svm", "library, library, library.svm"),
        ("HF_TOKEN of the HfApi, Hugging Face Hub", "library_TOKEN of the libraryApi, library"),
        ("pd.DataFrame and _nx graphs", "library.DataFrame and _library graphs"),
        ("the input is updated by half", "the input is updated by half"),
        ("a PeftModel for 🤗 Transformers", "a libraryModel for library library"),
    ],
)
def test_names_are_masked_wherever_they_stand(masking: Any, text: str, masked: str) -> None:
    assert masking.mask_names(text) == masked


def test_masking_leaves_nothing_to_mask(masking: Any, docstrings: Any) -> None:
    for docstring in docstrings:
        assert masking.mask_names(docstring.text) == docstring.text


@pytest.mark.parametrize(
    ("docstring", "text"),
    [
        ("One line.", "One line."),
        ("  One\n    line.\n\n    More   of it.\n", "One line. More of it."),
        ("Sum.\n\n    Parameters\n    ----------\n    x : int", "Sum."),
        ("Sum.\n\n    Args:\n        x: addend", "Sum."),
        ("Sum.\n\n    :param x: addend", "Sum."),
        ("Sum.\n    >>> f(1)", "Sum."),
        ("=====\nTitle\n=====\n\nBody of it.", "Title Body of it."),
        ("Sum.\n\nExplanation\n===========\n\nLong.", "Sum."),
        ("a" * 200 + "\n\n" + "b" * 200, "a" * 200),
        ("word " * 100, ("word " * 60).strip()),
        ("x" * 400, "x" * 300),
        ("", ""),
    ],
)
def test_a_text_is_the_prose_before_the_first_section(
    reading: Any, docstring: str, text: str
) -> None:
    assert reading.prose(docstring) == text


def test_docstrings_are_read_with_their_kind_and_without_nested_functions(
    reading: Any, tmp_path: Path
) -> None:
    source = '''"""The module of this test file."""
def f():
    """The function of this test file."""
    def inner():
        """The inner function of this file."""
class C:
    """The class of this test file."""
    async def m(self):
        """The method of this test file."""
    def short(self):
        """Too short."""
'''
    path = tmp_path / "example.py"
    path.write_text(source)
    found = reading._read_module("numpy", "numpy.example", path)
    assert [(d.kind, d.text.split()[1]) for d in found] == [
        ("module", "module"),
        ("function", "function"),
        ("function", "inner"),
        ("class", "class"),
        ("method", "method"),
    ]


def test_a_file_that_is_not_python_is_passed_over(reading: Any, tmp_path: Path) -> None:
    path = tmp_path / "template.py"
    path.write_text("class {{ name }}:\n")
    assert reading._read_module("numpy", "numpy.template", path) == []


def test_large_libraries_and_modules_do_not_swamp_the_rest(
    reading: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LIBRARY_TEXTS", 50)
    monkeypatch.setattr(reading, "MODULE_TEXTS", 8)
    found = reading.read_library("rich")
    modules = [docstring.module for docstring in found]
    assert len(found) == 50
    assert max(map(modules.count, modules)) <= 8


def test_both_tasks_read_the_same_texts(registry: Registry, context: DataContext) -> None:
    library = load(registry, context, "docstring_library")
    kind = load(registry, context, "docstring_kind")
    for split in ("train", "validation", "test"):
        texts = getattr(library, split).texts
        assert sorted(texts) == sorted(getattr(kind, split).texts)
    assert kind.label_names == ("module", "class", "method", "function")


def test_the_corpus_is_collected_once(
    registry: Registry, corpus: Any, context: DataContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(registry, context, "docstring_library")
    monkeypatch.setattr(corpus, "read_library", lambda library: pytest.fail("collected again"))
    assert load(registry, context, "docstring_library").train.texts == first.train.texts
    load(registry, context, "docstring_kind")


@pytest.mark.parametrize("damage", ["truncated", "edited", "empty", "no text"])
def test_a_damaged_cache_file_is_collected_anew(
    corpus: Any,
    docstrings: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
) -> None:
    monkeypatch.setattr(corpus, "read_library", lambda library: docstrings[:50])
    first = corpus.load_corpus(tmp_path, ["rich"])
    (path,) = tmp_path.glob("rich-*.jsonl")
    content = path.read_bytes()
    path.write_bytes(
        {
            "truncated": content[:-100],
            "edited": content.replace(b"the", b"The", 1),
            "empty": b"",
            "no text": b"\xff\xfe{",
        }[damage]
    )
    assert corpus.load_corpus(tmp_path, ["rich"]) == first
    assert path.read_bytes() == content
    assert not list(tmp_path.glob("*.tmp"))


def test_another_version_of_a_library_has_a_cache_file_of_its_own(
    corpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "read_library", lambda library: ())
    for version in ("1.0", "2.0"):
        monkeypatch.setattr(corpus, "installed_version", lambda library, version=version: version)
        corpus.load_corpus(tmp_path, ["rich"])
    assert len(list(tmp_path.glob("rich-*.jsonl"))) == 2


def test_a_sample_is_stratified_and_holds_the_smaller_ones(
    registry: Registry, context: DataContext
) -> None:
    full, half, few = (
        load(registry, context, "docstring_kind", train_examples=size).train
        for size in (None, 400, 40)
    )
    assert (len(half), len(few)) == (400, 40)
    assert set(few.texts) < set(half.texts) < set(full.texts)
    shares = [np.bincount(split.labels, minlength=4) / len(split) for split in (full, half)]
    assert np.abs(shares[0] - shares[1]).max() < 0.01


def test_the_smallest_sample_misses_no_class(registry: Registry, context: DataContext) -> None:
    train = load(registry, context, "docstring_kind", train_examples=len(SMALL) + 4).train
    assert set(train.labels) == {0, 1, 2, 3}


def test_both_tasks_share_their_texts(registry: Registry, context: DataContext) -> None:
    library, kind = (
        load(registry, context, task, train_examples=50, validation_examples=20)
        for task in ("docstring_library", "docstring_kind")
    )
    assert library.train.texts == kind.train.texts
    assert library.validation.texts == kind.validation.texts


def test_another_sample_seed_draws_other_texts(registry: Registry, context: DataContext) -> None:
    first, second = (
        load(registry, context, "docstring_kind", train_examples=100, sample_seed=seed).train
        for seed in (0, 1)
    )
    assert set(first.texts) != set(second.texts)


def test_a_sample_larger_than_the_split_is_the_whole_split(
    registry: Registry, context: DataContext
) -> None:
    full = load(registry, context, "docstring_kind").test
    assert load(registry, context, "docstring_kind", test_examples=10**6).test.texts == full.texts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"libraries": ["numpy", "nunpy"]}, r"got \['numpy', 'nunpy'\]"),
        ({"libraries": ["numpy"]}, "at least 2 names"),
        ({"libraries": "numpy"}, "must be a list"),
        ({"libraries": ["numpy", "numpy"]}, "without repeats"),
        ({"train_examples": 19}, "train_examples must be at least 20, got 19"),
        ({"test_examples": 0}, "test_examples must be at least 1, got 0"),
        ({"train": 15}, "'train' isn't one of its options"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(
    registry: Registry, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        registry.build("docstring_library", options)


def test_a_library_that_is_not_installed_is_named_with_a_remedy(
    reading: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(reading.LIBRARIES, "rich", "no-such-distribution")
    with pytest.raises(TaskError, match=r"'rich' must be installed.*\nInstall no-such-dist"):
        reading.installed_version("rich")


def test_another_process_reads_the_same_splits_and_imports_none_of_the_libraries(
    registry: Registry, context: DataContext, tmp_path: Path
) -> None:
    code = """
import hashlib, sys
from pathlib import Path
from coral.ports import DataContext
from coral.tasks import discover
options = {"libraries": ["rich", "accelerate"], "train_examples": 200}
data = discover().build("docstring_library", options).load(DataContext(cache_dir=Path(sys.argv[1])))
print(hashlib.sha256(repr((data.train.texts, data.test.texts)).encode()).hexdigest())
print({"rich", "accelerate", "datasets", "torch", "sklearn"} & set(sys.modules) or "none")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    options = {"libraries": ["rich", "accelerate"], "train_examples": 200}
    data = load(registry, context, "docstring_library", **options)
    texts = repr((data.train.texts, data.test.texts))
    assert done.stdout.split() == [hashlib.sha256(texts.encode()).hexdigest(), "none"]
