"""What things are; standard library only."""
