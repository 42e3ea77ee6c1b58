"""What the tests of ``coral.spec`` share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from coral.errors import ConfigError, Fault

HEAD = """\
base_model: org/encoder
tasks: [origin, kind]
"""
"""The first two lines, so that a test's own begin at line 3."""


def faults_of(load: Callable[[], object]) -> tuple[Fault, ...]:
    """Return the faults that keep a config from loading."""
    with pytest.raises(ConfigError) as caught:
        load()
    assert caught.value.exit_code == 2
    return caught.value.faults


def only(faults: tuple[Fault, ...]) -> Fault:
    """Return the one fault."""
    assert len(faults) == 1, "\n".join(map(str, faults))
    return faults[0]
