"""L3: a source for pydantic-settings: what the store holds, read once (extra `settings`).

For settings that follow the store there is `slipstream.LiveConfig`, which takes the same models.
"""

from __future__ import annotations

import logging
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from slipstream import sync
from slipstream.codecs.values import Codec
from slipstream.config.assemble import Rejected, collect, is_prefix, put
from slipstream.errors import DeserializationError, KvError, StoreNotFoundError

_log = logging.getLogger(__name__)


class StoreSettingsSource(PydanticBaseSettingsSource):
    """The values under a key or a prefix of a store, as `LiveConfig` reads them.

    Return it from `settings_customise_sources` at the place that its priority asks for:

        return init_settings, env_settings, StoreSettingsSource(settings_cls, store="config", key_or_prefix="shop.")
    """

    def __init__(
        self,
        settings_cls: type[BaseSettings],
        *,
        store: str,
        key_or_prefix: str,
        url: str | None = None,
        codec: Codec | None = None,
        required: bool = True,
        **options: Any,
    ) -> None:
        """A source that connects, reads and disconnects each time that settings are made.

        Args:
            store: the name of the bucket; it is not made where there is none.
            key_or_prefix, codec: as in `LiveConfig`.
            url, options: as in `slipstream.connect`; `op_timeout` is 5 seconds unless given.
            required: False: without a server or a bucket this source has no values and says so in the log.
        Raises, when settings are made: KvError; DeserializationError for values that make no settings.
        """
        super().__init__(settings_cls)
        self._store = store
        self._where = key_or_prefix
        self._url = url
        self._codec = codec
        self._required = required
        self._options = {"op_timeout": 5.0, **options}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Nothing: all fields are read at once."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """The values by field."""
        try:
            stored = self._read()
        except KvError as error:
            if self._required or not (error.retryable or isinstance(error, StoreNotFoundError)):
                raise
            _log.warning("settings without those of the store: %s", error)
            return {}
        try:
            data, texts = collect(stored, self._where, self._codec)
            for path, text in texts.items():
                # As from the environment: pydantic makes a number of text where one is wanted, and never the reverse.
                if isinstance(_at(data, path), int | float):
                    put(data, path, text)
        except Rejected as error:
            raise DeserializationError(store=self._store, key=self._where, message=str(error)) from None
        if not isinstance(data, dict):
            raise DeserializationError(store=self._store, key=self._where, message="it holds no object")
        return data

    def _read(self) -> dict[str, bytes]:
        with sync.connect(self._url, **self._options) as connection:
            if self._store not in connection.stores():
                raise StoreNotFoundError(store=self._store)
            store = connection.store(self._store)
            if is_prefix(self._where):
                return {entry.key: entry.value for entry in store.scan(self._where)}
            entry = store.get(self._where)
            return {} if entry is None else {self._where: entry.value}


def _at(data: Any, path: tuple[str, ...]) -> Any:
    for token in path:
        data = data[token]
    return data
