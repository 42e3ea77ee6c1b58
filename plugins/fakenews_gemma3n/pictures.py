"""Images of examples: read once, checked, and kept under the digest of what is in them."""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from coral.errors import TaskError

FaultKind = Literal["missing", "broken"]


@dataclass(frozen=True, slots=True)
class Picture:
    """An image that can be read, in the cache.

    Attributes:
        sha256: of the file; it alone is the picture's identity.
        folder: that it is in.
    """

    sha256: str
    folder: Path = field(repr=False, compare=False)

    def pixels(self) -> Any:
        """Return a Pillow image in RGB."""
        return _decoded((self.folder / self.sha256).read_bytes())


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFault:
    """An image that can't be used."""

    row: int
    kind: FaultKind
    reason: str


def require_pillow(task: str) -> None:
    """Check that images can be read.

    Raises:
        TaskError: the library for it isn't here.
    """
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise TaskError(
            f"task {task!r} needs Pillow to read images, which isn't installed.\n"
            "Install it: pip install 'coral-lora[multimodal]'."
        ) from error


def pictures_in(
    values: Sequence[Any], root: Path, folder: Path
) -> tuple[list[Picture | None], list[PictureFault]]:
    """Return the pictures of a column, None where a row has none, and what is wrong with others.

    Args:
        values: a path, the bytes of a file, or a mapping with either, as ``datasets`` has it. None
            and an empty text mean that there is no image.
        root: where relative paths begin.
        folder: in the cache, where pictures are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: list[Picture | None] = []
    faults = []
    for row, value in enumerate(values):
        picture: Picture | None = None
        if not _is_nothing(value):
            try:
                picture = _kept(_content(value, root), folder)
            except (FileNotFoundError, IsADirectoryError) as error:
                reason = f"there is no file {error.filename}"
                faults.append(PictureFault(row=row, kind="missing", reason=reason))
            except (OSError, ValueError, SyntaxError) as error:  # all that Pillow raises
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                faults.append(PictureFault(row=row, kind="broken", reason=reason))
        found.append(picture)
    return found, faults


def _is_nothing(value: Any) -> bool:
    if isinstance(value, Mapping):
        return not value.get("bytes") and not value.get("path")
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _content(value: Any, root: Path) -> bytes:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value["path"]
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError(f"an image must be a path or the bytes of a file, got {value!r:.40}")
    if "://" in value:
        raise ValueError(f"images are not downloaded, got {value}")
    return (root / Path(value).expanduser()).read_bytes()


def _kept(content: bytes, folder: Path) -> Picture:
    """Return the picture of a file's content; what is in the folder was checked before."""
    sha256 = hashlib.sha256(content).hexdigest()
    place = folder / sha256
    if not place.exists():
        _decoded(content)
        own = folder / f"{sha256}.{os.getpid()}"
        own.write_bytes(content)
        own.replace(place)
    return Picture(sha256, folder)


def _decoded(content: bytes) -> Any:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        return image.convert("RGB")
