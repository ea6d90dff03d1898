"""The rules for overriding recipes: from a JSON file and from the command line, every key and value checked."""

import copy
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from easydict import EasyDict

from src.config import DEFAULT_RECIPE, RECIPES
from src.errors import UserError
from src.recipe_rules import check_ranges, nearest

_TOO_LARGE = 2**31  # of any number: infinity included, NaN compares False; seeds and counts have to fit 32 bits
_TYPE_NAMES = {bool: "true or false", int: "a whole number below 2^31", float: "a number", str: "a word"}


def load_recipe(name: str = DEFAULT_RECIPE, config_file: str | Path | None = None,
                overrides: Iterable[str] = ()) -> EasyDict:
    """Return a copy of the recipe `name` with the overrides of a JSON file and of the command line, in that order.

    Args:
        name: a key of `RECIPES`.
        config_file: JSON object of keys to override.
        overrides: `KEY=VALUE` items; values are read as JSON, and as plain text where they are no JSON.

    Raises:
        UserError: unknown recipe or key (with the nearest name), wrong type, or a value out of range.
    """
    if name not in RECIPES:
        raise UserError(f"unknown recipe {name!r}{nearest(name, RECIPES)}; known: {', '.join(RECIPES)}")
    return apply_overrides(RECIPES[name], read_changes(config_file, overrides))


def read_changes(config_file: str | Path | None = None, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Return the keys and values of a JSON file and of `KEY=VALUE` items; `apply_overrides` checks them.

    Raises:
        UserError: the file cannot be read as a JSON object, or an item has no `=`.
    """
    changes = _read_override_file(Path(config_file)) if config_file is not None else {}
    for item in overrides:
        key, separator, text = item.partition("=")
        if not separator:
            raise UserError(f"override {item!r}: expected KEY=VALUE, for example epochs=100")
        changes[key.strip()] = _parse_value(text)
    return changes


def apply_overrides(recipe: Mapping[str, Any], changes: Mapping[str, Any]) -> EasyDict:
    """Return a deep copy of `recipe` with `changes` applied, every key and value checked.

    Raises:
        UserError: as `load_recipe`.
    """
    result = EasyDict(copy.deepcopy(dict(recipe)))
    for key, value in changes.items():
        if key not in result:
            others = [name for name in RECIPES if key in RECIPES[name]]
            hint = f", which only {', '.join(others)} have" if others else nearest(key, result)
            raise UserError(f"unknown recipe key {key!r}{hint}; the keys are in src/config.py")
        result[key] = _checked_type(key, value, result[key])
    check_ranges(result)
    return result


def plain(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe as plain JSON types, for `recipe.json` and checkpoints."""
    return json.loads(json.dumps(dict(recipe)))


def _read_override_file(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"recipe file {path}: cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:
        raise UserError(f"recipe file {path}: not valid JSON ({error}); expected an object of keys") from error
    if not isinstance(content, dict):
        raise UserError(f"recipe file {path}: found a JSON {type(content).__name__}, expected an object of keys")
    return content


def _parse_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"True": True, "False": False}.get(text, text)


def _checked_type(key: str, value: Any, present: Any) -> Any:
    """Return `value` in the type of the `present` value, or raise; an int is a fine float, a bool is no number."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _TOO_LARGE
    if isinstance(present, bool):
        fits = isinstance(value, bool)
    elif isinstance(present, int):
        fits = number and float(value).is_integer()
        value = int(value) if fits else value
    elif isinstance(present, float):
        fits = number
        value = float(value) if fits else value
    elif isinstance(present, (list, tuple)):
        fits = isinstance(value, (list, tuple)) and len(value) == len(present)
        value = [_checked_type(key, item, like) for item, like in zip(value, present, strict=True)] if fits else value
    else:
        if key == "pipeline_split" and number:
            value = str(value)  # a number or `auto`
        fits = isinstance(value, type(present))
    if not fits:
        expected = _TYPE_NAMES.get(type(present)) or f"{len(present)} numbers in brackets, without spaces or quoted"
        raise UserError(f"recipe key {key!r}: found {value!r}, expected {expected} (such as {json.dumps(present)})")
    return value
