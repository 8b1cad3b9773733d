"""Kinds of units, one file each; see `sottovoce.pruning.unit.UnitKind`."""
