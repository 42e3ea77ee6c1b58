from __future__ import annotations

import subprocess
import sys

import coral.storage


def test_every_public_name_is_there() -> None:
    assert all(hasattr(coral.storage, name) for name in coral.storage.__all__)
    assert sorted(coral.storage.__all__) == coral.storage.__all__


def test_storage_imports_no_torch() -> None:
    script = "import sys, coral.storage; print('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout == "False\n"
