"""L0: every public exception.

    KvError
    ├── NotConnectedError            retryable
    ├── ConnectionFailedError        retryable
    ├── AuthenticationError
    ├── PermissionDeniedError
    ├── StoreNotFoundError
    ├── KeyNotFoundError
    ├── InvalidKeyError              also ValueError
    ├── ConflictError
    │   ├── AlreadyExistsError
    │   └── RevisionMismatchError    .expected .actual
    │       └── FencedError
    ├── ValueTooLargeError
    ├── StoreFullError
    ├── CursorExpiredError           .cursor .first_revision .reason
    ├── WatchError                   retryable
    ├── OperationFailedError         .code .err_code
    ├── OperationTimeoutError        retryable, also TimeoutError
    ├── BulkWriteError               .versions .errors
    ├── UnsupportedError
    ├── SerializationError
    ├── DeserializationError
    ├── SnapshotError
    │   └── SnapshotCorruptedError
    └── ArtifactError

Constructors take keywords only; the message is made from them unless one is given, and names the store and the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from slipstream.model import VersionToken, WatchCursor

ExpiryReason = Literal["compacted", "recreated", "rolled_back"]


class KvError(Exception):
    """Anything slipstream raises about a store.

    Attributes:
        retryable: the same call may succeed later without a change by the caller.
        outcome_unknown: a write was sent and its answer never came: it may or may not have been stored.
        store, key: what the operation was about, None where it was about neither.
    """

    retryable: ClassVar[bool] = False
    default_message: ClassVar[str] = "the operation failed"

    def __init__(
        self,
        *,
        message: str | None = None,
        store: str | None = None,
        key: str | None = None,
        outcome_unknown: bool = False,
    ) -> None:
        self.message = message if message is not None else self.default_message
        self.store = store
        self.key = key
        self.outcome_unknown = outcome_unknown
        super().__init__(self.message)

    def __str__(self) -> str:
        where = []
        if self.store is not None:
            where.append(f"store {self.store!r}")
        if self.key is not None:
            where.append(f"key {self.key!r}")
        text = f"{', '.join(where)}: {self.message}" if where else self.message
        return f"{text} (the outcome of the write is unknown)" if self.outcome_unknown else text

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException pickles its positional arguments, and these constructors have none.
        return (_rebuild, (type(self), dict(self.__dict__)))


def _rebuild(kind: type[KvError], state: dict[str, Any]) -> KvError:
    error = kind.__new__(kind)
    error.__dict__.update(state)
    error.args = (state["message"],)
    return error


class NotConnectedError(KvError):
    """The connection is down, was never opened, or has been shut down."""

    retryable = True
    default_message = "not connected"


class ConnectionFailedError(KvError):
    """No server could be reached or started."""

    retryable = True
    default_message = "could not connect"


class AuthenticationError(KvError):
    """The server refused the credentials."""

    default_message = "the server refused the credentials"


class PermissionDeniedError(KvError):
    """The credentials are good, but do not allow this operation."""

    default_message = "these credentials do not permit the operation"


class StoreNotFoundError(KvError):
    """The bucket does not exist, or no longer."""

    default_message = "the bucket does not exist"


class KeyNotFoundError(KvError):
    """The key is absent where a value was required."""

    default_message = "the key does not exist"


class InvalidKeyError(KvError, ValueError):
    """A key, prefix or bucket name breaks the rules of `slipstream.keys`; nothing was sent."""

    default_message = "the key is not valid"


class ConflictError(KvError):
    """The server refused a conditional write; nothing was written."""

    default_message = "another writer was first"


class AlreadyExistsError(ConflictError):
    """`create` found a live value."""

    default_message = "the key already exists"


class RevisionMismatchError(ConflictError):
    """The last revision of the key is not the expected one, also when the key is gone.

    Attributes:
        expected: the version that the write asked for.
        actual: the version that the server holds; None where the server did not say.
    """

    def __init__(
        self,
        *,
        message: str | None = None,
        store: str | None = None,
        key: str | None = None,
        expected: VersionToken | None = None,
        actual: VersionToken | None = None,
        outcome_unknown: bool = False,
    ) -> None:
        self.expected = expected
        self.actual = actual
        if message is None:
            found = f"the server holds {actual}" if actual is not None else "the server holds another one"
            message = f"expected revision {expected}, {found}"
        super().__init__(message=message, store=store, key=key, outcome_unknown=outcome_unknown)


class FencedError(RevisionMismatchError):
    """A fenced write came after the fencing key had moved on."""


class ValueTooLargeError(KvError):
    """The value exceeds the bucket's or the server's limit; nothing was written."""

    default_message = "the value is too large"


class StoreFullError(KvError):
    """A limit of the bucket or the account is reached; nothing was written."""

    default_message = "the bucket is full"


class CursorExpiredError(KvError):
    """The watch cannot prove that it would deliver everything after the cursor: read the state anew.

    Attributes:
        cursor: the position that cannot be resumed.
        first_revision: the oldest revision that the bucket still holds, None where unknown.
        reason: `compacted` (retention went past the cursor), `recreated` (another life of the bucket),
            `rolled_back` (the cursor lies beyond the end of the bucket).
    """

    _texts: ClassVar[Mapping[str, str]] = {
        "compacted": "the bucket no longer holds everything after the cursor",
        "recreated": "the bucket was deleted and made again",
        "rolled_back": "the cursor lies beyond the end of the bucket",
    }

    def __init__(
        self,
        *,
        message: str | None = None,
        store: str | None = None,
        key: str | None = None,
        cursor: WatchCursor | None = None,
        first_revision: int | None = None,
        reason: ExpiryReason = "compacted",
        outcome_unknown: bool = False,
    ) -> None:
        self.cursor = cursor
        self.first_revision = first_revision
        self.reason: ExpiryReason = reason
        if message is None:
            message = (
                f"cursor {cursor} expired: {self._texts[reason]} (first revision {first_revision}); "
                "watch without a cursor to read the current state"
            )
        super().__init__(message=message, store=store, key=key, outcome_unknown=outcome_unknown)


class WatchError(KvError):
    """A watch ended for a reason that a new watch may not meet."""

    retryable = True
    default_message = "the watch failed"


class OperationFailedError(KvError):
    """The server answered with an error that has no exception of its own.

    Attributes:
        code: the HTTP-like status of the answer, None where there was none.
        err_code: the server's own error number, None where there was none.
    """

    def __init__(
        self,
        *,
        message: str | None = None,
        store: str | None = None,
        key: str | None = None,
        code: int | None = None,
        err_code: int | None = None,
        outcome_unknown: bool = False,
    ) -> None:
        self.code = code
        self.err_code = err_code
        super().__init__(message=message, store=store, key=key, outcome_unknown=outcome_unknown)


class OperationTimeoutError(KvError, TimeoutError):
    """The operation did not end within its timeout."""

    retryable = True
    default_message = "the operation timed out"


class BulkWriteError(KvError):
    """Some writes of a bulk operation failed; the others are done.

    Attributes:
        versions: the version of every key that was written.
        errors: the error of every key that was not, or whose outcome is unknown (see the error itself).
    """

    def __init__(
        self,
        *,
        message: str | None = None,
        store: str | None = None,
        key: str | None = None,
        versions: Mapping[str, VersionToken] | None = None,
        errors: Mapping[str, KvError] | None = None,
        outcome_unknown: bool = False,
    ) -> None:
        self.versions = dict(versions or {})
        self.errors = dict(errors or {})
        if message is None:
            first = next(iter(self.errors.values()), None)
            message = f"{len(self.errors)} of {len(self.errors) + len(self.versions)} writes failed, first: {first}"
        super().__init__(message=message, store=store, key=key, outcome_unknown=outcome_unknown)


class UnsupportedError(KvError):
    """The backend, the server's version or the bucket's configuration cannot do this; nothing was sent."""

    default_message = "not supported here"


class SerializationError(KvError):
    """A value could not be encoded; nothing was sent."""

    default_message = "the value cannot be encoded"


class DeserializationError(KvError):
    """A stored value could not be decoded."""

    default_message = "the stored value cannot be decoded"


class SnapshotError(KvError):
    """A local snapshot could not be read or written."""

    default_message = "the snapshot failed"


class SnapshotCorruptedError(SnapshotError):
    """A local snapshot is damaged."""

    default_message = "the snapshot is damaged"


class ArtifactError(KvError):
    """An exported artifact could not be made, moved or taken in."""

    default_message = "the artifact failed"
