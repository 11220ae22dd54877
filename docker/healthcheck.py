"""Exit code 0 if the server in this container answers: ``healthcheck.py URL``, or ``healthcheck.py dagster``.

A refusal counts as an answer: TorchServe wants a token, and its tokens run out while it works.
"""

import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

PAGES = {
    "webserver": "http://127.0.0.1:3000/server_info",
    "mlflow": "http://127.0.0.1:5000/health",
    "pages": "http://127.0.0.1:3001/",
}
COMMANDS = {
    "daemon": ["dagster-daemon", "liveness-check"],
    "code": ["dagster", "api", "grpc-health-check", "-p", "4000"],
}


def answers(url: str) -> bool:
    """Whether something answers at ``url`` with less than a server error."""
    try:
        with urllib.request.urlopen(url, timeout=4):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False


def main() -> int:
    """Check by the URL, or by the role that the dagster image was started in."""
    if sys.argv[1] != "dagster":
        return 0 if answers(sys.argv[1]) else 1
    role = Path("/tmp/role").read_text(encoding="utf-8").strip()
    if role in PAGES:
        return 0 if answers(PAGES[role]) else 1
    return subprocess.run(COMMANDS[role], check=False).returncode if role in COMMANDS else 0


if __name__ == "__main__":
    sys.exit(main())
