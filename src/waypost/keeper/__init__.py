"""The books: the only process that touches the database."""
