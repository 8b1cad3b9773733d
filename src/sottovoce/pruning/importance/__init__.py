"""How important units are without gates, one way per file. See `sottovoce.pruning.importance.base.Importance`."""
