"""Everything that touches a vendor library."""
