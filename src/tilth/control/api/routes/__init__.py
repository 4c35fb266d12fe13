"""The routes, one file for each kind of resource; each is a handler and the action that it is."""
