"""Models under evaluation: encoders, exported files, and controls, behind one interface."""
