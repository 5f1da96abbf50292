"""`python -m flows.run.lost_cancel FLOW_RUN_ID`: ends the cancel of a flow run whose process and worker are gone.

`agevlm up` calls it with the environment of a flow. Exit code 1, with the reason on stderr, if a job goes on.
"""

import sys

from flows.run.cancellation import end_cancel

if __name__ == "__main__":
    try:
        end_cancel(sys.argv[1])
    except Exception as error:  # the library of an object store raises errors of many types
        sys.exit(f"{type(error).__name__}: {error}")
