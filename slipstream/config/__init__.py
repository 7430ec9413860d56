"""L2: settings that follow the store."""

from slipstream.config.live import LiveConfig
from slipstream.config.revisions import ConfigRevision, FieldError, RejectedRevision

__all__ = ["ConfigRevision", "FieldError", "LiveConfig", "RejectedRevision"]
