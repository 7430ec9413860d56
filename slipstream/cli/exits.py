"""Errors to exit codes, and to what to do about them: the one place that says so. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from pydantic import ValidationError

from slipstream import errors
from slipstream.errors import KvError


class Exit(IntEnum):
    """How a command ended. 128 and the number of a signal: that signal ended it."""

    OK = 0
    FALSE = 1
    """Not found, or the answer is no."""
    USAGE = 2
    """It cannot be done as it was asked for."""
    CONFLICT = 3
    CONNECTION = 4
    TIMEOUT = 5


class UsageError(Exception):
    """The arguments do not make sense; the message says which would."""


class ConflictingStateError(Exception):
    """What is there already stands against it; nothing was changed."""


class FalseError(Exception):
    """What was asked about is not there, or the answer is no; the message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What is told of an error.

    Attributes:
        kind: the name of the exception.
        advice: what to do about it; empty where the message says it.
        details: of the error, for programs.
    """

    exit: Exit
    kind: str
    message: str
    advice: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return f"error: {self.message}\n{f'  {self.advice}' if self.advice else ''}".rstrip()

    @property
    def record(self) -> dict[str, Any]:
        """For `--json`."""
        advice = {"advice": self.advice} if self.advice else {}
        return {"error": self.kind, "message": self.message, **advice, "exit_code": int(self.exit), **self.details}


_BY_ERROR: tuple[tuple[type[BaseException], Exit, str], ...] = (
    # The first that fits; what is derived stands before what it is derived from.
    (errors.OperationTimeoutError, Exit.TIMEOUT, "is the server under load or far away? give it longer with --timeout"),
    (
        errors.ConnectionFailedError,
        Exit.CONNECTION,
        "is the server running, and at this address? see: slipstream doctor",
    ),
    (errors.NotConnectedError, Exit.CONNECTION, "the connection was lost: try again, or see: slipstream doctor"),
    (
        errors.AuthenticationError,
        Exit.CONNECTION,
        "pass --creds, a --context, or a login in the URL",
    ),
    (
        errors.PermissionDeniedError,
        Exit.CONNECTION,
        "what a role needs: slipstream permissions reader|writer|watcher|admin STORE",
    ),
    (
        errors.StoreNotFoundError,
        Exit.FALSE,
        "see: slipstream stores list; or make it: slipstream stores create",
    ),
    (errors.KeyNotFoundError, Exit.FALSE, ""),
    (errors.FencedError, Exit.CONFLICT, "another one holds it now"),
    (errors.AlreadyExistsError, Exit.CONFLICT, "write over it with put, or with update --version"),
    (errors.ConflictError, Exit.CONFLICT, "somebody else has written: read it again and decide anew"),
    (errors.CursorExpiredError, Exit.CONFLICT, "remove the cursor (--cursor-file) to begin with the current state"),
    (errors.InvalidKeyError, Exit.USAGE, ""),
    (errors.ValueTooLargeError, Exit.USAGE, "split the value, or raise max_value_size: slipstream stores ensure"),
    (errors.UnsupportedError, Exit.USAGE, "what this server can do: slipstream doctor"),
    (errors.StoreFullError, Exit.FALSE, "delete keys, or raise max_bytes: slipstream stores ensure NAME --max-bytes N"),
    (errors.SnapshotCorruptedError, Exit.FALSE, "restore the snapshot, or remove its folder and follow anew"),
    (KvError, Exit.FALSE, ""),
    (UsageError, Exit.USAGE, ""),
    (ConflictingStateError, Exit.CONFLICT, ""),
    (FalseError, Exit.FALSE, ""),
    (TimeoutError, Exit.TIMEOUT, "give it longer with --timeout"),
    (OSError, Exit.USAGE, ""),
    (ValueError, Exit.USAGE, ""),
)
_DETAILS = ("store", "key", "expected", "actual", "first_revision", "reason", "code", "err_code")


def failure_of(error: BaseException) -> Failure | None:
    """What to tell of it, None for one that is a fault of this program and is shown as it is."""
    reason = error
    if isinstance(error, errors.BulkWriteError) and error.errors:
        reason = next(iter(error.errors.values()))
    for kind, code, advice in _BY_ERROR:
        if isinstance(reason, kind):
            return Failure(
                exit=code, kind=type(error).__name__, message=_message(error), advice=advice, details=_details(error)
            )
    return None


def _message(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        # Without the input: it may be a secret.
        found = error.errors(include_url=False, include_context=False, include_input=False)
        return "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'value'}: {each['msg'].removeprefix('Value error, ')}"
            for each in found
        )
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return str(error) or type(error).__name__


def _details(error: BaseException) -> dict[str, Any]:
    if not isinstance(error, KvError):
        return {}
    details: dict[str, Any] = {"retryable": error.retryable, "outcome_unknown": error.outcome_unknown}
    for name in _DETAILS:
        value = getattr(error, name, None)
        if value is not None:
            details[name] = value if isinstance(value, (int, str)) else str(value)
    return details
