"""Which artifact is the latest, and whether another one may take its place. Pure."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from slipstream.errors import ArtifactError
from slipstream.keys import check_bucket
from slipstream.model import WatchCursor
from slipstream.replica.artifacts.manifest import Digest, Manifest, Moment, Position, digest_of

SCHEMA: Final = 1


class Pointer(BaseModel):
    """The one object that is overwritten: it names the artifact that nodes start from.

    Attributes:
        schema_version: of the pointer; this release reads 1.
        publication: the folder of the artifact's objects; no two publications share one.
        manifest: BLAKE3 of the manifest's text.
        bucket, prefixes, backend, cursor: the manifest's.
        published: when it was moved here (UTC), by the exporter's clock.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    schema_version: Literal[1] = SCHEMA
    publication: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    manifest: Digest
    bucket: Annotated[str, AfterValidator(check_bucket)]
    prefixes: tuple[str, ...]
    backend: str
    cursor: Position
    published: Moment

    def pack(self) -> bytes:
        return self.model_dump_json(indent=2).encode() + b"\n"

    @classmethod
    def unpack(cls, raw: bytes, *, where: str) -> Pointer:
        """Raises: ArtifactError for anything that `pack` did not make, or for another schema."""
        try:
            pointer = cls.model_validate_json(raw)
        except ValidationError:
            pointer = None
        if pointer is None or pointer.pack() != raw:
            # Without what it says: whoever put something else there may have put a secret there.
            raise ArtifactError(
                message=f"{where} is no pointer of schema {SCHEMA}: remove it, or take another prefix or the release "
                "that wrote it"
            )
        return pointer

    def names(self, manifest: Manifest, raw: bytes) -> bool:
        """This is the manifest, and its text, that the pointer was made of."""
        said = (self.manifest, self.bucket, self.prefixes, self.backend, self.cursor)
        return said == (digest_of(raw), manifest.bucket, manifest.prefixes, manifest.backend, manifest.cursor)

    def check_same(self, manifest: Manifest, *, where: str) -> None:
        """Raises: ArtifactError where the pointer is one of other artifacts than this."""
        ours = (manifest.bucket, manifest.prefixes, manifest.backend)
        theirs = (self.bucket, self.prefixes, self.backend)
        if ours != theirs:
            raise ArtifactError(
                store=manifest.bucket,
                message=f"{where} is of bucket {self.bucket!r}, prefixes {list(self.prefixes)}, {self.backend}; the "
                f"artifact of bucket {manifest.bucket!r}, prefixes {list(manifest.prefixes)}, {manifest.backend}: "
                "publish it under a prefix of its own",
            )


class Move(Enum):
    """What becomes of a pointer that an exporter wants to move."""

    FORWARD = "forward"
    STAY = "stay"


def decide(current: WatchCursor | None, new: WatchCursor) -> Move:
    """Forward only: to a later cursor of the same life of the bucket, or into a later life of it.

    Revisions of two lives do not compare, the times at which they began do, by the one server that made both. An
    exporter that still holds an earlier life has nothing that a node could use.

    Args:
        current: the pointer's, None where there is no pointer. Both have an incarnation.
    """
    if current is None:
        return Move.FORWARD
    assert current.incarnation is not None
    assert new.incarnation is not None
    if current.incarnation != new.incarnation:
        return Move.FORWARD if new.incarnation > current.incarnation else Move.STAY
    return Move.FORWARD if new > current else Move.STAY
