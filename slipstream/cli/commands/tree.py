"""Trees of values as keys: YAML, JSON and TOML documents, and folders. Pure, but for `read_source`."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from slipstream.cli.exits import UsageError
from slipstream.keys import check_key

_FORMATS = {".yaml": "YAML", ".yml": "YAML", ".json": "JSON", ".toml": "TOML"}


def read_source(path: Path, prefix: str = "") -> dict[str, bytes]:
    """The keys that a file or a folder describes, each behind the prefix. Raises: UsageError, InvalidKeyError, OSError.

    A document is a tree: the names on the way to a value, joined by dots, are its key. In a folder every file is a key,
    and its bytes are the value: `nginx/site.conf` is `nginx.site.conf`. Names that begin with a dot are left out.
    """
    if path.is_dir():
        return _checked(_files(path), prefix, path)
    return _checked(leaves(parse_document(path.read_text(), path)), prefix, path)


def parse_document(text: str, path: Path) -> Any:
    """What the document holds; the ending of its name says how it is written. Raises: UsageError."""
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise UsageError(f"{path}: a document ends in {', '.join(_FORMATS)}; else name a folder")
    try:
        match kind:
            case "JSON":
                return json.loads(text)
            case "TOML":
                return tomllib.loads(text)
            case _:
                return _parse_yaml(text)
    except ValueError as error:  # JSON's and TOML's errors are such
        raise UsageError(f"{path} is no {kind}: {error}") from None


def _parse_yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def leaves(tree: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[str, bytes]]:
    """The values of a tree by their keys. Texts are taken as they are, all else as JSON; lists are values."""
    if isinstance(tree, Mapping):
        for name, branch in tree.items():
            yield from leaves(branch, (*names, str(name)))
    elif not names:
        if tree is not None:  # an empty document
            raise UsageError("a document holds names with values below them, not one value")
    else:
        yield ".".join(names), leaf(tree)


def leaf(value: Any) -> bytes:
    """The bytes of one value."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):  # YAML's !!binary
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_plain).encode()


def _plain(value: object) -> object:
    if isinstance(value, (date, datetime, time)):
        return value.isoformat()
    raise UsageError(f"a value of the type {type(value).__name__} has no JSON: write it as a text")


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for file in sorted(folder.rglob("*")):
        names = file.relative_to(folder).parts
        if file.is_file() and not any(name.startswith(".") for name in names):
            yield ".".join(names), file.read_bytes()


def _checked(pairs: Iterator[tuple[str, bytes]], prefix: str, path: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name, value in pairs:
        key = check_key(prefix + name)
        if key in found:
            raise UsageError(f"{path} has the key {key!r} twice")
        if not value:
            raise UsageError(f"{path}: the key {key!r} has an empty value, which reads as absent: leave it out")
        found[key] = value
    return found
