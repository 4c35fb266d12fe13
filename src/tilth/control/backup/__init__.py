"""A control plane in a folder: taken while it goes on, checked, and put back."""
