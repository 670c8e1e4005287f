"""YAML text and KEY=VALUE overrides to plain Python values that remember their line.

The YAML accepted is the plain part of YAML 1.2: one document of mappings, lists and scalars.
`1e-3` is a number, `no` and `on` are strings, and anchors, aliases, tags and repeated keys are
errors.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

from mnist_mlp.errors import ConfigError
from mnist_mlp.words import WORDS, printable

MAX_BYTES = 1_000_000
MAX_DEPTH = 8
MAX_EVENTS = 10_000

KeyPath = tuple[str | int, ...]  # the keys and list indices that lead to a value
Place = Callable[[int], str]  # from a line number to the place that an error message names


class _Loader(yaml.SafeLoader):
    """PyYAML's loader with the types of YAML 1.2 for unquoted scalars."""


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper, which quotes what `_Loader` would not read back as the same string."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> Any:
        return super().represent_sequence(tag, sequence, flow_style=True)


# The core schema of YAML 1.2.2, section 10.3.2, without octal and hexadecimal numbers. A number
# with a leading zero is a string, since YAML 1.1 read it as octal. So is an integer of over 400
# digits, which Python would refuse to convert.
_SCALARS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(0|[1-9][0-9]{0,399})",
    "float": r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = {}
    for _name, _pattern in _SCALARS.items():
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_name}", re.compile(rf"^(?:{_pattern})$"), None
        )


def dump_yaml(values: dict[str, Any]) -> str:
    """Format values as YAML that reads back equal, in their order, with each list on one line."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class YamlReader:
    """Reads a YAML mapping and overrides, noting each key's place and every problem."""

    def __init__(self) -> None:
        self.places: dict[KeyPath, str] = {}
        self.problems: list[str] = []

    def read_file(self, path: Path) -> dict[str, Any]:
        """Read a file's mapping; a ConfigError if it cannot be read or holds none."""
        tree = self._parse(_read_text(path), lambda line: f"{path}:{line}", ())
        if not isinstance(tree, dict):
            self.problems = self.problems or [f"{path}:1: no keys here; expected such as 'seed: 0'"]
            raise ConfigError("\n".join(self.problems))
        return tree

    def override(self, tree: dict[str, Any], override: str) -> None:
        """Set one KEY=VALUE in the tree, where KEY is dotted and VALUE is YAML."""
        place = f"override {shown(override)}"
        key, equals, text = override.partition("=")
        path = tuple(key.split("."))
        if not equals or not all(path):
            self.problems.append(f"{place}: expected KEY=VALUE, such as train.epochs=3")
            return
        problems = len(self.problems)
        value = self._parse(text, lambda _line: place, path)
        if isinstance(value, dict):
            self.problems.append(f"{place}: set one key at a time, such as {key}.KEY=VALUE")
        if len(self.problems) > problems:
            return
        section: Any = tree
        for depth, part in enumerate(path[:-1], start=1):
            self.places.setdefault(path[:depth], place)
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                self.problems.append(f"{place}: {dotted(path[:depth])} has no keys of its own")
                return
        section[path[-1]] = value
        self.places[path] = place

    def _parse(self, text: str, place: Place, path: KeyPath) -> Any:
        """The value of one YAML document; None, with the problems noted, where it has none."""
        try:
            if problems := list(_refused_events(text, place)):
                self.problems += problems
                return None
            node = yaml.compose(text, Loader=_Loader)
            return None if node is None else self._value(node, place, path)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            said = str(error.problem)
            known = (ours for part, ours in WORDS["yaml"].items() if part in said)
            reason = next(known, printable(said))
            self.problems.append(f"{place(line)}: invalid YAML: {reason}")
        except (yaml.YAMLError, ValueError, OverflowError):
            # A control character, or an escape that stands for no Unicode character.
            self.problems.append(f"{place(1)}: invalid YAML: a character that YAML does not allow")
        return None

    def _value(self, node: yaml.Node, place: Place, path: KeyPath) -> Any:
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, place, (*path, i)) for i, item in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            node.value.encode()  # raises ValueError for an escaped half of a surrogate pair
            return SafeConstructor().construct_object(node)
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            here = place(key_node.start_mark.line + 1)
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(f"{here}: a key must be a word")
                continue
            key = str(key_node.value)
            key.encode()
            key_path = (*path, key)
            if key in mapping:
                reason = f"repeated key, first set at {self.places[key_path]}; remove one"
                self.problems.append(f"{here}: {dotted(key_path)}: {reason}")
                continue
            self.places[key_path] = here
            mapping[key] = self._value(value_node, place, key_path)
        return mapping


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot read this config: {reason}") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: over {MAX_BYTES:,} bytes, too large for a config")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from None


def _refused_events(text: str, place: Place) -> Iterator[str]:
    """Problems that the parser's events show; this needs no recursion and builds no values."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        here = place(event.start_mark.line + 1 if event.start_mark else 1)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH or count > MAX_EVENTS:
            yield f"{here}: too deeply nested or too long for a config"
            return
        if getattr(event, "anchor", None):
            yield f"{here}: anchors and aliases (& and *) are not accepted; write the value out"
        if tag := getattr(event, "tag", None):
            yield f"{here}: tags ({printable(tag)}) are not accepted; remove it"


def dotted(path: KeyPath) -> str:
    """A key as a command line writes it: `train.epochs`."""
    return ".".join(printable(str(part)) for part in path)


def shown(value: Any) -> str:
    """A value as JSON, shortened to one printable line."""
    return printable(json.dumps(value, ensure_ascii=False, default=str))
