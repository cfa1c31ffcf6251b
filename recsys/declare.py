"""Turn a mapping (parsed YAML or JSON) into a checked, frozen dataclass. Standard library only."""

import dataclasses
import difflib
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
MISSING = "missing"


def nearest(word: str, options: Iterable[str]) -> str:
    """A hint that names the valid options, the most similar first.

    >>> nearest("tyme", ["random", "time"])
    "did you mean 'time'? Valid: random, time."
    """
    names = sorted(map(str, options))
    close = difflib.get_close_matches(str(word), names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}Valid: {', '.join(names) or '(none)'}."


def differences(*given: Any, name: str = "") -> dict[str, tuple[Any, ...]]:
    """The values that differ in nested mappings, by dotted name; "missing" where one has none.

    >>> differences({"seed": 0, "model": {"dim": 8}}, {"seed": 0, "model": {"dim": 16, "dropout": 0.1}})
    {'model.dim': (8, 16), 'model.dropout': ('missing', 0.1)}
    """
    if not all(isinstance(value, Mapping) for value in given):
        return {} if all(value == given[0] for value in given) else {name: given}
    found: dict[str, tuple[Any, ...]] = {}
    for key in dict.fromkeys(key for mapping in given for key in mapping):
        found |= differences(*(mapping.get(key, MISSING) for mapping in given), name=f"{name}.{key}".lstrip("."))
    return found


def listed(parts: list[str], shown: int = 3) -> str:
    """The first few of many, for a message.

    >>> listed(["a", "b", "c"], shown=2)
    'a; b; 1 more'
    """
    return "; ".join(parts[:shown] + ([f"{len(parts) - shown} more"] if len(parts) > shown else []))


def declare(cls: type[T], mapping: Any, where: str) -> T:
    """Build dataclass `cls` from `mapping`, refusing unknown keys, missing keys and values of a wrong type.

    `where` is the dotted path of the mapping in the configuration, used in messages.
    Raises ValueError that names the key, the rule, the value received and the nearest valid choice.
    """
    if isinstance(mapping, cls):
        return mapping
    if not isinstance(mapping, Mapping):
        raise ValueError(f"`{where}` must be a mapping of options, got {mapping!r}.")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in mapping:
        if key not in fields:
            raise ValueError(f"`{where}` has no option {key!r}: {nearest(key, fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in mapping:
            raise ValueError(f"`{where}` needs the option {name!r}.")
    hints = get_type_hints(cls)
    values = {key: _convert(value, hints[key], f"{where}.{key}") for key, value in mapping.items()}
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"`{where}`: {error}") from None


def _convert(value: Any, hint: Any, where: str) -> Any:
    """`value` as the annotated type `hint`: Literal, unions, tuples, dicts, nested dataclasses, plain types."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"`{where}` must be one of its choices, got {value!r}: {nearest(value, arguments)}")
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(value, arguments, where)
    if origin is tuple:
        return _convert_tuple(value, arguments, where)
    if origin is dict or hint is dict:
        return _convert_dict(value, arguments, where)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return declare(hint, value, where)
    if origin is list:  # long lists (vocabularies) are taken as they are
        hint = list
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"`{where}` must be {hint.__name__}, got {value!r}.")
    return value


def _convert_union(value: Any, choices: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in choices:
        return None
    choices = tuple(choice for choice in choices if choice is not type(None))
    errors = []
    for choice in choices:
        try:
            return _convert(value, choice, where)
        except ValueError as error:
            errors.append(str(error))
    inside = [error for error in errors if not error.startswith(f"`{where}` ")]
    if inside or len(errors) == 1:
        raise ValueError((inside or errors)[0])
    names = [(get_origin(choice) or choice).__name__.replace("tuple", "list") for choice in choices]
    raise ValueError(f"`{where}` must be {' or '.join(dict.fromkeys(names))}, got {value!r}.")


def _convert_tuple(value: Any, items: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"`{where}` must be a list, got {value!r}.")
    if len(items) == 2 and items[1] is Ellipsis:
        items = (items[0],) * len(value)
    if len(value) != len(items):
        raise ValueError(f"`{where}` must be a list of {len(items)} values, got {list(value)!r}.")
    return tuple(_convert(v, item, f"{where}[{n}]") for n, (v, item) in enumerate(zip(value, items, strict=True)))


def _convert_dict(value: Any, items: tuple[Any, ...], where: str) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"`{where}` must be a mapping, got {value!r}.")
    kind, content = items or (Any, Any)
    return {_convert(k, kind, f"{where}.{k}"): _convert(v, content, f"{where}.{k}") for k, v in value.items()}
