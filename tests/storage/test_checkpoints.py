from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from coral.errors import CheckpointError
from coral.storage import DirectoryCheckpointStore

CONTENT = b"weights" * 1000


@pytest.fixture
def store(tmp_path: Path) -> DirectoryCheckpointStore:
    return DirectoryCheckpointStore(tmp_path / "checkpoints")


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_bytes_come_back_from_the_hash_that_names_them(
    store: DirectoryCheckpointStore, tmp_path: Path
) -> None:
    address = store.put(CONTENT)
    assert address == hashlib.sha256(CONTENT).hexdigest()
    assert store.get(address) == CONTENT
    assert files_in(tmp_path) == [tmp_path / "checkpoints" / address[:2] / address]


def test_identical_content_is_stored_once(store: DirectoryCheckpointStore, tmp_path: Path) -> None:
    address = store.put(CONTENT)
    (file,) = files_in(tmp_path)
    first = file.stat()
    assert store.put(CONTENT) == address
    assert files_in(tmp_path) == [file]
    assert file.stat().st_ino == first.st_ino


def test_a_missing_checkpoint_is_reported(store: DirectoryCheckpointStore) -> None:
    with pytest.raises(CheckpointError, match=r"missing.\nTrain the stages again"):
        store.get("0" * 64)


@pytest.mark.parametrize(
    "damaged", [b"", CONTENT[:-1], CONTENT[:-1] + b"x"], ids=["empty", "truncated", "changed"]
)
def test_a_damaged_checkpoint_is_reported_and_dropped(
    store: DirectoryCheckpointStore, tmp_path: Path, damaged: bytes
) -> None:
    address = store.put(CONTENT)
    (file,) = files_in(tmp_path)
    file.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="damaged and was dropped"):
        store.get(address)
    assert not file.exists()
    store.put(CONTENT)
    assert store.get(address) == CONTENT


def test_putting_again_mends_a_truncated_checkpoint(
    store: DirectoryCheckpointStore, tmp_path: Path
) -> None:
    address = store.put(CONTENT)
    (file,) = files_in(tmp_path)
    file.write_bytes(CONTENT[:10])
    store.put(CONTENT)
    assert store.get(address) == CONTENT


def test_discarding_passes_over_what_is_missing(store: DirectoryCheckpointStore) -> None:
    address = store.put(CONTENT)
    store.discard(["0" * 64, address])
    with pytest.raises(CheckpointError, match="missing"):
        store.get(address)


def test_an_address_cannot_lead_out_of_the_folder(
    store: DirectoryCheckpointStore, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(b"")
    for call in (lambda: store.get("../../secret"), lambda: store.discard(["../../secret"])):
        with pytest.raises(CheckpointError, match="must be 64 hexadecimal digits"):
            call()
    assert (tmp_path / "secret").exists()


def test_a_write_that_fails_names_path_and_remedy_and_leaves_nothing(
    store: DirectoryCheckpointStore,
    tmp_path: Path,
    file_size_limit: Callable[[int], AbstractContextManager[None]],
) -> None:
    with (
        file_size_limit(100),
        pytest.raises(CheckpointError, match=r"checkpoints/.*can't be written: .*\nFree space"),
    ):
        store.put(CONTENT)
    assert files_in(tmp_path) == []


def test_a_folder_that_cannot_be_written_names_path_and_remedy(
    shared_folder: Path, without_write_permission: Callable[[], AbstractContextManager[None]]
) -> None:
    store = DirectoryCheckpointStore(shared_folder)
    with (
        without_write_permission(),
        pytest.raises(CheckpointError, match=r"Permission denied.\n.*CORAL_CACHE"),
    ):
        store.put(CONTENT)
