"""The buckets of a server: stores list, create, info, delete, ensure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from slipstream.cli.commands.tree import parse_document
from slipstream.cli.connecting import exists, find_store, need_admin, open_connection, open_store
from slipstream.cli.exits import ConflictingStateError, Exit, UsageError
from slipstream.cli.given import confirmed
from slipstream.cli.options import DEFAULTS, Options, StoreName
from slipstream.cli.output import Output
from slipstream.cli.render import moment, plain, size
from slipstream.errors import StoreNotFoundError
from slipstream.model import Drift, Placement, StoreConfig, StoreStatus

_FIELDS = Group("How the store is made", sort_key=1)


@Parameter(name="*", group=_FIELDS)
@dataclass(frozen=True, kw_only=True)
class StoreFields:
    """The fields of a `StoreConfig` that were given; the others are no wish."""

    spec: Annotated[Path | None, Parameter(help="A YAML, JSON or TOML file with these fields.")] = None
    storage: Annotated[Literal["persistent", "memory"] | None, Parameter(help="Files, or memory alone.")] = None
    max_history: Annotated[int | None, Parameter(help="Revisions kept of each key, 1 to 64.")] = None
    max_age: Annotated[float | None, Parameter(help="Seconds after which values expire.")] = None
    max_bytes: Annotated[int | None, Parameter(help="Size of the whole store.")] = None
    max_value_size: Annotated[int | None, Parameter(help="Size of one value in bytes.")] = None
    num_replicas: Annotated[int | None, Parameter(help="Servers of a cluster that hold it, 1 to 5.")] = None
    discard: Annotated[
        Literal["new", "old"] | None, Parameter(help="A full store refuses what is new, or drops what is old.")
    ] = None
    description: Annotated[str | None, Parameter(help="For people.")] = None
    compression: Annotated[bool | None, Parameter(help="Compress what is stored.", negative="--no-compression")] = None
    marker_ttl: Annotated[float | None, Parameter(help="Seconds for which the mark of an expired key stays.")] = None
    mirror: Annotated[str | None, Parameter(help="The store that this one copies.")] = None
    placement_cluster: Annotated[str | None, Parameter(help="The cluster that holds it.")] = None
    placement_tag: Annotated[tuple[str, ...], Parameter(help="Tags of the servers that hold it.")] = ()
    metadata: Annotated[dict[str, str] | None, Parameter(help="Pairs: --metadata.team=payments.")] = None

    def config(self, name: str) -> StoreConfig:
        """With the file's fields under the options'. Raises: OSError, UsageError, pydantic's ValidationError."""
        given: dict[str, Any] = {}
        if self.spec is not None:
            found = parse_document(self.spec.read_text(), self.spec)
            if not isinstance(found, dict):
                raise UsageError(f"{self.spec} holds no fields of a store: name: value")
            given |= found
        if given.get("name", name) != name:
            raise UsageError(f"{self.spec} describes the store {given['name']!r}, not {name!r}")
        for each in fields(self):
            value = getattr(self, each.name)
            if value not in (None, ()) and not each.name.startswith(("spec", "placement")):
                given[each.name] = value
        if self.placement_cluster or self.placement_tag:
            given["placement"] = Placement(cluster=self.placement_cluster, tags=self.placement_tag)
        return StoreConfig(**{**given, "name": name})


NO_FIELDS = StoreFields()


async def list_stores(*, options: Options = DEFAULTS) -> int:
    """Print the stores of the server; exit code 1 if there are none."""
    out = options.output()
    rows = []
    async with open_connection(options) as connection:
        for name in await connection.stores():
            try:
                status = await (await find_store(connection, name)).status()
            except StoreNotFoundError:
                continue  # deleted meanwhile
            if out.json:
                out.record(status_record(name, status), "")
            rows.append((name, f"{status.keys} keys", size(status.bytes), f"revision {status.last_revision}"))
    out.table(rows)
    return Exit.OK if rows else Exit.FALSE


async def create(name: StoreName, /, *, config: StoreFields = NO_FIELDS, options: Options = DEFAULTS) -> int:
    """Make a store; exit code 3 if there is one of that name."""
    wanted = config.config(name)
    async with open_connection(options) as connection:
        if await exists(connection, name):
            raise ConflictingStateError(f"the store {name!r} exists: see what differs with `slipstream stores ensure`")
        status = await (await connection.store(wanted)).status()
    options.output().record(status_record(name, status), f"created {name}")
    return Exit.OK


async def info(name: StoreName, /, *, options: Options = DEFAULTS) -> int:
    """Print what a store holds and how it was made."""
    out = options.output()
    async with open_store(options, name) as store:
        status = await store.status()
    record = status_record(name, status)
    if out.json:
        out.record(record, "")
        return Exit.OK
    rows = [(key, str(value)) for key, value in record.items() if key != "config"]
    rows += [(f"config.{key}", str(value)) for key, value in record["config"].items() if value not in (None, {})]
    out.table(rows)
    return Exit.OK


async def delete(
    name: StoreName,
    /,
    *,
    yes: Annotated[bool, Parameter(help="Do not ask.", show_default=False)] = False,
    options: Options = DEFAULTS,
) -> int:
    """Delete a store and all it holds."""
    async with open_connection(options) as connection:
        status = await (await find_store(connection, name)).status()
        confirmed(f"Delete the store {name!r} with its {status.keys} keys?", yes=yes)
        await connection.delete_store(name)
    options.output().record({"store": name, "deleted": True}, f"deleted {name}")
    return Exit.OK


async def ensure(
    name: StoreName,
    /,
    *,
    config: StoreFields = NO_FIELDS,
    dry_run: Annotated[bool, Parameter(help="Only show what differs; exit code 1 if something does.")] = False,
    allow_loss: Annotated[
        bool, Parameter(help="Also set limits that drop what is stored now: history, age, size.")
    ] = False,
    options: Options = DEFAULTS,
) -> int:
    """Make a store if there is none, and change what differs in one that is there.

    Only fields that are given are looked at. Exit code 3 if something differs that cannot be changed in place.
    """
    out = options.output()
    wanted = config.config(name)
    async with open_connection(options) as connection:
        if not await exists(connection, name):
            if not dry_run:
                await connection.store(wanted)
            out.record({"store": name, "created": not dry_run}, f"{name} {'would be' if dry_run else 'was'} made")
            return Exit.FALSE if dry_run else Exit.OK
        admin = need_admin(connection)
        before = await admin.drift(wanted)
        steps = [_step(difference, allow_loss=allow_loss) for difference in before]
        if dry_run or not before:
            _tell(out, name, before, steps)
            return Exit.FALSE if before else Exit.OK
        left_alone = {difference.field for difference, step in zip(before, steps, strict=True) if step != "change"}
        changing = wanted.model_fields_set - left_alone
        after = await admin.update_store(
            StoreConfig(**{field: getattr(wanted, field) for field in changing | {"name"}})
        )
        refused = {difference.field for difference in after}
        done = ["changed" if step == "change" else step for step in steps]
        done = [
            "refused by the server" if difference.field in refused else step
            for difference, step in zip(before, done, strict=True)
        ]
    _tell(out, name, before, done)
    if set(done) - {"changed"}:
        raise ConflictingStateError(
            f"the store {name!r} still differs in {', '.join(sorted(left_alone | refused))}: allow what loses data "
            "with --allow-loss; for the rest dump it, delete it, make it anew and restore"
        )
    return Exit.OK


def _step(difference: Drift, *, allow_loss: bool) -> str:
    from slipstream.stores.nats.stream_update import drops_data, is_changeable

    if not is_changeable(difference):
        return "needs a store made anew"
    return "needs --allow-loss" if drops_data(difference) and not allow_loss else "change"


def _tell(out: Output, name: str, differences: Iterable[Drift], steps: Iterable[str]) -> None:
    for difference, step in zip(differences, steps, strict=True):
        wanted, actual = _json(difference.wanted), _json(difference.actual)
        out.record(
            {"store": name, "field": difference.field, "wanted": wanted, "actual": actual, "step": step},
            [(difference.field, "bold"), (f": {actual} -> {wanted} ", ""), (f"({step})", "dim")],
        )


def status_record(name: str, status: StoreStatus) -> dict[str, Any]:
    return {
        "store": name,
        "keys": status.keys,
        "bytes": status.bytes,
        "first_revision": status.first_revision,
        "last_revision": status.last_revision,
        "incarnation": moment(status.incarnation),
        "replicas": status.replicas,
        "leader": status.leader,
        "config": {field: _json(getattr(status.config, field)) for field in StoreConfig.model_fields},
    }


def _json(value: Any) -> Any:
    if isinstance(value, Placement):
        return {"cluster": value.cluster, "tags": list(value.tags)}
    return plain(value) if isinstance(value, timedelta) else value
