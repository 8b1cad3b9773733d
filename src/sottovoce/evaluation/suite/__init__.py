"""Runs tasks on models and writes the ledger."""
