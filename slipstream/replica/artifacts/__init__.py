"""L2: a fold as an artifact, which can be copied, checked and started from. Needs the extra `artifacts`.

rounds             one exporter a round; a node that starts from what is published
transport          publish, fetch and prune in an object store
exporting          an artifact of a fold that goes on being followed
importing          a snapshot of an artifact
copying            a fold and its cursor, of one moment, while it moves on
objects            an object store: its errors, its conditional put
files, staging     digests; a folder that is there whole or not at all
manifest, pointer  what an artifact is; which one is the latest (pure)
"""

from slipstream.replica.artifacts.exporting import export_artifact
from slipstream.replica.artifacts.importing import import_artifact
from slipstream.replica.artifacts.manifest import ArtifactFile, Manifest
from slipstream.replica.artifacts.pointer import Pointer
from slipstream.replica.artifacts.rounds import RoundLease, bootstrap, export_round
from slipstream.replica.artifacts.transport import ObjectStoreTransport, Publication

__all__ = [
    "ArtifactFile",
    "Manifest",
    "ObjectStoreTransport",
    "Pointer",
    "Publication",
    "RoundLease",
    "bootstrap",
    "export_artifact",
    "export_round",
    "import_artifact",
]
