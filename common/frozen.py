"""Frozen configuration models and the YAML reader that names a mistyped key.

>>> class Window(FrozenModel):
...     low: float
>>> parse(Window, {"low": 1, "hihg": 2}, where="study.yaml")
Traceback (most recent call last):
    ...
common.errors.UnknownKeyError: study.yaml: unknown key 'hihg' (known here: low)
"""

import difflib
import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from common.errors import ConfigError, UnknownKeyError


class FrozenModel(BaseModel):
    """Base of all configuration: immutable, no unknown keys, no silent type changes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


Model = TypeVar("Model", bound=FrozenModel)


def load_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping at the top of a YAML file.

    Raises:
        ConfigError: The file is missing, is not YAML, or is not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file", "check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        first_line = str(error).splitlines()[0]
        raise ConfigError(f"{path}: not readable as YAML: {first_line}", "mend the file") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds no mapping of keys to values", "see `fedvox study init --help`")
    return content


def parse(model: type[Model], content: dict[str, Any], where: str) -> Model:
    """Return ``content`` as a validated ``model``; ``where`` names the file in errors.

    Raises:
        UnknownKeyError: A key that the model does not have.
        ConfigError: A value of the wrong type or out of range.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise _explain(error, model, where) from None


def fingerprint(model: BaseModel) -> str:
    """Return the SHA-256 of the canonical JSON form: sorted keys, no spaces."""
    canonical = json.dumps(model.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _explain(error: ValidationError, model: type[BaseModel], where: str) -> ConfigError:
    """Return the first fault as one line; an unknown key comes before any other."""
    faults = error.errors(include_url=False)
    fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    path = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        key = str(fault["loc"][-1])
        known = _keys_at(model, fault["loc"][:-1])
        nearest = difflib.get_close_matches(key, known, n=1)
        remedy = f"did you mean '{nearest[0]}'?" if nearest else f"known here: {', '.join(known)}"
        return UnknownKeyError(f"{where}: unknown key '{path}'", remedy)
    reason = fault["msg"].removeprefix("Value error, ")
    return ConfigError(f"{where}: {path}: {reason}" if path else f"{where}: {reason}")


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Return the field names of the model reached by following ``location``."""
    candidates: list[type[BaseModel]] = [model]
    for part in location:
        fields = [m.model_fields[part].annotation for m in candidates if part in m.model_fields]
        inner = [sub for annotation in fields for sub in _models_in(annotation)]
        # A discriminated union puts its tag in the location: the tag selects no field.
        candidates = inner or candidates
    return sorted({name for candidate in candidates for name in candidate.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that an annotation such as ``A | B | None`` mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for arg in getattr(annotation, "__args__", ()) for model in _models_in(arg)]
