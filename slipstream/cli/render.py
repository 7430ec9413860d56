"""What a value looks like, for people and in JSON. Pure."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from slipstream.model import KvEntry, KvUpdate

_SPACES = frozenset("\n\r\t")


def as_text(value: bytes) -> str | None:
    """The text that it is, None for binary: no UTF-8, or with control characters that a terminal would obey."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return text if all(letter.isprintable() or letter in _SPACES for letter in text) else None


def shown(value: bytes) -> str:
    """As text; binary as hex."""
    text = as_text(value)
    return value.hex() if text is None else text


def shown_in_line(value: bytes, *, width: int | None = None) -> str:
    """As `shown`, in one line; where it is longer than `width`, its beginning."""
    line = shown(value).replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    return line if width is None or len(line) <= width else f"{line[: max(width - 1, 0)]}…"


def value_fields(value: bytes) -> dict[str, str]:
    """The value and how it is encoded: `utf-8` or `hex`."""
    text = as_text(value)
    return {"value": value.hex(), "encoding": "hex"} if text is None else {"value": text, "encoding": "utf-8"}


def value_of(fields: dict[str, Any]) -> bytes:
    """The value that `value_fields` told. Raises: ValueError."""
    value, encoding = fields.get("value"), fields.get("encoding", "utf-8")
    if not isinstance(value, str) or encoding not in ("utf-8", "hex"):
        raise ValueError("a value is a text, with the encoding utf-8 or hex")
    return value.encode() if encoding == "utf-8" else bytes.fromhex(value)


def entry_record(entry: KvEntry) -> dict[str, Any]:
    return {
        "key": entry.key,
        **value_fields(entry.value),
        "revision": entry.revision,
        "created": moment(entry.created),
    }


def update_record(update: KvUpdate) -> dict[str, Any]:
    record: dict[str, Any] = {
        "operation": update.operation.value,
        "key": update.key,
        **value_fields(update.value),
        "revision": update.revision,
        "created": moment(update.created),
    }
    if update.expired:
        record["expired"] = True
    if update.expires is not None:
        record["expires"] = moment(update.expires)
    if update.transaction is not None:
        record |= {"transaction": update.transaction, "commit": update.commit}
    return record


def moment(time: datetime | None) -> str | None:
    """RFC 3339, in UTC."""
    return None if time is None else time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def plain(value: Any) -> Any:
    """What JSON holds of it: seconds for spans of time."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, datetime):
        return moment(value)
    return value


def json_line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, separators=(", ", ": "), default=str)


def size(count: float) -> str:
    """Bytes, for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def seconds(span: float) -> str:
    """A duration, for people."""
    if span < 0.001:
        return f"{span * 1e6:.0f} µs"
    if span < 1:
        return f"{span * 1e3:.1f} ms"
    return f"{span:.2f} s"
