"""What all tests share: hypothesis must be repeatable and patient."""

from hypothesis import settings

# A loaded machine must not fail a test, and a failure must come back when it is run again.
settings.register_profile("fedvox", deadline=None, derandomize=True)
settings.load_profile("fedvox")
