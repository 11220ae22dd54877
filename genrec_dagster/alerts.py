"""Tells people that a run failed: by a Slack webhook, by e-mail, or both, as the environment says.

A sensor on failed runs and not a hook in them, since a run that was killed says nothing itself. Addresses and passwords
are read when they are used, so that none stands in the definitions, in Dagster's pages or in its log.
"""

import ipaddress
import json
import os
import smtplib
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import EmailMessage
from urllib.parse import urlsplit

import dagster as dg

from genrec_core.errors import GenrecError
from genrec_core.storage.redact import without_secrets
from genrec_dagster.failures import failure_reason, is_failed_gate

SLACK, EMAIL, SENDER, SMTP = "GENREC_ALERT_SLACK", "GENREC_ALERT_EMAIL", "GENREC_ALERT_FROM", "GENREC_ALERT_SMTP"
SMTP_USER, SMTP_PASSWORD = "GENREC_ALERT_SMTP_USER", "GENREC_ALERT_SMTP_PASSWORD"
WARNINGS, UI = "GENREC_ALERT_WARNINGS", "GENREC_UI_URL"
_EVERY_SECONDS = 30
_TIMEOUT_SECONDS = 10
_PAUSES = (1.0, 3.0)  # seconds before the second and the third attempt; the sensor has a minute
_SHOWN_CHARACTERS = 1500
_SCHEMES = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}


class AlertError(GenrecError):
    """An alert that did not get through; its text names no address."""


def send_alert(subject: str, text: str) -> list[str]:
    """Send by every channel that the environment names.

    Args:
        subject: one line.
        text: what happened; secrets in it are hidden.

    Returns:
        the channels.

    Raises:
        AlertError: one of them refused three times; the others were used all the same.
    """
    subject, text = (without_secrets(part) for part in (" ".join(subject.split()), text))
    refused, sent = [], []
    for name, send in _channels().items():
        try:
            _persistently(lambda send=send: send(subject, text))  # type: ignore[misc]  # bound at once
            sent.append(name)
        except (OSError, smtplib.SMTPException, GenrecError) as error:
            refused.append(f"{name}: {_reason(error)}")
    if refused:
        raise AlertError(f"the alert was not sent by {'; '.join(refused)}")
    return sent


def _channels() -> dict[str, Callable[[str, str], None]]:
    given = {SLACK: ("Slack", _send_slack), EMAIL: ("e-mail", _send_email)}
    return dict(channel for variable, channel in given.items() if os.environ.get(variable))


def _persistently(send: Callable[[], None]) -> None:
    for pause in _PAUSES:
        try:
            return send()
        except (OSError, smtplib.SMTPException):
            time.sleep(pause)
    return send()


def _reason(error: Exception) -> str:
    """What went wrong, without the address, which is the secret of a webhook."""
    if isinstance(error, GenrecError):
        return str(error)
    if isinstance(error, urllib.error.HTTPError):
        return f"status {error.code}"
    return without_secrets(f"{type(error).__name__}: {error}")


def _send_slack(subject: str, text: str) -> None:
    """Post to an incoming webhook, Slack's or one that takes the same (Mattermost, Rocket.Chat)."""
    address = os.environ[SLACK]
    parts = urlsplit(address)
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_here(parts.hostname)):
        raise AlertError(f"{SLACK} must be an https:// address")
    body = json.dumps({"text": f"*{subject}*\n```{text}```"}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS):
        return


def _send_email(subject: str, text: str) -> None:
    message = EmailMessage()
    message["Subject"], message["To"] = subject, os.environ[EMAIL]
    message["From"] = os.environ.get(SENDER) or "genrec@localhost"
    message.set_content(text)
    server = urlsplit(os.environ.get(SMTP) or "smtp://127.0.0.1")
    user, password = os.environ.get(SMTP_USER), os.environ.get(SMTP_PASSWORD)
    if server.scheme not in _SCHEMES or not server.hostname or "@" in server.netloc:
        raise AlertError(f"{SMTP} must be {', '.join(f'{scheme}://HOST[:PORT]' for scheme in _SCHEMES)}")
    if user and server.scheme == "smtp" and not _is_here(server.hostname):
        raise AlertError(f"{SMTP}: a password is not sent unencrypted; use smtps:// or smtp+starttls://")
    place = (server.hostname, server.port or _SCHEMES[server.scheme])
    encryption = ssl.create_default_context()
    with (
        smtplib.SMTP_SSL(*place, timeout=_TIMEOUT_SECONDS, context=encryption)
        if server.scheme == "smtps"
        else smtplib.SMTP(*place, timeout=_TIMEOUT_SECONDS)
    ) as connection:
        if server.scheme == "smtp+starttls":
            connection.starttls(context=encryption)
        if user:
            connection.login(user, password or "")
        connection.send_message(message)


def _is_here(host: str | None) -> bool:
    """Whether a host is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


@dg.run_failure_sensor(
    name="alert_on_failure",
    minimum_interval_seconds=_EVERY_SECONDS,
    monitor_all_code_locations=True,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sends word of every failed run, also of those whose process was killed.",
)
def alert_on_failure(context: dg.RunFailureSensorContext) -> None:
    """Send one alert for a run that failed."""
    send_alert(*failure_text(context))


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.SUCCESS,
    name="alert_on_warning",
    minimum_interval_seconds=_EVERY_SECONDS,
    monitor_all_code_locations=True,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sends word of every run that ended well but for checks that only warn.",
)
def alert_on_warning(context: dg.RunStatusSensorContext) -> None:
    """Send one alert for a run with checks that did not pass."""
    warnings = _failed_checks(context.instance, context.dagster_run.run_id)
    if warnings:
        send_alert(f"genrec: {context.dagster_run.job_name} warns", _described(context.dagster_run, warnings))


def failure_text(context: dg.RunFailureSensorContext) -> tuple[str, str]:
    """Subject and text of an alert: which run, which step or gate, why, where to look."""
    run = context.dagster_run
    steps = [event for event in context.get_step_failure_events() if not is_failed_gate(event)]
    lines = _failed_checks(context.instance, run.run_id)
    lines += [f"{event.step_key}: {failure_reason(event)}" for event in steps]
    return f"genrec: {run.job_name} failed", _described(run, lines or [context.failure_event.message or "no reason"])


def _failed_checks(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    """What the checks of a run say that did not pass."""
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    events = [record.event_log_entry.dagster_event for record in records]
    found = [event.asset_check_evaluation_data for event in events if event]
    return [
        f"{check.asset_key.to_user_string()} {check.check_name}: {check.description}"
        for check in found
        if not check.passed
    ]


def _described(run: dg.DagsterRun, lines: list[str]) -> str:
    partition = run.tags.get("dagster/partition")
    about = f"run {run.run_id}" + (f" of {partition}" if partition else "")
    if ui := os.environ.get(UI):
        about = f"{about}\n{ui.rstrip('/')}/runs/{run.run_id}"
    return f"{about}\n" + "\n".join(lines)[:_SHOWN_CHARACTERS]


def alert_definitions() -> dg.Definitions:
    """The sensors that the environment asks for: none without a channel, that of warnings by a variable of its own."""
    if not any(os.environ.get(variable) for variable in (SLACK, EMAIL)):
        return dg.Definitions()
    return dg.Definitions(sensors=[alert_on_failure, *([alert_on_warning] if os.environ.get(WARNINGS) else [])])
