"""A model as portable ONNX, described without holding its weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Graph:
    """What engines need to know of a graph to say whether they can run it.

    `digest` is the SHA-256 of the skeleton: the ONNX model whose weights of 4 KiB or more are references to
    blobs by digest, so that it binds every weight. `opsets` maps a domain to its version, with `ai.onnx` for the
    default domain. `ops` counts nodes by `domain::op_type`, subgraphs and functions included, without the
    `domain::` for the default domain. `weights_bytes` counts all weights, `weights` the blobs by size.
    """

    digest: str
    opsets: Mapping[str, int]
    ops: Mapping[str, int]
    nodes: int
    weights_bytes: int
    dtypes: tuple[str, ...] = ()
    weights: Mapping[str, int] = field(default_factory=dict)
