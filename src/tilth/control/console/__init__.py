"""The console: pages made here on the server, and forms that need no script; htmx and live numbers come on top."""
