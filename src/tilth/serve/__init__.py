"""The data plane: bundles served over the Open Inference Protocol."""
