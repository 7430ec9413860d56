"""What an artifact is: the manifest beside its files. Pure.

A manifest is read as strictly as it was written: one canonical text, with a digest over the rest of it, so that no
changed byte of it is taken for another cursor or another bucket.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from slipstream.errors import ArtifactError
from slipstream.keys import check_bucket
from slipstream.model import WatchCursor
from slipstream.replica.scope import WatchScope

try:
    from blake3 import blake3
except ImportError as missing:
    raise ImportError("artifacts need blake3 and obstore: pip install 'slipstream-kv[artifacts]'") from missing

SCHEMA: Final = 1
MANIFEST = "manifest.json"
"""The name of the manifest in the folder of an artifact."""


def _parse_cursor(value: Any) -> Any:
    return WatchCursor.parse(value) if isinstance(value, str) else value


def _check_position(cursor: WatchCursor) -> WatchCursor:
    if cursor.revision is None or cursor.incarnation is None:
        raise ValueError("the cursor of an artifact has a revision and an incarnation")
    return cursor


def _check_name(name: str) -> str:
    path = PurePosixPath(name)
    if str(path) != name or path.is_absolute() or ".." in path.parts or "\0" in name or name in (".", MANIFEST):
        raise ValueError(f"{name!r} is no name of a file inside of an artifact")
    return name


def _in_utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


Position = Annotated[
    WatchCursor, BeforeValidator(_parse_cursor), AfterValidator(_check_position), PlainSerializer(str, return_type=str)
]
Moment = Annotated[datetime, AfterValidator(_in_utc)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ArtifactFile(_Frozen):
    """A file of an artifact.

    Attributes:
        name: its path in the folder of the artifact, with `/`.
        size: bytes.
        blake3: digest of its content, in hexadecimal digits.
    """

    name: Annotated[str, AfterValidator(_check_name)]
    size: Annotated[int, Field(ge=0)]
    blake3: Digest


class Manifest(_Frozen):
    """What an artifact holds.

    Attributes:
        schema_version: of the manifest; this release reads 1.
        backend: the kind of snapshot store that made the files and opens them, as "AppendLogSnapshot".
        bucket: whose fold it is.
        prefixes: those of the scope that was followed; `("",)` is everything.
        cursor: the fold has every update up to here, with the incarnation of the bucket.
        keys: how many entries the fold has.
        created: when it was exported (UTC), by the exporter's clock.
        files: in the order of their names.
    """

    schema_version: Literal[1] = SCHEMA
    backend: Annotated[str, Field(min_length=1)]
    bucket: Annotated[str, AfterValidator(check_bucket)]
    prefixes: tuple[str, ...]
    cursor: Position
    keys: Annotated[int, Field(ge=0)]
    created: Moment
    files: tuple[ArtifactFile, ...]

    @property
    def incarnation(self) -> datetime:
        """Which life of the bucket it is of."""
        assert self.cursor.incarnation is not None  # checked when it was made
        return self.cursor.incarnation

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(file.size for file in self.files)

    def pack(self) -> bytes:
        """The text that `unpack` takes, and no other."""
        body = self.model_dump(mode="json")
        return _text({**body, "digest": digest_of(_text(body))})

    @classmethod
    def unpack(cls, raw: bytes, *, where: str = MANIFEST) -> Manifest:
        """The manifest that `pack` made this of.

        Raises: ArtifactError that names the file: damaged, or of a schema that this release does not read.
        """
        try:
            body = json.loads(raw)
            version = body["schema_version"]
            digest = body.pop("digest", None)
            if version == SCHEMA and digest == digest_of(_text(body)) and _text({**body, "digest": digest}) == raw:
                return cls.model_validate(body)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            version = SCHEMA
        if version != SCHEMA:
            raise ArtifactError(
                message=f"{where} has schema {version!r}, this release reads {SCHEMA}: take the release that wrote it, "
                "or export again with this one"
            )
        raise ArtifactError(message=f"{where} is damaged: it is not what was exported; fetch or export it again")

    def check_fits(self, *, backend: str, bucket: str, scope: WatchScope) -> None:
        """Raises: ArtifactError, which says what to do, unless the artifact is of these."""
        if self.bucket != bucket:
            raise ArtifactError(
                store=bucket, message=f"the artifact is of the bucket {self.bucket!r}: take one of this bucket"
            )
        if self.prefixes != scope.prefixes:
            raise ArtifactError(
                store=bucket,
                message=f"the artifact holds the prefixes {_listed(self.prefixes)}, wanted are "
                f"{_listed(scope.prefixes)}: ask for the former, or export a replica of the latter",
            )
        if self.backend != backend:
            raise ArtifactError(
                store=bucket,
                message=f"the artifact was made by {self.backend}, which alone opens it: import it with that, "
                f"or export with kind={backend}",
            )


def new_manifest(
    *, backend: str, bucket: str, scope: WatchScope, cursor: WatchCursor, keys: int, files: Iterable[ArtifactFile]
) -> Manifest:
    """Raises: ArtifactError for a cursor that nobody can go on from, or a name that is no bucket's."""
    if cursor.revision is None or cursor.incarnation is None:
        raise ArtifactError(
            store=bucket,
            message=f"there is nothing to go on from (cursor {cursor}): wait for ready(), then export",
        )
    try:
        return Manifest(
            backend=backend,
            bucket=bucket,
            prefixes=scope.prefixes,
            cursor=cursor,
            keys=keys,
            created=datetime.now(UTC),
            files=tuple(sorted(files, key=lambda file: file.name)),
        )
    except ValidationError as error:
        raise ArtifactError(store=bucket, message=f"no manifest can be made: {error}") from error


def digest_of(data: bytes) -> str:
    """BLAKE3 in hexadecimal digits."""
    return blake3(data).hexdigest()


def _text(body: dict[str, Any]) -> bytes:
    return json.dumps(body, indent=2, ensure_ascii=False).encode() + b"\n"


def _listed(prefixes: Iterable[str]) -> str:
    return ", ".join(map(repr, prefixes)) or "(none)"
