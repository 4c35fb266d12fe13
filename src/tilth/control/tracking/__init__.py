"""A tracking server below the control plane's login: its process, and the one way to it."""
