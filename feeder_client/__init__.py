"""feeder's client: batches for training, made by feeder servers.

`FeederSequence` is what Keras takes, `FeederClient` the same without Keras. Importing this imports no Keras and no TensorFlow.
"""

from feeder_client.client import FeederClient
from feeder_client.sequence import FeederSequence
from feeder_client.stats import Stats
from feeder_wire.errors import (
    AuthenticationError,
    BatchTimeout,
    ClosedError,
    ConfigError,
    DivergentSource,
    EndpointError,
    FeederError,
    NodeUnreachable,
    ProtocolError,
    SourceError,
    SourceNotFound,
    UnsupportedBatch,
    VersionMismatch,
    WorkerCrashed,
)

__all__ = [
    "AuthenticationError",
    "BatchTimeout",
    "ClosedError",
    "ConfigError",
    "DivergentSource",
    "EndpointError",
    "FeederClient",
    "FeederError",
    "FeederSequence",
    "NodeUnreachable",
    "ProtocolError",
    "SourceError",
    "SourceNotFound",
    "Stats",
    "UnsupportedBatch",
    "VersionMismatch",
    "WorkerCrashed",
]
