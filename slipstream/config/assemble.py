"""A model of the values under a key or a prefix. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from slipstream.codecs.values import Codec
from slipstream.config.revisions import FieldError
from slipstream.errors import DeserializationError

S = TypeVar("S", bound=BaseModel)
Path = tuple[str, ...]


class Rejected(Exception):
    """The values make no valid model."""

    def __init__(self, *errors: FieldError) -> None:
        self.errors = errors
        super().__init__("; ".join(map(str, errors)))


def is_prefix(key_or_prefix: str) -> bool:
    """A prefix is empty or ends in a dot; anything else is one key."""
    return not key_or_prefix or key_or_prefix.endswith(".")


def assemble(model: type[S], stored: Mapping[str, bytes], key_or_prefix: str, codec: Codec | None) -> S:
    """The model that the stored values make.

    One key holds the whole model. Under a prefix, each key holds a field: `shop.db.host` under `shop.` is `db.host`.
    A key may hold an object, too; keys below it are put into it. Without a codec values are JSON, and under a prefix
    what is no JSON is text; a field that wants text gets what is written, also if that looks like a number.

    Raises: Rejected, with what is wrong of every field, and no values.
    """
    data, texts = collect(stored, key_or_prefix, codec)
    try:
        return _validated(model, data)
    except ValidationError as error:
        wanted = [loc for one in error.errors() if one["type"] == "string_type" and (loc := _path(one["loc"])) in texts]
        if not wanted:
            raise Rejected(*_fields(error)) from None
    for path in wanted:
        put(data, path, texts[path])
    try:
        return _validated(model, data)
    except ValidationError as error:
        raise Rejected(*_fields(error)) from None


def collect(stored: Mapping[str, bytes], key_or_prefix: str, codec: Codec | None) -> tuple[Any, dict[Path, str]]:
    """The values as plain data; and by path, those that were read as JSON or text as they are written.

    Raises: Rejected.
    """
    if is_prefix(key_or_prefix):
        return _nested(stored, key_or_prefix, codec)
    raw = stored.get(key_or_prefix)
    return ({} if raw is None else _decoded(raw, key_or_prefix, codec, ())), {}


def _validated(model: type[S], data: Any) -> S:
    try:
        # As JSON: strict models read times, sets and bytes from text in that mode only.
        return model.model_validate_json(to_json(data))
    except ValidationError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a validator of the model raises; its text may show a value
        raise Rejected(FieldError(field="", message=f"validating it raised {type(error).__name__}")) from None


def _nested(stored: Mapping[str, bytes], prefix: str, codec: Codec | None) -> tuple[dict[str, Any], dict[Path, str]]:
    data: dict[str, Any] = {}
    texts: dict[Path, str] = {}
    # Sorted: a key comes before those below it.
    for key in sorted(stored, key=lambda one: one.split(".")):
        path = tuple(key.removeprefix(prefix).split("."))
        value = _decoded(stored[key], key, codec, path, texts=texts)
        put(data, path, value)
    return data, texts


def put(data: dict[str, Any], path: Path, value: Any) -> None:
    """Raises: Rejected where something on the way is no object."""
    inner = data
    for depth, token in enumerate(path[:-1], start=1):
        inner = inner.setdefault(token, {})
        if not isinstance(inner, dict):
            where = ".".join(path[:depth])
            raise Rejected(FieldError(field=where, message=f"it holds a value, and so does {'.'.join(path)} below it"))
    inner[path[-1]] = value


def _decoded(raw: bytes, key: str, codec: Codec | None, path: Path, *, texts: dict[Path, str] | None = None) -> Any:
    field = ".".join(path)
    if codec is not None:
        try:
            return codec.decode(raw, key=key)
        except DeserializationError as error:
            raise Rejected(FieldError(field=field, message=error.message)) from None
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise Rejected(FieldError(field=field, message="the stored value is no UTF-8")) from None
    if texts is not None:
        texts[path] = text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        if texts is not None:
            return text
        raise Rejected(FieldError(field=field, message="the stored value is no JSON")) from None


def _path(loc: tuple[int | str, ...]) -> Path:
    return tuple(map(str, loc))


def _fields(error: ValidationError) -> list[FieldError]:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [FieldError(field=".".join(_path(one["loc"])), message=one["msg"]) for one in found]
