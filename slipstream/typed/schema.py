"""A model as bytes, and bytes of any earlier version of it as the model. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from slipstream.codecs.values import Codec
from slipstream.errors import DeserializationError, SerializationError

M = TypeVar("M")
Migration = Callable[[Any], Any]
"""Makes the plain value of one schema version that of the next; it may change the one that it is given."""

_VERSION = "$schema"
_VALUE = "$value"
_SHOWN_FIELDS = 5


class Schema(Generic[M]):
    """How a model is stored.

    Version 1 is the plain value alone, so that a program which begins with versions later reads what there was before;
    a later one is `{"$schema": version, "$value": plain value}`.
    """

    def __init__(
        self, model: type[M], codec: Codec, *, version: int = 1, migrations: Mapping[int, Migration] | None = None
    ) -> None:
        """A schema.

        Args:
            model: a pydantic model, or any type that pydantic validates.
            version: of the model as it is now, >= 1.
            migrations: by the version that they start from; all of 1 to `version - 1`.
        Raises: ValueError where a migration is missing, or one is too many.
        """
        # pydantic writes any model where one is wanted; reading it back would fail.
        self._class = model if isinstance(model, type) and issubclass(model, BaseModel) else object
        self._adapter: TypeAdapter[M] = TypeAdapter(model)
        self._name = getattr(model, "__name__", str(model))
        self._codec = codec
        self._version = version
        self._migrations = dict(migrations or {})
        if version < 1:
            raise ValueError(f"schema versions begin at 1, not {version}")
        if sorted(self._migrations) != list(range(1, version)):
            raise ValueError(
                f"version {version} needs a migration from each of {list(range(1, version))}, "
                f"there is one from {sorted(self._migrations)}"
            )

    def dump(self, value: M, *, key: str) -> bytes:
        """Raises: SerializationError, which does not show the value."""
        if not isinstance(value, self._class):
            raise self._refusal(value, key)
        try:
            # By alias, since that is how it is validated; round_trip leaves computed fields out.
            plain = self._adapter.dump_python(value, mode="json", by_alias=True, round_trip=True, warnings="error")
        except (PydanticSerializationError, RecursionError, UnicodeDecodeError):
            raise self._refusal(value, key) from None
        if self._version > 1:
            plain = {_VERSION: self._version, _VALUE: plain}
        return self._codec.encode(plain, key=key)

    def load(self, raw: bytes, *, key: str) -> M:
        """Raises: DeserializationError, which names the fields and does not show their values."""
        plain = self._migrated(self._codec.decode(raw, key=key), key)
        try:
            # As JSON, whatever the codec: strict models and bytes in base64 are read back as JSON only.
            return self._adapter.validate_json(to_json(plain))
        except ValidationError as error:
            raise DeserializationError(key=key, message=f"no valid {self._name}: {fields_in(error)}") from None
        except ValueError:
            raise DeserializationError(key=key, message=f"no valid {self._name}: not plain values") from None

    def _refusal(self, value: object, key: str) -> SerializationError:
        return SerializationError(
            key=key, message=f"this {type(value).__name__} is no valid {self._name}: it cannot be written as one"
        )

    def _migrated(self, plain: Any, key: str) -> Any:
        version = 1
        if isinstance(plain, dict) and plain.keys() == {_VERSION, _VALUE} and isinstance(plain[_VERSION], int):
            version, plain = plain[_VERSION], plain[_VALUE]
        if not 1 <= version <= self._version:
            raise DeserializationError(
                key=key,
                message=f"written with schema version {version} of {self._name}, this program knows 1 to "
                f"{self._version}: upgrade it",
            )
        for number in range(version, self._version):
            try:
                plain = self._migrations[number](plain)
            except Exception as error:  # noqa: BLE001 - whatever the caller's function raises on a value
                raise DeserializationError(
                    key=key,
                    message=f"the migration of {self._name} from schema version {number} failed: "
                    f"{type(error).__name__}",
                ) from None
        return plain


def fields_in(error: ValidationError) -> str:
    """The fields and what is wrong with each, without the values: those may be secret."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    shown = [f"{'.'.join(map(str, one['loc'])) or '(whole)'}: {one['msg']}" for one in found[:_SHOWN_FIELDS]]
    more = [f"and {len(found) - _SHOWN_FIELDS} more"] if len(found) > _SHOWN_FIELDS else []
    return "; ".join(shown + more)
