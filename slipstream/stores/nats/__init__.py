"""The NATS JetStream backend."""

from slipstream.stores.nats.config import NatsConnectionConfig
from slipstream.stores.nats.connection import NatsConnection
from slipstream.stores.nats.dial import nats_connect

__all__ = ["NatsConnection", "NatsConnectionConfig", "nats_connect"]
