"""What every room builds on: configuration, registries, shared types, optional extras, and the ledger of results."""
