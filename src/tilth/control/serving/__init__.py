"""From what is wanted of endpoints to what a server does: decided in `machine`, done in `shell`."""
