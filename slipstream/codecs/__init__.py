"""L1: how keys and values are written in the store.

A value codec turns a value into bytes; what turns bytes into bytes (compression, encryption) is put behind it:
`JsonCodec() | ZstdCodec() | AesGcmCodec(keys, current="2026")`. Whatever is no codec of the standard library needs an
extra: `slipstream-kv[msgpack]`, `[zstd]`, `[crypto]`.
"""

from typing import TYPE_CHECKING, Any

from slipstream.codecs.keys import EscapingKeyCodec, KeyCodec
from slipstream.codecs.values import BytesCodec, Codec, JsonCodec, RawCodec

if TYPE_CHECKING:
    from slipstream.codecs.aes import AesGcmCodec
    from slipstream.codecs.msgpack import MessagePackCodec
    from slipstream.codecs.zstd import ZstdCodec

__all__ = [
    "AesGcmCodec",
    "BytesCodec",
    "Codec",
    "EscapingKeyCodec",
    "JsonCodec",
    "KeyCodec",
    "MessagePackCodec",
    "RawCodec",
    "ZstdCodec",
]


def __getattr__(name: str) -> Any:
    # Lazily: each needs a package of its own.
    match name:
        case "AesGcmCodec":
            from slipstream.codecs.aes import AesGcmCodec

            return AesGcmCodec
        case "MessagePackCodec":
            from slipstream.codecs.msgpack import MessagePackCodec

            return MessagePackCodec
        case "ZstdCodec":
            from slipstream.codecs.zstd import ZstdCodec

            return ZstdCodec
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
