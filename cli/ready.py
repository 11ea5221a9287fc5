"""`python -m cli.ready`: exit status 0 when the service on this machine is ready; a container's health check.

Not a command of `driftline`: it runs every few seconds, and importing the whole command line would cost more than the
question. It reads DRIFTLINE_PORT and needs nothing beyond the standard library.
"""

import http.client
import os
import sys

SECONDS = 5.0
"""How long the answer may take."""


def ready(port: int) -> bool:
    """Whether GET /readyz on loopback answers 200 in time."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if ready(int(os.environ.get("DRIFTLINE_PORT", "8080"))) else 1)
