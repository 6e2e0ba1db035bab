"""The database: connections, transactions, migrations and the identifiers of rows."""
