"""The SDK of the control plane: what the command line and solutions talk to it with."""
