"""Settings as frozen dataclasses: each default once, each value checked at birth, each error with its place.

A `Section` is a frozen dataclass whose fields are made by `setting(default, doc, limits)` or are sections
themselves. Values come from YAML files and `--section.key value` pairs, both through `read_*` into one flat
form, `{"section.key": Given(value, where)}`, and `build` turns that into the dataclass. `dump` is the inverse.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import yaml

from inceptionv4.errors import ConfigError

T = TypeVar("T")
S = TypeVar("S", bound="Section")
NULL = ("null", "Null", "NULL", "~")
"""How YAML writes that there is no value."""
DEEPEST = 10
"""Sections in sections that are looked into; our own are two."""
LONGEST = 200
"""Characters of a value that an error shows."""
FEW = 10
"""Settings that an error lists."""


def setting(
    default: T,
    doc: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> T:
    """A dataclass field with its default, one line of documentation, and the limits of its number or numbers."""
    limits = {">": above, ">=": at_least, "<": below, "<=": at_most}
    metadata = {"doc": doc, "limits": {sign: limit for sign, limit in limits.items() if limit is not None}}
    field: T = dataclasses.field(default=default, metadata=metadata)
    return field


@dataclass(frozen=True, kw_only=True)
class Section:
    """The base of all settings: checks type and limits of every field when it is made, however it is made."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = coerce(getattr(self, field.name), hints[field.name], field.name)
            _check_limits(value, field.metadata.get("limits", {}), field.name)
            object.__setattr__(self, field.name, value)


@dataclass(frozen=True)
class Given:
    """A value and where it was written: `recipe.yaml:12`, or the option of the command line."""

    value: Any
    where: str
    written: str | None = None
    """The letters of the value; None where it is no single word or number. Settings that are text take them as they
    are: to YAML, 010 is eight, 1.10 is 1.1, and 12:30 is 750."""


def read_yaml(text: str, source: str) -> dict[str, Given]:
    """Flatten a YAML mapping of mappings; `source` names it in errors.

    Raises:
        ConfigError: not YAML, not a mapping, a key given twice, or a mapping or list repeated by an alias.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{source}{line} is not YAML: {getattr(error, 'problem', None) or error}") from None
    except RecursionError:
        raise ConfigError(f"{source} is nested too deeply; settings are `key: value` pairs in sections") from None
    given: dict[str, Given] = {}
    if root is not None:
        _refuse_aliases(root, source)
        _flatten(root, "", source, given)
    return given


def _refuse_aliases(root: yaml.Node, source: str) -> None:
    """Raise ConfigError where an alias repeats a mapping or list: a few lines of them are billions of values."""
    seen: set[int] = set()
    nodes = [root]
    while nodes:
        node = nodes.pop()
        if isinstance(node, yaml.CollectionNode):
            if id(node) in seen:
                line = node.start_mark.line + 1
                raise ConfigError(f"{source}: an alias repeats what begins in line {line}; write it out instead")
            seen.add(id(node))
            nodes += itertools.chain(*node.value) if isinstance(node, yaml.MappingNode) else node.value


def _flatten(node: yaml.Node, prefix: str, source: str, given: dict[str, Given]) -> None:
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{source}:{node.start_mark.line + 1} must be `key: value` pairs")
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = prefix + str(key_node.value)
        if key in seen:
            raise ConfigError(f"{key} is given twice, in lines {seen[key]} and {line} of {source}; keep one")
        seen[key] = line
        if isinstance(value_node, yaml.MappingNode):
            if key.count(".") == DEEPEST:  # an alias may even hold itself
                raise ConfigError(f"{source}:{line} is nested too deeply; settings are `key: value` pairs in sections")
            _flatten(value_node, key + ".", source, given)
        else:
            value = _construct(value_node)
            is_word = isinstance(value_node, yaml.ScalarNode) and value is not None
            given[key] = Given(value, f"{source}:{line}", value_node.value if is_word else None)


def _construct(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(node)
    except (ValueError, RecursionError):
        return str(node.value)  # of thousands of digits or brackets, or no such day: as text, which a check can name
    finally:
        loader.dispose()


def read_options(tokens: tuple[str, ...]) -> dict[str, Given]:
    """`--section.key value` and `--section.key=value` pairs; values are read as YAML, so `[0.5, 1]` is a list. Text is
    taken as it is written; null is no text only where a setting may have none.

    Raises:
        ConfigError: a token that is no option, or an option without a value or given twice.
    """
    given: dict[str, Given] = {}
    rest = iter(tokens)
    for token in rest:
        if not token.startswith("--"):
            raise ConfigError(f"unexpected argument {token!r}; settings are written `--section.key value`")
        option, equals, text = token.partition("=")
        if not equals:
            text = next(rest, "")
            if not text:
                raise ConfigError(f"{option} needs a value: `{option} VALUE`")
        key = option[2:].replace("-", "_")
        if key in given:
            raise ConfigError(f"{option} is given twice; keep one")
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError):  # of thousands of digits or brackets, or no such day
            value = text
        given[key] = Given(value, option, text)
    return given


def build(kind: type[S], given: Mapping[str, Given], prefix: str = "") -> S:
    """Make a section from flat values; what is not given keeps its default.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a wrong type or a value out of range.
    """
    if not prefix:
        _check_known(given, list(keys(kind)))
    values: dict[str, Any] = {}
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint, key = hints[field.name], prefix + field.name
        if _is_section(hint):
            values[field.name] = build(hint, given, key + ".")
        elif key in given:
            value, where, written = given[key].value, given[key].where, given[key].written
            is_null = value is None and written in NULL and hint is not str
            if written is not None and _is_text(hint) and not is_null:
                value = written
            try:
                value = coerce(value, hint, key)
                _check_limits(value, field.metadata["limits"], key)
            except ConfigError as error:
                raise ConfigError(f"{error} ({where})") from None
            values[field.name] = value
    return kind(**values)


def change(section: S, given: Mapping[str, Given], prefix: str) -> S:
    """A copy of `section`, whose keys begin with `prefix` in `given`, with what is given.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a wrong type or a value out of range.
    """
    own = {key: Given(value, "as it was") for key, value in flatten(section, prefix).items()}
    _check_known(given, list(own))
    return build(type(section), {**own, **given}, prefix)


def _check_known(given: Mapping[str, Given], known: list[str]) -> None:
    for key, item in given.items():
        if key not in known:
            raise ConfigError(f"unknown setting {key} ({item.where}){_did_you_mean(key, known)}")


def keys(kind: type[Section], prefix: str = "") -> Iterator[str]:
    """All settings below `kind`, as `section.key`."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if _is_section(hints[field.name]):
            yield from keys(hints[field.name], f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def flatten(section: Section, prefix: str = "") -> dict[str, Any]:
    """All settings of a section with their values, as `section.key`."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if isinstance(value, Section):
            values |= flatten(value, f"{prefix}{field.name}.")
        else:
            values[prefix + field.name] = value
    return values


def _is_section(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Section)


def _is_text(hint: Any) -> bool:
    return hint is str or str in typing.get_args(hint)


def _did_you_mean(key: str, known: list[str]) -> str:
    """What to write instead: the same name in its right section, the nearest name, else the names of the section."""
    if inside := [other for other in known if other.startswith(key + ".")]:
        return f"; it is a section, with {', '.join(inside)}"
    section, _, name = key.rpartition(".")
    last_parts = {other.rpartition(".")[2]: other for other in known}
    if name in last_parts:
        return f"; did you mean {last_parts[name]}?"
    siblings = {other.rpartition(".")[2]: other for other in known if other.rpartition(".")[0] == section}
    for candidates in (siblings, last_parts):
        if near := difflib.get_close_matches(name, candidates, n=1):
            return f"; did you mean {candidates[near[0]]}?"
    if siblings:
        return f"; {f'{section} has' if section else 'there are'} {', '.join(siblings)}"
    return "; --print-config lists them all" if len(known) > FEW else f"; there are {', '.join(known)}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: the nearest of the `known` ones, or all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"


def coerce(value: Any, hint: Any, key: str) -> Any:
    """`value` as the type `hint`, taking what YAML blurs (1 for 1.0, "1e-3", a list for a tuple), or ConfigError."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType or origin is typing.Union:
        if value is None and type(None) in args:
            return None
        return coerce(value, next(part for part in args if part is not type(None)), key)
    if origin is Literal:
        if value in args and not isinstance(value, bool):
            return value
        near = difflib.get_close_matches(_shown(value), [str(choice) for choice in args], n=1)
        hint_text = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{key} must be one of {', '.join(map(str, args))}, got {_shown(value)}{hint_text}")
    if origin is tuple:
        if isinstance(value, (list, tuple)) and (args[-1] is Ellipsis or len(value) == len(args)):
            return tuple(coerce(part, args[0], key) for part in value)
        size = "a list" if args[-1] is Ellipsis else f"a list of {len(args)}"
        raise ConfigError(f"{key} must be {size}, got {_shown(value)}")
    if hint is float and not isinstance(value, bool):
        try:
            return float(value)  # YAML 1.1 reads 1e-3 as a string
        except OverflowError:
            return math.inf if value > 0 else -math.inf  # which no setting may be, and says so
        except (TypeError, ValueError):
            pass
    if hint is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value) if abs(value) < 10**LONGEST else _shown(value)  # a folder may be called 2024
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    raise ConfigError(f"{key} must be {names.get(hint, hint)}, got {_shown(value)}")


def _check_limits(value: Any, limits: Mapping[str, float], key: str) -> None:
    holds = {
        ">": lambda number, limit: number > limit,
        ">=": lambda number, limit: number >= limit,
        "<": lambda number, limit: number < limit,
        "<=": lambda number, limit: number <= limit,
    }
    for number in value if isinstance(value, tuple) else (value,):
        for sign, limit in limits.items():
            if number is not None and not holds[sign](number, limit):
                raise ConfigError(f"{key} must be {sign} {_exact(limit)}, got {_exact(number)}")
        if isinstance(number, float) and not math.isfinite(number):
            raise ConfigError(f"{key} must be finite, got {number:g}")


def _exact(number: float) -> str:
    """A whole number to its last digit, so that one beside a limit is told from it; others in short."""
    return f"{number:g}" if isinstance(number, float) else _shown(number)


def _shown(value: Any) -> str:
    """A value for people, on one line of sane length."""
    try:
        text = repr(value)
    except ValueError:  # Python does not write whole numbers of more than 4300 digits
        return f"a number of {value.bit_length():,} bits"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text):,} characters)"


def dump(section: Section) -> str:
    """The section as YAML, each setting followed by its documentation; `read_yaml` reads it back to the same values."""
    return "\n".join(_dump_lines(section)) + "\n"


def _dump_lines(section: Section, indent: str = "") -> Iterator[str]:
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if isinstance(value, Section):
            yield f"{indent}{field.name}:"
            yield from _dump_lines(value, indent + "  ")
        else:
            plain = list(value) if isinstance(value, tuple) else value
            text = yaml.safe_dump(plain, default_flow_style=True, width=10_000, allow_unicode=True)
            text = text.removesuffix("\n").removesuffix("\n...")
            yield f"{indent + field.name + ': ' + text:<32}  # {field.metadata['doc']}"
