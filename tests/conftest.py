"""Hypothesis profiles. By default each run tries the same examples, so that a test does not fail at random.

`HYPOTHESIS_PROFILE=search make test` tries new examples; a failure that it finds becomes a test.
"""

import os

from hypothesis import settings

# No deadlines, because the machine may be busy; pytest-timeout ends tests that hang.
settings.register_profile("repeat", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeat"))
