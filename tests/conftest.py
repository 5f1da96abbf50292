"""What all tests share."""

from hypothesis import settings

# A law is not broken because the machine is busy; pytest-timeout ends what hangs.
settings.register_profile("agevlm", deadline=None)
settings.load_profile("agevlm")
