"""How things are called, and how an operation ended."""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path

import pytest
from opentelemetry.semconv.attributes import db_attributes, error_attributes
from opentelemetry.semconv.metrics import db_metrics

import slipstream
from slipstream import errors
from slipstream.errors import BulkWriteError, KvError, OperationFailedError, OperationTimeoutError, StoreFullError
from slipstream.model import VersionToken
from slipstream.otel import names
from slipstream.otel.names import outcome_of, reason_label, status_code

ONE = {"a": VersionToken.from_u64(1)}


def test_the_semantic_conventions_are_followed() -> None:
    assert names.SYSTEM_NAME == db_attributes.DB_SYSTEM_NAME
    assert names.NAMESPACE == db_attributes.DB_NAMESPACE
    assert names.OPERATION == db_attributes.DB_OPERATION_NAME
    assert names.BATCH_SIZE == db_attributes.DB_OPERATION_BATCH_SIZE
    assert names.STATUS_CODE == db_attributes.DB_RESPONSE_STATUS_CODE
    assert names.ERROR_TYPE == error_attributes.ERROR_TYPE
    assert names.DURATION.name == db_metrics.DB_CLIENT_OPERATION_DURATION


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "done"),
        (StoreFullError(), "refused"),
        (OperationTimeoutError(), "refused"),
        (OperationTimeoutError(outcome_unknown=True), "unknown"),
        (BulkWriteError(errors={"b": StoreFullError()}), "refused"),
        (BulkWriteError(versions=ONE, errors={"b": StoreFullError()}), "partial"),
        (BulkWriteError(versions=ONE, errors={"b": StoreFullError()}, outcome_unknown=True), "unknown"),
        (ValueError(), "refused"),
        (asyncio.CancelledError(), "cancelled"),
        (KeyboardInterrupt(), "cancelled"),
    ],
)
def test_outcomes(error: BaseException | None, outcome: str) -> None:
    assert outcome_of(error) == outcome


@pytest.mark.parametrize("name", [name for name in vars(errors) if name.endswith("Error")])
def test_the_outcome_of_every_error(name: str) -> None:
    kind: type[KvError] = getattr(errors, name)
    assert outcome_of(kind()) == "refused"
    assert outcome_of(kind(outcome_unknown=True)) == "unknown"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OperationFailedError(code=500, err_code=10077), "10077"),
        (OperationFailedError(code=503), "503"),
        (OperationFailedError(), None),
        (StoreFullError(), None),
    ],
)
def test_what_the_server_answered(error: KvError, code: str | None) -> None:
    assert status_code(error) == code


def test_the_reasons_are_those_that_coordination_gives() -> None:
    folder = Path(slipstream.__file__).parent / "coordination"
    texts = {
        node.value
        for file in folder.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert len(names._REASONS) == 6
    for reason in names._REASONS:
        assert reason in texts, f"slipstream.coordination does not say {reason!r} any more: see names._REASONS"


@pytest.mark.parametrize("reason", [None, "", "store 'b', key 'person.ada': not connected"])
def test_a_reason_that_may_name_a_key_has_one_label(reason: str | None) -> None:
    assert reason_label(reason) == "not_renewed"
