"""Alembic's entry: migrate the database on the connection that `storage.migrate` hands over."""

from __future__ import annotations

from alembic import context

from bitbudget.app.server.tables import Base


def run() -> None:
    """Run the chosen migrations inside the caller's transaction."""
    connection = context.config.attributes["connection"]
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        context.run_migrations()


run()
