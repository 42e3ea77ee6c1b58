"""Reading docstrings from the source of installed libraries, which are never imported."""

from __future__ import annotations

import ast
import importlib.util
import platform
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal, get_args

from coral.errors import TaskError
from coral.rng import derive_seed

from .masking import mask_names

Kind = Literal["module", "class", "method", "function"]
KINDS: tuple[str, ...] = get_args(Kind)

STDLIB = "stdlib"

LIBRARIES: Mapping[str, str] = {
    STDLIB: "",
    "numpy": "numpy",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "pandas": "pandas",
    "torch": "torch",
    "transformers": "transformers",
    "peft": "peft",
    "datasets": "datasets",
    "sympy": "sympy",
    "networkx": "networkx",
    "huggingface_hub": "huggingface_hub",
    "pydantic": "pydantic",
    "rich": "rich",
    "accelerate": "accelerate",
    "pygments": "Pygments",
}
"""Import name to distribution. Coral needs all of them, or what it needs does."""

LIBRARY_TEXTS = 1000
"""Most texts of one library. Large ones would swamp the rest and cost most of the time."""

MODULE_TEXTS = 40
"""Most texts of one module, so that no module decides what its split looks like."""

MIN_CHARACTERS = 20
MAX_CHARACTERS = 300

_SKIPPED_STDLIB = {"antigravity", "ensurepip", "idlelib", "lib2to3", "this", "turtledemo"}
_SKIPPED_PART = re.compile(
    r"_?tests?|_?testing|conftest|test_.*|.*_tests?|_?vendor(ed)?|externals|third_party|_?external"
    r"|array_api_(compat|extra)"
)
_NOT_LETTERS = re.compile(r"[\W\d_]+")
_TITLE = re.compile(r"\A(?:[-=~^*#]{3,}\n)?(.+)\n[-=~^*#]{3,}$", re.MULTILINE)
_SECTION = re.compile(
    r"^(?:"
    r"(?:parameters|arguments|args|keyword args|params|attributes|methods|returns?|yields|raises"
    r"|warns|examples?|notes?|see also|references|inputs?|outputs?|shape|usage|warnings?)\s*:{0,2}$"
    r"|.+\n[-=~^*#]{3,}$|>>>|```|[:@]\w+[ :]|\.\. )",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Docstring:
    """One documented thing.

    Attributes:
        module: dotted name of the module that holds it.
        text: what it is for, on one line, library names masked.
    """

    library: str
    kind: Kind
    module: str
    text: str


def installed_version(library: str) -> str:
    """Return the version of ``library``; the standard library's is Python's.

    Raises:
        TaskError: it isn't installed.
    """
    if library == STDLIB:
        return platform.python_version()
    try:
        return metadata.version(LIBRARIES[library])
    except metadata.PackageNotFoundError:
        raise TaskError(
            f"docstrings: the library {library!r} must be installed to be read.\n"
            f"Install {LIBRARIES[library]}, or list others in the option 'libraries'."
        ) from None


def read_library(library: str) -> tuple[Docstring, ...]:
    """Read at most ``LIBRARY_TEXTS`` different texts, module by module in the order of a hash.

    The order makes it a fair sample of the library and spares reading the rest.
    """
    modules = sorted(_modules(library), key=lambda found: derive_seed(0, "read", found[0]))
    found: dict[str, Docstring] = {}
    for module, path in modules:
        fresh = {
            fingerprint(docstring.text): docstring
            for docstring in reversed(_read_module(library, module, path))
        }
        chosen = sorted(fresh.keys() - found.keys(), key=lambda key: derive_seed(0, "text", key))
        found.update((key, fresh[key]) for key in chosen[:MODULE_TEXTS])
        if len(found) >= LIBRARY_TEXTS:
            break
    return tuple(found.values())[:LIBRARY_TEXTS]


def fingerprint(text: str) -> str:
    """Return the letters of ``text`` in lower case: equal for texts that hardly differ."""
    return _NOT_LETTERS.sub("", text.casefold())


def prose(docstring: str) -> str:
    """Return the first paragraphs on one line, up to the first section, list of fields or code.

    Paragraphs are taken whole while they fit into ``MAX_CHARACTERS``; a longer first one is cut
    between words.
    """
    lines = "\n".join(line.strip() for line in docstring.strip().splitlines())
    lines = _TITLE.sub(r"\1\n", lines)
    section = _SECTION.search(lines)
    body = lines[: section.start()] if section else lines
    paragraphs = [" ".join(paragraph.split()) for paragraph in re.split(r"\n\n+", body)]
    text = paragraphs[0]
    for paragraph in paragraphs[1:]:
        if len(text) + 1 + len(paragraph) > MAX_CHARACTERS:
            break
        text = f"{text} {paragraph}".strip()
    if len(text) > MAX_CHARACTERS:
        text = text[: MAX_CHARACTERS + 1].rpartition(" ")[0] or text[:MAX_CHARACTERS]
    return text


def _modules(library: str) -> Iterator[tuple[str, Path]]:
    """Yield dotted name and path of each module of ``library`` that isn't a test or a copy."""
    for folder, top in _roots(library):
        if folder.is_file():
            yield top, folder
            continue
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            if any(_SKIPPED_PART.fullmatch(part) for part in parts):
                continue
            yield ".".join((top, *parts)).removesuffix(".__init__"), path


def _roots(library: str) -> Iterator[tuple[Path, str]]:
    """Yield the folders or single files that make up ``library``, with their import names."""
    if library == STDLIB:
        stdlib = Path(sysconfig.get_path("stdlib"))
        for name in sorted(sys.stdlib_module_names - _SKIPPED_STDLIB):
            for path in (stdlib / name, stdlib / f"{name}.py"):
                if path.exists() and not name.startswith("_"):
                    yield path, name
        return
    spec = importlib.util.find_spec(library)
    for location in (spec and spec.submodule_search_locations) or ():
        yield Path(location), library


def _read_module(library: str, module: str, path: Path) -> list[Docstring]:
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        # Templates and files for another Python: they hold no docstrings to be had.
        return []
    texts = (
        (kind, mask_names(prose(docstring))) for kind, docstring in _docstrings(tree, "module")
    )
    return [
        Docstring(library=library, kind=kind, module=module, text=text)
        for kind, text in texts
        if len(text) >= MIN_CHARACTERS
    ]


def _docstrings(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, kind: Kind
) -> Iterator[tuple[Kind, str]]:
    docstring = ast.get_docstring(node, clean=False)
    if docstring:
        yield kind, docstring
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from _docstrings(child, "class")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child, "method" if kind == "class" else "function")
