from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Barrier
from typing import Any

import fsspec
import pytest

from coral.errors import CheckpointError, ConfigError
from coral.storage import FsspecCheckpointStore

CONTENT = b"weights" * 1000
ADDRESS = hashlib.sha256(CONTENT).hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()


@pytest.fixture(params=["folder", "memory", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    match request.param:
        case "folder":
            return str(tmp_path / "checkpoints")
        case "memory":
            return f"memory://{tmp_path.name}/checkpoints"
        case _:
            return str(request.getfixturevalue("s3_location"))


@pytest.fixture
def store(location: str) -> FsspecCheckpointStore:
    return FsspecCheckpointStore(location)


class Outside:
    """The same location as somebody else sees it, who knows no addresses."""

    def __init__(self, location: str) -> None:
        options = {} if "://" in location else {"auto_mkdir": True}
        self.files, self.folder = fsspec.url_to_fs(location, use_listings_cache=False, **options)

    def names(self) -> list[str]:
        paths = self.files.find(self.folder)
        return [path.removeprefix(self.folder).removeprefix("/") for path in paths]

    def write(self, name: str, content: bytes) -> None:
        self.files.pipe_file(f"{self.folder}/{name}", content)

    def remove(self, name: str) -> None:
        self.files.rm_file(f"{self.folder}/{name}")


@pytest.fixture
def outside(location: str) -> Outside:
    return Outside(location)


def place(address: str) -> str:
    return f"{address[:2]}/{address}"


def test_bytes_come_back_from_the_hash_that_names_them(
    store: FsspecCheckpointStore, outside: Outside
) -> None:
    assert store.put(CONTENT) == ADDRESS
    assert store.get(ADDRESS) == CONTENT
    assert outside.names() == [place(ADDRESS)]


def test_whoever_opens_the_location_finds_what_others_put(
    store: FsspecCheckpointStore, location: str
) -> None:
    store.put(CONTENT)
    assert FsspecCheckpointStore(location + "/").get(ADDRESS) == CONTENT


def test_opening_and_asking_leave_no_trace(store: FsspecCheckpointStore, outside: Outside) -> None:
    assert list(store.addresses()) == []
    assert not store.holds(ADDRESS)
    assert not outside.files.exists(outside.folder)


def test_a_missing_checkpoint_is_reported(store: FsspecCheckpointStore) -> None:
    with pytest.raises(CheckpointError, match=r"missing.\nTrain the stages again"):
        store.get(ADDRESS)
    assert store.size(ADDRESS) is None
    assert not store.holds(ADDRESS)


def test_what_is_held_is_told_without_reading_it(
    store: FsspecCheckpointStore, outside: Outside
) -> None:
    store.put(CONTENT)
    assert store.holds(ADDRESS)
    assert store.size(ADDRESS) == len(CONTENT)
    outside.write(place(ADDRESS), b"damaged")
    assert store.holds(ADDRESS)
    assert store.size(ADDRESS) == 7
    outside.write(place(ADDRESS), b"")
    assert not store.holds(ADDRESS)
    assert store.size(ADDRESS) == 0


@pytest.mark.parametrize(
    "damaged", [b"", CONTENT[:-1], CONTENT[:-1] + b"x"], ids=["empty", "truncated", "changed"]
)
def test_a_damaged_checkpoint_is_reported_and_dropped(
    store: FsspecCheckpointStore, outside: Outside, damaged: bytes
) -> None:
    store.put(CONTENT)
    outside.write(place(ADDRESS), damaged)
    with pytest.raises(CheckpointError, match="damaged and was dropped"):
        store.get(ADDRESS)
    assert outside.names() == []
    store.put(CONTENT)
    assert store.get(ADDRESS) == CONTENT


def test_putting_again_mends_a_truncated_checkpoint(
    store: FsspecCheckpointStore, outside: Outside
) -> None:
    store.put(CONTENT)
    outside.write(place(ADDRESS), CONTENT[:10])
    store.put(CONTENT)
    assert store.get(ADDRESS) == CONTENT


def test_discarding_passes_over_what_is_missing(
    store: FsspecCheckpointStore, outside: Outside
) -> None:
    store.put(CONTENT)
    store.discard([OTHER, ADDRESS])
    assert outside.names() == []


def test_checkpoints_are_listed_with_their_size_and_nothing_else_is(
    store: FsspecCheckpointStore, outside: Outside
) -> None:
    store.put(CONTENT)
    store.put(b"other")
    outside.write("notes.txt", b"mine")
    outside.write(f"old/{place(ADDRESS)}", CONTENT)
    outside.write(f"aa/{ADDRESS}", CONTENT)
    assert sorted(store.addresses()) == sorted([(ADDRESS, len(CONTENT)), (OTHER, 5)])


def test_what_others_remove_is_gone_at_once(store: FsspecCheckpointStore, outside: Outside) -> None:
    store.put(CONTENT)
    assert list(store.addresses()) == [(ADDRESS, len(CONTENT))]
    outside.remove(place(ADDRESS))
    assert not store.holds(ADDRESS)
    assert list(store.addresses()) == []


def test_an_address_cannot_lead_out_of_the_location(
    store: FsspecCheckpointStore, outside: Outside
) -> None:
    outside.write("../secret", b"secret")
    calls: list[Callable[[str], object]] = [
        store.get,
        store.size,
        store.holds,
        lambda address: store.discard([address]),
    ]
    for call in calls:
        with pytest.raises(CheckpointError, match="must be 64 hexadecimal digits"):
            call("../secret")
    assert outside.files.cat_file(f"{outside.folder}/../secret") == b"secret"


def test_a_path_is_a_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = FsspecCheckpointStore(Path("checkpoints"))
    monkeypatch.chdir("/")
    store.put(CONTENT)
    assert (tmp_path / "checkpoints" / ADDRESS[:2] / ADDRESS).read_bytes() == CONTENT


def test_identical_content_is_written_once(tmp_path: Path) -> None:
    store = FsspecCheckpointStore(tmp_path)
    store.put(CONTENT)
    file = tmp_path / ADDRESS[:2] / ADDRESS
    first = file.stat()
    store.put(CONTENT)
    assert file.stat().st_ino == first.st_ino
    assert file.stat().st_mtime_ns == first.st_mtime_ns


def test_two_may_put_the_same_content_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_have_written = Barrier(2, timeout=10)
    replace = Path.replace

    def wait_and_replace(draft: Path, target: Path) -> Path:
        both_have_written.wait()
        return replace(draft, target)

    monkeypatch.setattr(Path, "replace", wait_and_replace)
    with ThreadPoolExecutor(2) as threads:
        puts = [threads.submit(FsspecCheckpointStore(tmp_path).put, CONTENT) for _ in range(2)]
    assert [put.result() for put in puts] == [ADDRESS, ADDRESS]
    assert Outside(str(tmp_path)).names() == [place(ADDRESS)]
    assert FsspecCheckpointStore(tmp_path).get(ADDRESS) == CONTENT


def test_a_write_that_fails_names_path_and_remedy_and_leaves_nothing(
    tmp_path: Path, file_size_limit: Callable[[int], AbstractContextManager[None]]
) -> None:
    store = FsspecCheckpointStore(tmp_path / "checkpoints")
    with (
        file_size_limit(100),
        pytest.raises(CheckpointError, match=r"checkpoints/.*can't be written: .*\nFree space"),
    ):
        store.put(CONTENT)
    assert Outside(str(tmp_path)).names() == []


def test_a_folder_that_cannot_be_written_names_path_and_remedy(
    shared_folder: Path, without_write_permission: Callable[[], AbstractContextManager[None]]
) -> None:
    store = FsspecCheckpointStore(shared_folder)
    with (
        without_write_permission(),
        pytest.raises(CheckpointError, match=r"Permission denied.\n.*CORAL_CACHE"),
    ):
        store.put(CONTENT)


def test_a_damaged_file_that_cannot_be_dropped_is_reported_all_the_same(
    shared_folder: Path, without_write_permission: Callable[[], AbstractContextManager[None]]
) -> None:
    store = FsspecCheckpointStore(shared_folder)
    store.put(CONTENT)
    file = shared_folder / ADDRESS[:2] / ADDRESS
    file.write_bytes(b"damaged")
    file.parent.chmod(0o555)
    with without_write_permission(), pytest.raises(CheckpointError, match="damaged"):
        store.get(ADDRESS)
    with without_write_permission(), pytest.raises(CheckpointError, match="can't be removed"):
        store.discard([ADDRESS])


def test_a_folder_that_cannot_be_listed_is_reported(
    shared_folder: Path, without_write_permission: Callable[[], AbstractContextManager[None]]
) -> None:
    (shared_folder / "checkpoints").mkdir(mode=0o000)
    store = FsspecCheckpointStore(shared_folder / "checkpoints")
    with (
        without_write_permission(),
        pytest.raises(CheckpointError, match=r"can't be listed: Permission denied"),
    ):
        list(store.addresses())


def test_a_file_that_vanishes_while_it_is_listed_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FsspecCheckpointStore(tmp_path)
    store.put(CONTENT)
    store.put(b"other")
    scandir = os.scandir

    @contextmanager
    def scan_then_lose(path: str) -> Iterator[list[os.DirEntry[str]]]:
        with scandir(path) as entries:
            found = list(entries)
        if Path(path).name == ADDRESS[:2]:
            (tmp_path / ADDRESS[:2] / ADDRESS).unlink()
        yield found

    monkeypatch.setattr(os, "scandir", scan_then_lose)
    assert list(store.addresses()) == [(OTHER, 5)]


def test_what_killed_writers_left_is_no_checkpoint_and_is_swept_after_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    store = FsspecCheckpointStore(tmp_path)
    with monkeypatch.context() as killed:
        killed.setattr(Path, "replace", die)
        killed.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            store.put(CONTENT)
    [draft] = (tmp_path / ADDRESS[:2]).iterdir()
    assert list(store.addresses()) == []
    assert not store.holds(ADDRESS)
    hour = 3600
    for age, is_left in ((hour - 60, True), (hour + 60, False)):
        os.utime(draft, (time.time() - age,) * 2)
        assert list(store.addresses()) == []
        assert draft.exists() == is_left


ACTIONS: dict[str, Callable[[FsspecCheckpointStore], object]] = {
    "written": lambda store: store.put(CONTENT),
    "read": lambda store: store.get(ADDRESS),
    "looked up": lambda store: store.size(ADDRESS),
    "listed": lambda store: list(store.addresses()),
    "removed": lambda store: store.discard([ADDRESS]),
}
REMEDY = r"\nCheck that the bucket exists and this machine reaches it"


def test_a_bucket_that_does_not_exist_is_reported(s3_environment: str) -> None:
    store = FsspecCheckpointStore("s3://coral-no-such-bucket/checkpoints")
    for action in ("written", "listed"):
        with pytest.raises(
            CheckpointError,
            match=f"s3://coral-no-such-bucket/.*can't be {action}: .*does not exist.{REMEDY}",
        ):
            ACTIONS[action](store)
    with pytest.raises(CheckpointError, match="missing"):
        store.get(ADDRESS)
    assert not store.holds(ADDRESS)


def test_a_server_that_denies_access_is_reported(
    s3_location: str, s3_access_denied: Callable[[], AbstractContextManager[None]]
) -> None:
    store = FsspecCheckpointStore(s3_location)
    store.put(CONTENT)
    with s3_access_denied():
        for action in ("read", "looked up", "listed", "removed"):
            with pytest.raises(CheckpointError, match=f"can't be {action}: .*{REMEDY}"):
                ACTIONS[action](store)
    assert store.get(ADDRESS) == CONTENT


def test_a_server_that_is_down_is_reported(
    s3_environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    store = FsspecCheckpointStore("s3://bucket/checkpoints")
    for action in ("read", "looked up", "listed", "removed"):
        message = f"can't be {action}: Could not connect.*{REMEDY}"
        with pytest.raises(CheckpointError, match=message):
            ACTIONS[action](store)
    s3fs.S3FileSystem.clear_instance_cache()


def test_missing_credentials_are_reported(
    s3_location: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import s3fs

    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    store = FsspecCheckpointStore(s3_location)
    with pytest.raises(CheckpointError, match=r"Unable to locate credentials.*\n.*environment"):
        store.put(CONTENT)
    s3fs.S3FileSystem.clear_instance_cache()


MISSING_DRIVERS = """
import sys
from coral.errors import ConfigError
from coral.storage import FsspecCheckpointStore

for scheme, driver in {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}.items():
    sys.modules[driver] = None
    try:
        FsspecCheckpointStore(f"{scheme}://bucket/checkpoints")
    except ConfigError as error:
        rule, remedy = str(error).split("\\n")
        assert f"{scheme}://bucket/checkpoints: {scheme}:// needs the package {driver}" in rule
        assert "pip install 'coral-lora[cloud]'" in remedy
        print(driver)
"""


def test_a_driver_that_is_not_installed_is_named_with_the_extra_that_brings_it() -> None:
    result = subprocess.run(
        [sys.executable, "-c", MISSING_DRIVERS], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["s3fs", "gcsfs", "adlfs"]


def test_a_location_with_credentials_in_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="no user name") as caught:
        FsspecCheckpointStore("s3://key:secret@bucket/checkpoints")
    assert "secret" not in str(caught.value)


def test_importing_storage_loads_no_driver() -> None:
    script = "import sys, coral.storage; print({'fsspec', 's3fs'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout == "set()\n"
