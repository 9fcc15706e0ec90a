"""Code that runs on both ends: no network, no patient files, no device choice."""
