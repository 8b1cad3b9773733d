"""Kinds of units, one file each. See `sottovoce.pruning.unit.UnitKind`."""
