"""A copy as an artifact, and back: replica export, import, publish, fetch. Needs the extra `artifacts`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from slipstream.cli.commands.replica import Folder, open_existing, snapshot_class
from slipstream.cli.exits import Exit, FalseError, UsageError
from slipstream.cli.options import DEFAULTS, Options, Seconds
from slipstream.cli.render import moment, size

if TYPE_CHECKING:
    from slipstream.replica import Manifest, ObjectStoreTransport

Artifact = Annotated[Path, Parameter(help="The folder of the artifact.")]
NewFolder = Annotated[Path, Parameter(help="A folder that is made; nothing is overwritten.")]
Url = Annotated[
    str,
    Parameter(help="A place in an object store, for one store and its prefixes alone: s3://bucket/path, gs://, az://."),
]
AllowLocal = Annotated[
    bool,
    Parameter(
        help="Take file:///path, too. A folder has no conditional put: with one exporter only.", show_default=False
    ),
]
Limit = Annotated[Seconds, Parameter(help="Seconds that all of it may take.")]
_HOUR = 3600.0


async def export(
    folder: Folder,
    out: NewFolder,
    /,
    *,
    store: Annotated[str, Parameter(help="The store that the copy is of: the copy does not know it.")],
    prefix: Annotated[
        tuple[str, ...], Parameter(help="The prefixes that the copy was begun with.", consume_multiple=False)
    ] = (),
    options: Options = DEFAULTS,
) -> int:
    """Make an artifact of a copy: its files, its cursor and a manifest with their digests.

    No server is asked; nobody may follow into the copy meanwhile. The artifact is there whole or not at all.
    """
    _need_artifacts()
    from slipstream.replica import export_artifact

    async with await open_existing(folder) as snapshot:
        manifest = await export_artifact(snapshot, out, bucket=store, prefix=prefix or "")
    _tell(options, manifest, out)
    return Exit.OK


async def import_(artifact: Artifact, folder: NewFolder, /, *, options: Options = DEFAULTS) -> int:
    """Make a copy of an artifact, which `replica follow` goes on with. Every file is compared with its digest first."""
    _need_artifacts()
    from slipstream.replica import import_artifact

    manifest = _read_manifest(artifact)
    kind = snapshot_class(manifest.backend)
    if kind is None:
        raise UsageError(f"{artifact} was made by {manifest.backend}, which this command does not know")
    # What the manifest says is what is wanted: no server is asked, and the copy is of whatever the artifact is of.
    imported = await import_artifact(artifact, folder, kind=kind, bucket=manifest.bucket, prefix=manifest.prefixes)
    _tell(options, imported, folder)
    return Exit.OK


async def publish(
    artifact: Artifact,
    url: Url,
    /,
    *,
    allow_local: AllowLocal = False,
    within: Limit = _HOUR,
    options: Options = DEFAULTS,
) -> int:
    """Put an artifact into an object store and make it the latest there; exit code 1 if one as new is there already.

    Credentials are those of the environment (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, ...).
    """
    published = await _transport(url, allow_local=allow_local, publish_timeout=within).publish(artifact)
    cursor = str(published.pointer.cursor)
    options.output().record(
        {"moved": published.moved, "cursor": cursor},
        f"the latest is now at {cursor}" if published.moved else f"the latest there is as new: it stays at {cursor}",
    )
    return Exit.OK if published.moved else Exit.FALSE


async def fetch(
    url: Url,
    out: NewFolder,
    /,
    *,
    allow_local: AllowLocal = False,
    within: Limit = _HOUR,
    options: Options = DEFAULTS,
) -> int:
    """Bring the latest artifact from an object store; exit code 1 if nothing was published there."""
    manifest = await _transport(url, allow_local=allow_local).fetch_latest(out, timeout=within)
    if manifest is None:
        raise FalseError("nothing was published there: see slipstream replica publish")
    _tell(options, manifest, out)
    return Exit.OK


def _need_artifacts() -> None:
    """Raises: UsageError where the extra is not installed."""
    try:
        import_module("slipstream.replica.artifacts")
    except ImportError as missing:
        raise UsageError(str(missing)) from None


def _read_manifest(artifact: Path) -> Manifest:
    """Raises: FalseError where there is none; ArtifactError for a damaged one."""
    from slipstream.replica import Manifest
    from slipstream.replica.artifacts.manifest import MANIFEST

    file = artifact / MANIFEST
    if not file.is_file():
        raise FalseError(f"{artifact} holds no artifact: make one with `slipstream replica export FOLDER {artifact}`")
    return Manifest.unpack(file.read_bytes(), where=str(file))


def _transport(url: str, *, allow_local: bool, **timeouts: Any) -> ObjectStoreTransport:
    _need_artifacts()
    from obstore.exceptions import BaseError
    from obstore.store import LocalStore, from_url

    from slipstream.replica import ObjectStoreTransport

    try:
        store = from_url(url)
    except (BaseError, ValueError, OSError):
        # Without what it says: it shows the URL, which may hold a secret.
        raise UsageError("not the URL of an object store: s3://bucket/path, gs://, az://, or file:///path") from None
    if isinstance(store, LocalStore) and not allow_local:
        raise UsageError("a folder has no conditional put: say --allow-local where there is one exporter")
    return ObjectStoreTransport(store, allow_local=allow_local, **timeouts)


def _tell(options: Options, manifest: Manifest, folder: Path) -> None:
    options.output().record(
        {
            "folder": str(folder),
            "store": manifest.bucket,
            "prefixes": list(manifest.prefixes),
            "keys": manifest.keys,
            "bytes": manifest.size_bytes,
            "cursor": str(manifest.cursor),
            "created": moment(manifest.created),
        },
        f"{manifest.keys} keys of {manifest.bucket} in {folder}, {size(manifest.size_bytes)}, cursor {manifest.cursor}",
    )
