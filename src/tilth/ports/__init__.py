"""What a plug-in must offer."""
