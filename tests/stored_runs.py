"""Runs as the command line stores them, trained by a script that writes real files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from coral import compose
from coral.backends import Backend, checkpoints_at
from coral.ports import Observer, TrainingJob
from coral.records import Outcome
from coral.settings import RunSpec
from coral.storage import FsspecCheckpointStore
from tests.scripted_runs import WatchedExecutor


class Scripted:
    """Starts and resumes a run in ``folder/run`` with its cache in ``folder/cache``.

    Attributes:
        jobs: of the last sitting.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "run"
        self.cache = folder / "cache"
        self.jobs: list[TrainingJob] = []
        monkeypatch.delenv("CORAL_CACHE", raising=False)
        monkeypatch.setattr(compose, "backend", self._backend)
        monkeypatch.setattr(compose, "check_survey", lambda config, survey: None)

    def start(self, overrides: Mapping[str, str], **options: Any) -> None:
        source = compose.Source(path=compose.find_config("quickstart"))
        places = {"cache": str(self.cache), "output_dir": str(self.folder)}
        config = compose.load(source, {**overrides, **places})
        compose.start_run(config, source, compose.SilentObserver(), **options)

    def resume(self, **options: Any) -> None:
        compose.resume_run(self.folder, compose.SilentObserver(), **options)

    @contextmanager
    def _backend(
        self, spec: RunSpec, folders: Sequence[Path], observer: Observer, fresh: str = ""
    ) -> Iterator[Backend]:
        location = Path(checkpoints_at(spec, fresh))

        def write(job: TrainingJob, outcome: Outcome) -> Outcome:
            if outcome.checkpoint:
                file = location / outcome.checkpoint[:2] / outcome.checkpoint
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(bytes(outcome.checkpoint_bytes))
            return outcome

        executor = WatchedExecutor(edit=write)
        self.jobs = executor.jobs
        yield Backend(
            executor=executor,
            survey=executor.survey(),
            checkpoints=FsspecCheckpointStore(location),
            workers=1,
        )
