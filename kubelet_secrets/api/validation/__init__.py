"""The rules of the API as pure functions on plain dictionaries; see ``fields`` for what an error is."""
