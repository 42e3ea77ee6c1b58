"""A YAML document with the line of every key, so that a fault can say where it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from coral.errors import ConfigError, Fault

KeyPath = tuple[str | int, ...]
OVERRIDE = "command line"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A config as the user wrote it.

    Attributes:
        source: path as the user gave it.
        data: the mapping.
        lines: key path to line, counted from 1.
        overridden: key paths that came from the command line.
    """

    source: str
    data: dict[str, Any]
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    overridden: frozenset[KeyPath] = frozenset()

    def where(self, path: KeyPath) -> str:
        """Return ``file:line`` of a key, or of the nearest one around it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.overridden:
                return OVERRIDE
            if path[:length] in self.lines:
                return f"{self.source}:{self.lines[path[:length]]}"
        return self.source

    def fault(self, path: KeyPath, rule: str, remedy: str) -> Fault:
        """Return a fault of the key at ``path``."""
        return Fault(where=self.where(path), key=dotted(path), rule=rule, remedy=remedy)


def dotted(path: KeyPath) -> str:
    """Return a key path as people write it, such as ``training_stages[1].name``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def read_document(path: Path) -> Document:
    """Read a config file.

    Raises:
        ConfigError: the file can't be read, isn't text, isn't YAML, isn't a mapping, or has
            duplicate keys.
    """
    source = str(path)
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise _whole(
            source, f"a config is UTF-8 text; byte {error.start} is not", "Name a YAML file."
        ) from error
    except OSError as error:
        raise _whole(
            source,
            f"the config can't be read: {error.strerror}",
            "Check the path; `coral evolve quickstart` runs the bundled example.",
        ) from error
    if "\x00" in text:
        raise _whole(source, "a config is text, this file holds binary data", "Name a YAML file.")
    return parse_document(text, source)


def parse_document(text: str, source: str) -> Document:
    """Parse a config's text. Raises as ``read_document`` does."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _syntax(source, error) from error
    except RecursionError as error:
        raise _whole(source, "YAML syntax: nested too deeply", "Flatten the file.") from error
    if data is None:
        raise _whole(source, "a config is a mapping of keys, this one is empty", "Add base_model and tasks.")
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise _whole(
            source,
            f"a config is a mapping of keys, got {type(data).__name__}",
            "Write `key: value` lines, such as `base_model: ...`.",
        )
    lines: dict[KeyPath, int] = {}
    faults: list[Fault] = []
    for path, line, duplicate in _walk(node, ()):
        if duplicate:
            faults.append(
                Fault(
                    where=f"{source}:{line}",
                    key=dotted(path),
                    rule=f"a key may appear once, it is already on line {lines[path]}",
                    remedy="Remove one of the two.",
                )
            )
        else:
            lines[path] = line
    if faults:
        raise ConfigError(faults)
    return Document(source=source, data=data, lines=lines)


def _walk(node: yaml.Node, path: KeyPath) -> Iterator[tuple[KeyPath, int, bool]]:
    """Yield each key path with its line, and whether it repeats an earlier key."""
    if isinstance(node, yaml.MappingNode):
        seen: set[Any] = set()
        for key, value in node.value:
            own = (*path, key.value if isinstance(key.value, str) else "?")
            yield own, key.start_mark.line + 1, own in seen
            seen.add(own)
            yield from _walk(value, own)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield (*path, i), value.start_mark.line + 1, False
            yield from _walk(value, (*path, i))


def with_overrides(document: Document, overrides: Mapping[str, str]) -> Document:
    """Return the document with ``dotted.key`` set to a YAML value from the command line.

    Raises:
        ConfigError: a key is empty, a value isn't YAML, or a key leads through something that is
            not a mapping.
    """
    data: dict[str, Any] = yaml.safe_load(yaml.safe_dump(document.data))
    faults: list[Fault] = []
    paths: set[KeyPath] = set()
    for key, text in overrides.items():
        path: KeyPath = tuple(int(p) if p.isdigit() else p for p in key.split("."))
        try:
            _assign(data, path, yaml.safe_load(text))
        except (yaml.YAMLError, TypeError, LookupError) as error:
            rule = f"an override is key=value with a key of the config, got {key}={text}"
            faults.append(
                Fault(where=OVERRIDE, key=key, rule=rule, remedy=f"Correct it: {error!s:.120}")
            )
        paths.add(path)
    if faults:
        raise ConfigError(faults)
    return Document(
        source=document.source, data=data, lines=document.lines, overridden=frozenset(paths)
    )


def _assign(data: Any, path: KeyPath, value: Any) -> None:
    for part in path[:-1]:
        if isinstance(data, dict):
            data = data.setdefault(part, {})
        elif isinstance(data, list) and isinstance(part, int):
            data = data[part]
        else:
            raise TypeError(f"{part!r} leads through a value that is not a mapping")
    if not isinstance(data, dict | list) or (isinstance(data, list) and path[-1] not in range(len(data))):
        raise TypeError(f"{path[-1]!r} leads through a value that is not a mapping")
    data[path[-1]] = value


def _whole(source: str, rule: str, remedy: str) -> ConfigError:
    return ConfigError([Fault(where=source, key="", rule=rule, remedy=remedy)])


def _syntax(source: str, error: yaml.YAMLError) -> ConfigError:
    mark = getattr(error, "problem_mark", None)
    where = f"{source}:{mark.line + 1}" if mark else source
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    fault = Fault(
        where=where,
        key="",
        rule=f"YAML syntax: {problem}",
        remedy="Check indentation, quotes and colons on this line and the one above.",
    )
    return ConfigError([fault])
