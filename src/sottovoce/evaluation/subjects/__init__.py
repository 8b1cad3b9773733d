"""Models under evaluation: encoders, exported files and controls, with one interface."""
