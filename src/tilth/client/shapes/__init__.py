"""What goes over the wire between the control plane and its clients; one definition for both."""
