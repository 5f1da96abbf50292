"""Watches the state of this flow run at the Prefect server, for a cancel that no signal tells of.

Prefect's worker sends SIGTERM to the process of a cancelled run. It cannot do so after it was killed, nor after an
outage of the server: its observer of cancellations gives up after a few errors and is not started again.
"""

import threading
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

WATCH_SECONDS = 3.0
REQUEST_SECONDS = 10.0
GRACE_SECONDS = 2.0
"""Time for Prefect's own signal to arrive first: then the run ends as Prefect intends."""


class CancelRequested(Exception):
    """The flow run is to be cancelled, and no signal said so."""


class OwnState:
    """A background thread that asks for the state of one flow run."""

    def __init__(self, flow_run_id: str) -> None:
        self._id = UUID(flow_run_id)
        self._cancelling, self._over, self._answered = threading.Event(), threading.Event(), threading.Event()
        self._answered.set()  # the run has just been started
        self._thread = threading.Thread(target=self._watch, name=f"state of {flow_run_id}", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        # Without retries of the client, whose pauses grow to minutes during an outage: the next look is the retry.
        settings = {PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: REQUEST_SECONDS}
        with temporary_settings(updates=settings), get_client(sync_client=True) as client:
            while not self._over.wait(WATCH_SECONDS):
                try:
                    state = client.read_flow_run(self._id).state
                except (
                    httpx.HTTPError,
                    PrefectException,
                    OSError,
                    ValueError,
                ) as error:  # asked again at the next look
                    (self._answered.set if is_answer(error) else self._answered.clear)()
                    continue
                self._answered.set()
                if state is not None and state.type in (StateType.CANCELLING, StateType.CANCELLED):
                    self._over.wait(GRACE_SECONDS)
                    self._cancelling.set()
                    return

    def check(self) -> None:
        """Raise CancelRequested if the run is being cancelled."""
        if self._cancelling.is_set():
            raise CancelRequested

    def wait_for_server(self, seconds: float) -> bool:
        """Wait until the server answers. Returns False if it did not within this time."""
        return self._answered.wait(seconds)

    def close(self) -> None:
        """End the thread."""
        self._over.set()


def is_answer(error: Exception) -> bool:
    """True if the server is there and refuses: the run was deleted, or our secret is wrong. Waiting would not help."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code < 500
    return isinstance(error, ObjectNotFound)
