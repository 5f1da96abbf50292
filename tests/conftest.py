"""How properties are searched: the same examples at each run, so that no change is held up by another's luck.

`HYPOTHESIS_PROFILE=search make test` looks at new examples; what it finds becomes a test of its own.
"""

import os

from hypothesis import settings

# No deadlines: a law is not broken because the machine is busy; pytest-timeout ends what hangs.
settings.register_profile("repeat", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeat"))
