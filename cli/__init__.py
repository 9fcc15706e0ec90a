"""The `fedvox` command: one thin file per role, no logic."""
