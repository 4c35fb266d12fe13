"""What the control plane knows, in SQLite or PostgreSQL."""
