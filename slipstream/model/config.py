"""How a bucket is made."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from slipstream.keys import check_bucket

MAX_HISTORY = 64


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _at_least_a_second(value: timedelta | None) -> timedelta | None:
    # "subject delete marker TTL must be at least 1 second" (PROTOCOL.md, a)
    if value is not None and value < timedelta(seconds=1):
        raise ValueError("marker_ttl is at least one second; None turns markers off")
    return value


def _positive_age(value: timedelta | None) -> timedelta | None:
    # "max age needs to be >= 100ms" (PROTOCOL.md, a)
    if value is not None and value < timedelta(milliseconds=100):
        raise ValueError("max_age is at least 0.1 seconds; None keeps values for ever")
    return value


def _no_bool(value: Any) -> Any:
    # bool is an int to Python: max_history=True would pass as 1.
    if isinstance(value, bool):
        raise ValueError("a number is wanted, not a bool")
    return value


def _none_if_empty(text: str | None) -> str | None:
    return text or None  # to the server an empty description is none


_Count = Annotated[int, BeforeValidator(_no_bool)]


class Placement(_Frozen):
    """Where a cluster puts the bucket: the name of the cluster, tags that its servers must carry, or both."""

    cluster: Annotated[str, Field(min_length=1)] | None = None
    tags: tuple[Annotated[str, Field(min_length=1)], ...] = ()


def _none_if_anywhere(placement: Placement | None) -> Placement | None:
    return placement if placement is not None and (placement.cluster or placement.tags) else None


class StoreConfig(_Frozen):
    """How a bucket is made. It applies at creation only: an existing bucket is left as it is.

    Attributes:
        name: letters, digits, `-` and `_`.
        storage: `persistent` (files) or `memory`.
        max_history: how many revisions of a key are kept, 1 to 64.
        max_age: seconds or `timedelta` after which a value expires; None keeps it.
        max_bytes: size of the whole bucket; None for no limit.
        max_value_size: size of one value in bytes; None for no limit but the server's.
        num_replicas: how many servers of a cluster hold the bucket, 1 to 5.
        discard: what a full bucket does: `new` refuses writes, `old` drops its oldest revisions.
        marker_ttl: seconds or `timedelta` for which the mark of an expired key stays, so that watches see the
            expiry; at least 1 s, None for no marks. One hour unless set. Servers before 2.11.2 have no marks.
        placement: where a cluster puts it.
        mirror: the name of a bucket that this one copies; writes through the mirror go to that bucket.
        metadata: text pairs kept with the bucket.

    Raises: pydantic's ValidationError, a ValueError.
    """

    name: Annotated[str, AfterValidator(check_bucket)]
    storage: Literal["persistent", "memory"] = "persistent"
    max_history: Annotated[_Count, Field(ge=1, le=MAX_HISTORY)] = 1
    max_age: Annotated[timedelta | None, BeforeValidator(_no_bool), AfterValidator(_positive_age)] = None
    max_bytes: Annotated[_Count, Field(ge=1)] | None = None
    max_value_size: Annotated[_Count, Field(ge=1)] | None = None
    num_replicas: Annotated[_Count, Field(ge=1, le=5)] = 1
    discard: Literal["new", "old"] = "new"
    description: Annotated[str | None, AfterValidator(_none_if_empty)] = None
    compression: bool = False
    marker_ttl: Annotated[timedelta | None, BeforeValidator(_no_bool), AfterValidator(_at_least_a_second)] = timedelta(
        hours=1
    )
    placement: Annotated[Placement | None, AfterValidator(_none_if_anywhere)] = None
    mirror: Annotated[str, AfterValidator(check_bucket)] | None = None
    metadata: Mapping[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _no_mirror_of_itself(self) -> Self:
        if self.mirror == self.name:
            raise ValueError("a bucket cannot mirror itself")
        return self
