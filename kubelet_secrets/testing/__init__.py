"""Help for tests: the pytest plugin, and images that need no network. Nothing the node itself needs is here."""
