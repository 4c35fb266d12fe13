"""The control plane: who may do what with which models, what should run where, and what happened."""
