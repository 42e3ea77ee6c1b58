"""What every task must keep to, as a pytest class.

class TestMyTask(TaskConformance):
    name = "my_task"
    folders = (Path(__file__).parent,)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from coral.ports import Task
from coral.tasks import Plugin, TaskCalls
from coral.testing.subject import Source, Subject
from coral.testing.task_checks import CHECKS, IN_ANOTHER_PROCESS, Check, CheckError, sentence


class TaskConformance:
    """Checks a task; every rule of ``task_checks`` is a test.

    Attributes:
        name: under which a plugin provides the task.
        options: of the task.
        folders: of plugins.

    A subclass gives these. Or it overrides the fixture ``task``; then nothing is known of how
    another process would build the task, and that it does so is not checked.
    """

    name: ClassVar[str] = ""
    options: ClassVar[Mapping[str, Any]] = {}
    folders: ClassVar[tuple[Path, ...]] = ()

    @pytest.fixture
    def task(self) -> Task:
        if not self.name:
            pytest.fail("give `name`, or override the fixture `task` to return the task under test")
        return self._source().calls().task

    @pytest.fixture(scope="class")
    @classmethod
    def cache_dir(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("task_cache")

    @pytest.mark.parametrize("check", CHECKS, ids=sentence)
    def test_the_task_keeps_to_the_rule_that(
        self, check: Check, task: Task, cache_dir: Path
    ) -> None:
        module = type(task).__module__
        calls = TaskCalls(task=task, plugin=Plugin(name=module, origin=module))
        source = self._source() if self.name else None
        if source is None and check is IN_ANOTHER_PROCESS:
            pytest.skip("the task has no name here under which another process would build it")
        try:
            check(Subject(calls=calls, cache_dir=cache_dir, source=source))
        except CheckError as error:
            pytest.fail(str(error), pytrace=False)

    @classmethod
    def _source(cls) -> Source:
        return Source(name=cls.name, options=cls.options, folders=cls.folders)
