"""What all other packages use: configuration, registries, shared types, optional extras, and the ledger of results."""
