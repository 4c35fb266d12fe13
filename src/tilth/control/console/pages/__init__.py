"""The pages, one file for each kind of thing: what is read for it, and the forms on it."""
