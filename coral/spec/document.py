"""A YAML document with the line of every key, so that a fault can say where it is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from coral.errors import ConfigError, Fault

KeyPath = tuple[str | int, ...]
OVERRIDE = "command line"
MOST_KEYS = 100_000
DEEPEST = 60
_EXPONENT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")


class _Loader(yaml.SafeLoader):
    """Builds plain values only, and reads ``2e-4`` as a number: YAML 1.1 wants a dot there."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Give the values that Python refuses, such as the date 2020-13-45, their line."""
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            raise yaml.constructor.ConstructorError(
                problem=f"not a value: {error}", problem_mark=node.start_mark
            ) from error


class _Dumper(yaml.SafeDumper):
    """Puts into quotes what ``_Loader`` would read as a number, and writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A config as the user wrote it.

    Attributes:
        source: path as the user gave it.
        data: the mapping.
        lines: key path to line, counted from 1.
        overridden: key paths that came from the command line.
        origins: key path to the one that the user wrote, where the data were translated from a
            config of another trainer.
    """

    source: str
    data: dict[str, Any]
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    overridden: frozenset[KeyPath] = frozenset()
    origins: Mapping[KeyPath, KeyPath] = field(default_factory=dict)

    def written(self, path: KeyPath) -> KeyPath:
        """Return a key path as the user wrote it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return (*self.origins[path[:length]], *path[length:])
        return path

    def where(self, path: KeyPath) -> str:
        """Return ``file:line`` of a key, or of the nearest one around it."""
        path = self.written(path)
        if any(path[:length] in self.overridden for length in range(1, len(path) + 1)):
            return OVERRIDE
        around = (path[:length] for length in range(len(path), 0, -1))
        line = next((self.lines[prefix] for prefix in around if prefix in self.lines), 1)
        return f"{self.source}:{line}"

    def fault(self, path: KeyPath, rule: str, remedy: str) -> Fault:
        """Return a fault of the key at ``path``."""
        return _fault(self.where(path), dotted(self.written(path)), rule, remedy)


def dotted(path: KeyPath) -> str:
    """Return a key path as people write it, such as ``training_stages[1].name``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def shown(value: Any) -> str:
    """Return a value as YAML flow text, shortened."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def read_document(path: Path, noun: str = "config") -> Document:
    """Read a config file, or another YAML file of Coral's.

    Args:
        noun: what messages call it.

    Raises:
        ConfigError: the file can't be read, isn't text, isn't YAML, isn't a mapping, or has
            duplicate keys.
    """
    source = str(path)
    try:
        content = path.read_bytes()
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _whole(
            f"{source}:{line}",
            f"a {noun} is UTF-8 text, got byte 0x{content[error.start]:02x} at offset"
            f" {error.start}",
            "Name a YAML file, or save this one as UTF-8.",
        ) from error
    except OSError as error:
        raise _whole(
            source,
            f"the {noun} can't be read: {error.strerror}",
            "Name a YAML file; `coral evolve quickstart` runs the bundled example.",
        ) from error
    if "\x00" in text:
        line = text.count("\n", 0, text.index("\x00")) + 1
        raise _whole(
            f"{source}:{line}",
            f"a {noun} is text, this file holds binary data",
            "Name a YAML file.",
        )
    return parse_document(text, source, noun)


def parse_document(text: str, source: str, noun: str = "config") -> Document:
    """Parse a file's text. Takes and raises what ``read_document`` does."""
    try:
        data, keys = _parse(text, source)
    except yaml.YAMLError as error:
        raise _syntax(source, text, error) from error
    except RecursionError as error:
        raise _whole(
            source,
            f"a {noun} has at most {DEEPEST} levels and {MOST_KEYS:,} keys, aliases opened up;"
            " this one goes beyond",
            "Flatten it, and look for an alias inside of its own anchor.",
        ) from error
    if data is None:
        raise _whole(
            f"{source}:1",
            f"a {noun} is a mapping of keys, this one is empty",
            "Add base_model and tasks."
            if noun == "config"
            else f"Write the {noun}'s fields into it.",
        )
    if not isinstance(data, dict):
        raise _whole(
            f"{source}:1",
            f"a {noun} is a mapping of keys, got {shown(data)}",
            "Write `key: value` lines, such as `tasks: ...`.",
        )
    if keys.faults:
        raise ConfigError(keys.faults)
    return Document(source=source, data=data, lines=keys.lines)


def _parse(text: str, source: str) -> tuple[Any, _Keys]:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        keys = _Keys(source)
        if node is None:
            return None, keys
        keys.visit(node, ())
        if keys.faults:  # what can't be told apart is not worth building
            return {}, keys
        return loader.construct_document(node), keys
    finally:
        loader.dispose()


class _Keys:
    """The lines of all keys, and the keys that can't be one."""

    def __init__(self, source: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self.faults: list[Fault] = []
        self._source = source

    def visit(self, node: yaml.Node, path: KeyPath) -> None:
        if len(path) > DEEPEST or len(self.lines) > MOST_KEYS:
            raise RecursionError
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if self._enter(key, path):
                    self.visit(value, (*path, key.value))
        elif isinstance(node, yaml.SequenceNode):
            for i, value in enumerate(node.value):
                self.lines[*path, i] = value.start_mark.line + 1
                self.visit(value, (*path, i))

    def _enter(self, key: yaml.Node, path: KeyPath) -> bool:
        line = key.start_mark.line + 1
        where, name = f"{self._source}:{line}", key.value
        if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
            written = name if isinstance(name, str) else "a list or mapping"
            rule = f"a key is text, got {written} (YAML reads it as something else)"
            self.faults.append(_fault(where, dotted(path), rule, "Put the key into quotes."))
            return False
        own = (*path, name)
        if own in self.lines:
            rule = f"a key may appear once, it is already on line {self.lines[own]}"
            self.faults.append(_fault(where, dotted(own), rule, "Remove one of the two."))
            return False
        self.lines[own] = line
        return True


def with_overrides(document: Document, overrides: Mapping[str, str]) -> Document:
    """Return the document with ``dotted.key`` set to a YAML value from the command line.

    List items are named by their index: ``tasks.0.name`` or ``tasks[0].name``.

    Raises:
        ConfigError: a key is empty or leads through something that holds no keys, or a value isn't
            YAML.
    """
    data = _copy(document.data)
    faults: list[Fault] = []
    paths: set[KeyPath] = set()
    for key, text in overrides.items():
        try:
            value, keys = _parse(text, OVERRIDE)
            faults += [_fault(OVERRIDE, key, fault.rule, fault.remedy) for fault in keys.faults]
            paths.add(_assign(data, key, value))
        except yaml.YAMLError as error:
            rule = f"the value is YAML, got {text} ({_problem(error)})"
            faults.append(_fault(OVERRIDE, key, rule, "Correct it, or quote it for the shell."))
        except RecursionError:
            rule = f"the value has at most {DEEPEST} levels, got {text:.40}..."
            faults.append(_fault(OVERRIDE, key, rule, "Flatten it."))
        except LookupError as error:
            remedy = "Name a key of the config, such as evolution.generations=5."
            faults.append(_fault(OVERRIDE, key, str(error.args[0]), remedy))
    if faults:
        raise ConfigError(faults)
    return Document(
        source=document.source, data=data, lines=document.lines, overridden=frozenset(paths)
    )


def without(document: Document, paths: Iterable[KeyPath]) -> Document:
    """Return the document with those of the keys left out that it has."""
    data = _copy(document.data)
    for *around, last in paths:
        block = data
        for key in around:
            block = block.get(key) if isinstance(block, dict) else None
        if isinstance(block, dict):
            block.pop(last, None)
    return replace(document, data=data)


def _copy(value: Any) -> Any:
    """Copy a document, with aliased parts made independent of each other."""
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value


def _assign(data: dict[str, Any], key: str, value: Any) -> KeyPath:
    """Set ``key`` in place and return its path."""
    parts = re.sub(r"\[(\d+)\]", r".\1", key).split(".")
    if not all(parts):
        raise LookupError(f"a key is names joined by dots, got {key}")
    at: Any = data
    path: KeyPath = ()
    while True:
        step, parts = _step(at, parts, path)
        path = (*path, step)
        if not parts:
            at[step] = value
            return path
        if isinstance(at, dict) and at.get(step) is None:
            at[step] = {}
        at = at[step]


def _step(at: Any, parts: list[str], path: KeyPath) -> tuple[str | int, list[str]]:
    """Return the next key and what is left; a dotted name that the file has is one key."""
    if isinstance(at, dict):
        taken = next((n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in at), 1)
        return ".".join(parts[:taken]), parts[taken:]
    if not isinstance(at, list):
        raise LookupError(f"{dotted(path)} is {shown(at)}, there are no keys in it")
    if not parts[0].isdecimal() or int(parts[0]) >= len(at):
        items = f"{len(at)} item{'' if len(at) == 1 else 's'}"
        raise LookupError(f"{dotted(path)} is a list of {items}, there is no item {parts[0]}")
    return int(parts[0]), parts[1:]


def dump_yaml(data: Any) -> str:
    """Return plain values as YAML that ``parse_document`` reads back unchanged."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def _fault(where: str, key: str, rule: str, remedy: str) -> Fault:
    return Fault(where=where, key=key, rule=rule.rstrip(".") + ".", remedy=remedy)


def _whole(where: str, rule: str, remedy: str) -> ConfigError:
    return ConfigError([_fault(where, "", rule, remedy)])


def _problem(error: yaml.YAMLError) -> str:
    return getattr(error, "problem", None) or str(error).splitlines()[0]


def _syntax(source: str, text: str, error: yaml.YAMLError) -> ConfigError:
    mark, position = getattr(error, "problem_mark", None), getattr(error, "position", None)
    line = mark.line + 1 if mark else text.count("\n", 0, position) + 1
    return _whole(
        f"{source}:{line}",
        f"YAML syntax: {_problem(error)}",
        "Check indentation, quotes and colons on this line and the one above.",
    )
