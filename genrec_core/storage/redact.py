"""Takes secrets out of errors, logs, metadata and alerts."""

import os
import re

SECRET_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "GENREC_ALERT_SLACK",
    "GENREC_ALERT_SMTP_PASSWORD",
    "GENREC_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "RAY_AUTH_TOKEN",
)
HIDDEN = "***"
_USER = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*://)[^/\s?#'\"]*@")
_QUERY = re.compile(r"(?P<address>\b[A-Za-z][A-Za-z0-9+.-]*://[^\s?'\"]*)\?[^\s'\"),;]*[^\s'\"),;:.]")


def without_secrets(text: str) -> str:
    """``text`` without known secrets, and without user, password and query (which may sign it) of its addresses."""
    for value in {os.environ.get(name, "") for name in SECRET_VARIABLES}:
        if len(value) >= 6:  # a shorter value would blot out ordinary words
            text = text.replace(value, HIDDEN)
    text = _USER.sub(rf"\g<scheme>{HIDDEN}@", text)
    return _QUERY.sub(rf"\g<address>?{HIDDEN}", text)
