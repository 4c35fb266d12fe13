"""The things that the control plane keeps, one file each: read in a connection, changed in a `Change`."""
