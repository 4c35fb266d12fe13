"""What the server takes from outside at the most."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds on requests and connections; every one of them answers with a 4xx, a 503 or a closed connection."""

    body_bytes: int = 64 << 20
    header_bytes: int = 32 << 10
    tensors: int = 256
    dims: int = 32
    connections: int = 1024
    #: Requests of one model version in progress in one worker.
    queue: int = 256
    #: How long a client may take to send its headers, and its body.
    header_s: float = 2.0
    body_s: float = 30.0
