"""Procedural breast-MRI phantoms of three hospitals."""
