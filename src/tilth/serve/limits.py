"""What the server takes from outside at the most."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds on requests and connections; every one of them answers with a 4xx, a 503 or a closed connection."""

    body_bytes: int = 64 << 20
    header_bytes: int = 32 << 10
    tensors: int = 256
    dims: int = 32
    #: Connections of one worker; the one that is idle the longest makes room for a new one.
    connections: int = 1024
    #: Requests of one model version in progress in one worker.
    queue: int = 256
    #: How long a client may take to send its headers, and its body, and how long a connection may rest between two
    #: requests.
    header_s: float = 2.0
    body_s: float = 30.0
    idle_s: float = 60.0
