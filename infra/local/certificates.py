"""`SSL_CERT_FILE`: with one that cannot be read, Prefect's HTTP client fails when it is imported.

Such a variable often stays behind in a shell after another environment was removed or left.
"""

import ssl
from collections.abc import Mapping

VARIABLE = "SSL_CERT_FILE"
"""File with the certificates that TLS trusts."""


def unusable_certificates(env: Mapping[str, str]) -> str:
    """The reason why the file that the variable names cannot be used; '' if it can, or if none is named."""
    path = env.get(VARIABLE, "")
    if not path:
        return ""
    try:
        ssl.create_default_context(cafile=path)
    except (OSError, ValueError) as error:  # ssl.SSLError, for a file without certificates, is an OSError
        return getattr(error, "strerror", None) or str(error)
    return ""


def certificate_notes(env: Mapping[str, str]) -> list[str]:
    """A line if the processes of the stack do not get the variable."""
    problem = unusable_certificates(env)
    if not problem:
        return []
    return [f"{VARIABLE}={env[VARIABLE]} is not handed on to the stack ({problem}): the system's certificates count"]
