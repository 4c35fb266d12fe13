"""Places for blobs, one file each."""
