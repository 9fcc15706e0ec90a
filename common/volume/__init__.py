"""Geometry and intensity of volumes, and their inverses."""
