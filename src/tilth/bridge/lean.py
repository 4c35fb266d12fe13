"""The passes that keep a graph's answers, in the order in which one prepares the next."""

from pathlib import Path

from onnx import ModelProto

from tilth.bridge.passes.base import Pass
from tilth.bridge.passes.drop_identity import DropIdentity
from tilth.bridge.passes.fold_lookup import FoldLookup
from tilth.bridge.passes.fuse_gemm import FuseGemm
from tilth.bridge.passes.lookup_one_hot import LookupOneHot
from tilth.bridge.passes.lower_conv_transpose import LowerConvTranspose
from tilth.bridge.passes.lower_label import LowerLabel
from tilth.bridge.passes.lower_scaler import LowerScaler
from tilth.bridge.passes.merge_linear import MergeLinear
from tilth.bridge.passes.regroup_gelu import RegroupGelu
from tilth.bridge.passes.split_concat_conv import SplitConcatConv

_PASSES = (
    DropIdentity,
    LowerScaler,
    FuseGemm,
    LowerLabel,
    RegroupGelu,
    LookupOneHot,
    FoldLookup,
    LowerConvTranspose,
    SplitConcatConv,
    MergeLinear,
)
#: What one round uncovers the next one uses; nothing measured so far changed in a fourth.
_MOST_ROUNDS = 4
#: Shape inference over more nodes than this would take longer than the passes bring.
_MOST_NODES = 20_000


def make_lean(model: ModelProto, folder: Path) -> int:
    """Apply every pass until none changes anything, four rounds at most; return how many places changed.

    `folder` holds the external weights. A model of more than 20,000 nodes is left as it is.

    Raises:
        TilthError: a pass broke its promise, or an external weight cannot be read.
    """
    if len(model.graph.node) > _MOST_NODES:
        return 0
    passes: list[Pass] = [kind(folder) for kind in _PASSES]
    total = 0
    for _ in range(_MOST_ROUNDS):
        changes = sum(one(model) for one in passes)
        total += changes
        if not changes:
            break
    return total
