"""What comes in from outside: blobs on their way, and bundles before anybody can see them."""
