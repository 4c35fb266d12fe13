"""Alembic's entry point: it runs migrations on the connection that it is handed."""

from alembic import context

from tilth.control.store.tables import META

context.configure(connection=context.config.attributes["connection"], target_metadata=META, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
