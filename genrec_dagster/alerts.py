"""Sends an alert when a run fails: to a Slack webhook, by e-mail, or both.

It is a sensor and not a hook in the run, because a killed run cannot send anything. Addresses and passwords are read
from the environment when they are used, so Dagster's definitions, pages and log hold none.
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
_PAUSES = (1.0, 3.0)  # seconds before the second and the third attempt; a tick of a sensor may take a minute
_SHOWN_CHARACTERS = 1500
_SCHEMES = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}


class AlertError(GenrecError):
    """An alert was not sent. The text names no address, because a webhook's address is a secret."""


def send_alert(subject: str, text: str) -> list[str]:
    """Send an alert by all channels that the environment names, and return their names. Secrets in it are hidden.

    After three failures of a channel the others are used all the same; then an AlertError is raised.
    """
    subject, text = (without_secrets(part) for part in (" ".join(subject.split()), text))
    sent, errors = [], []
    for variable, channel, send in ((SLACK, "Slack", _send_slack), (EMAIL, "e-mail", _send_email)):
        if os.environ.get(variable):
            try:
                _send_with_retries(send, subject, text)
                sent.append(channel)
            except (OSError, smtplib.SMTPException, GenrecError) as error:
                errors.append(f"{channel}: {_reason(error)}")
    if errors:
        raise AlertError(f"the alert was not sent by {'; '.join(errors)}")
    return sent


def _send_with_retries(send: Callable[[str, str], None], subject: str, text: str) -> None:
    for pause in _PAUSES:
        try:
            return send(subject, text)
        except (OSError, smtplib.SMTPException):
            time.sleep(pause)
    return send(subject, text)


def _reason(error: Exception) -> str:
    """The error's text without the address."""
    if isinstance(error, GenrecError):
        return str(error)
    if isinstance(error, urllib.error.HTTPError):
        return f"status {error.code}"
    return without_secrets(f"{type(error).__name__}: {error}")


def _send_slack(subject: str, text: str) -> None:
    """Post to an incoming webhook of Slack, Mattermost or Rocket.Chat."""
    address = os.environ[SLACK]
    parts = urlsplit(address)
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_this_machine(parts.hostname)):
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
    if user and server.scheme == "smtp" and not _is_this_machine(server.hostname):
        raise AlertError(f"{SMTP}: a password is not sent unencrypted; use smtps:// or smtp+starttls://")
    address = (server.hostname, server.port or _SCHEMES[server.scheme])
    encryption = ssl.create_default_context()
    with (
        smtplib.SMTP_SSL(*address, timeout=_TIMEOUT_SECONDS, context=encryption)
        if server.scheme == "smtps"
        else smtplib.SMTP(*address, timeout=_TIMEOUT_SECONDS)
    ) as connection:
        if server.scheme == "smtp+starttls":
            connection.starttls(context=encryption)
        if user:
            connection.login(user, password or "")
        connection.send_message(message)


def _is_this_machine(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


@dg.run_failure_sensor(
    name="alert_on_failure",
    minimum_interval_seconds=_EVERY_SECONDS,
    monitor_all_code_locations=True,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sends an alert for each failed run, even if its process was killed.",
)
def alert_on_failure(context: dg.RunFailureSensorContext) -> None:
    """Send one alert for a failed run: its failed checks and steps, with their reasons."""
    run = context.dagster_run
    steps = [event for event in context.get_step_failure_events() if not is_failed_gate(event)]
    lines = _failed_checks(context.instance, run.run_id)
    lines += [f"{event.step_key}: {failure_reason(event)}" for event in steps]
    lines = lines or [context.failure_event.message or "Dagster gives no reason"]
    send_alert(f"genrec: {run.job_name} failed", _alert_text(run, lines))


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.SUCCESS,
    name="alert_on_warning",
    minimum_interval_seconds=_EVERY_SECONDS,
    monitor_all_code_locations=True,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sends an alert for each successful run with failed checks, which are only warnings.",
)
def alert_on_warning(context: dg.RunStatusSensorContext) -> None:
    """Send one alert for a successful run with failed checks."""
    run = context.dagster_run
    if warnings := _failed_checks(context.instance, run.run_id):
        send_alert(f"genrec: {run.job_name} warns", _alert_text(run, warnings))


def _failed_checks(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    """A line for each failed check of a run."""
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    events = [record.event_log_entry.dagster_event for record in records]
    checks = [event.asset_check_evaluation_data for event in events if event]
    return [
        f"{check.asset_key.to_user_string()} {check.check_name}: {check.description}"
        for check in checks
        if not check.passed
    ]


def _alert_text(run: dg.DagsterRun, lines: list[str]) -> str:
    """The run and its partition, the run's page, and as much of ``lines`` as an alert shows."""
    partition, ui = run.tags.get("dagster/partition"), os.environ.get(UI)
    heading = f"run {run.run_id}" + (f" of {partition}" if partition else "")
    page = f"\n{ui.rstrip('/')}/runs/{run.run_id}" if ui else ""
    return f"{heading}{page}\n" + "\n".join(lines)[:_SHOWN_CHARACTERS]


def alert_definitions() -> dg.Definitions:
    """The sensors: none without a channel, and that for warnings only if ``GENREC_ALERT_WARNINGS`` is set."""
    if not any(os.environ.get(variable) for variable in (SLACK, EMAIL)):
        return dg.Definitions()
    return dg.Definitions(sensors=[alert_on_failure, *([alert_on_warning] if os.environ.get(WARNINGS) else [])])
