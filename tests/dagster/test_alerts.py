"""A failed run is told by Slack and e-mail, to servers on this machine, without the secrets it failed with."""

import base64
import datetime
import json
import socketserver
import ssl
import threading
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from genrec_dagster import alerts
from genrec_dagster.alerts import AlertError, alert_definitions, alert_on_failure, alert_on_warning, send_alert
from genrec_dagster.definitions import defs


class Webhook:
    """An incoming webhook; it answers the next posts with ``statuses``, then with 200."""

    def __init__(self) -> None:
        self.posted: list[dict[str, Any]] = []
        self.statuses: list[int] = []
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments: object) -> None:
                pass

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status = webhook.statuses.pop(0) if webhook.statuses else 200
                if status == 200:
                    webhook.posted.append(body)
                self.send_response(status)
                self.end_headers()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/services/T000/B000/verysecret"


class MailServer(socketserver.ThreadingTCPServer):
    """As much of SMTP as a client needs: AUTH PLAIN, STARTTLS or TLS from the start, and messages."""

    daemon_threads = True

    def __init__(self, encryption: ssl.SSLContext | None = None, at_once: bool = False) -> None:
        self.messages: list[EmailMessage] = []
        self.users: list[str] = []
        self.encryption, self.at_once = encryption, at_once
        super().__init__(("127.0.0.1", 0), MailHandler)


class MailHandler(socketserver.StreamRequestHandler):
    server: MailServer

    def setup(self) -> None:
        if self.server.at_once:
            self.encrypt()
        super().setup()

    def encrypt(self) -> None:
        assert self.server.encryption is not None
        self.request = self.server.encryption.wrap_socket(self.request, server_side=True)

    def say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())

    def handle(self) -> None:
        self.say("220 ready")
        while line := self.rfile.readline().decode().strip():
            command, _, rest = line.partition(" ")
            if command.upper() == "EHLO":
                self.say("250-here")
                self.say("250-AUTH PLAIN")
                self.say("250 STARTTLS" if self.server.encryption else "250 8BITMIME")
            elif command.upper() == "STARTTLS":
                self.say("220 go on")
                self.encrypt()
                super().setup()
            elif command.upper() == "AUTH":
                self.server.users.append(base64.b64decode(rest.split()[-1]).decode())
                self.say("235 welcome")
            elif command.upper() == "DATA":
                self.say("354 go on")
                self.take()
            elif command.upper() == "QUIT":
                return self.say("221 bye")
            else:
                self.say("250 fine")
        return None

    def take(self) -> None:
        lines = []
        while (line := self.rfile.readline()) != b".\r\n":
            lines.append(line)
        self.server.messages.append(message_from_bytes(b"".join(lines), policy=policy.default))
        self.say("250 taken")


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "_PAUSES", (0.0, 0.0))


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    running = Webhook()
    threading.Thread(target=running.server.serve_forever, daemon=True).start()
    monkeypatch.setenv("GENREC_ALERT_SLACK", running.address)
    yield running
    running.server.shutdown()
    running.server.server_close()


@pytest.fixture
def mail(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MailServer]:
    scheme = getattr(request, "param", "smtp")
    encryption = None if scheme == "smtp" else server_encryption(tmp_path, monkeypatch)
    running = MailServer(encryption, at_once=scheme == "smtps")
    threading.Thread(target=running.serve_forever, daemon=True).start()
    monkeypatch.setenv("GENREC_ALERT_EMAIL", "ops@example.com, boss@example.com")
    monkeypatch.setenv("GENREC_ALERT_SMTP", f"{scheme}://localhost:{running.server_address[1]}")
    monkeypatch.setenv("GENREC_ALERT_SMTP_USER", "genrec")
    monkeypatch.setenv("GENREC_ALERT_SMTP_PASSWORD", "pass-word")
    yield running
    running.shutdown()
    running.server_close()


def server_encryption(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """TLS of a server named localhost, whose certificate Python is told to trust."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name.from_rfc4514_string("CN=localhost")
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(private)
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(pem))
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "certificate.pem"))
    encryption = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    encryption.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return encryption


@dg.asset
def broken() -> None:
    raise ValueError("https://joe:hunter22@shop.example/a.zip?sig=abc: 404")


@dg.asset(check_specs=[dg.AssetCheckSpec("odd", asset="warned")])
def warned():
    result = dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN, description="measured 1, wanted 2")
    return dg.MaterializeResult(check_results=[result])


class Watch:
    """An instance, and a sensor that began to look at it before anything happened."""

    def __init__(self, instance: dg.DagsterInstance, sensor: dg.SensorDefinition) -> None:
        self.instance, self.sensor = instance, sensor
        self.cursor: str | None = None
        self.tick()

    def tick(self) -> Any:
        context = dg.build_sensor_context(self.instance, self.cursor, repository_def=defs.get_repository_def())
        result = self.sensor.evaluate_tick(context)
        self.cursor = result.cursor
        return result

    def run(self, asset: dg.AssetsDefinition) -> dg.ExecuteInProcessResult:
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        return dg.materialize([asset], instance=self.instance, raise_on_error=False, run_config=quiet)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def test_a_failed_run_is_told_once_by_both_and_without_secrets(
    webhook: Webhook, mail: MailServer, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENREC_UI_URL", "http://127.0.0.1:3000/")
    watch = Watch(instance, alert_on_failure)
    run = watch.run(broken)
    reactions = watch.tick().dagster_run_reactions
    assert [reaction.error for reaction in reactions] == [None]
    watch.tick()
    (posted,), (sent,) = webhook.posted, mail.messages
    for text in (posted["text"], sent.get_content().replace("\r\n", "\n")):
        assert f"run {run.run_id}\nhttp://127.0.0.1:3000/runs/{run.run_id}\nbroken: " in text
        assert "https://***@shop.example/a.zip?***: 404" in text
        assert "hunter22" not in text
    assert "failed*" in posted["text"]
    assert sent["Subject"].startswith("genrec: ")
    assert sent["To"] == "ops@example.com, boss@example.com"
    assert mail.users == ["\0genrec\0pass-word"]


def test_a_run_that_was_killed_is_told_too(webhook: Webhook, instance: dg.DagsterInstance) -> None:
    watch = Watch(instance, alert_on_failure)
    run = instance.create_run_for_job(dg.define_asset_job("lost", "*").resolve(_graph_of(broken)))
    instance.report_run_failed(run, "the process of this run, here:1:2, is gone: it was killed")
    watch.tick()
    assert "is gone: it was killed" in webhook.posted[0]["text"]


def _graph_of(asset: dg.AssetsDefinition) -> Any:
    return dg.Definitions(assets=[asset]).resolve_asset_graph()


def test_a_server_that_refuses_at_first_is_asked_again(webhook: Webhook) -> None:
    webhook.statuses = [500, 429]
    assert send_alert("a", "b") == ["Slack"]
    assert webhook.posted == [{"text": "*a*\n```b```"}]


def test_one_channel_that_refuses_keeps_no_other_from_being_used(
    webhook: Webhook, mail: MailServer, instance: dg.DagsterInstance
) -> None:
    webhook.statuses = [404] * 3
    watch = Watch(instance, alert_on_failure)
    watch.run(broken)
    (reaction,) = watch.tick().dagster_run_reactions
    assert len(mail.messages) == 1
    told = str(reaction.error)
    assert "the alert was not sent by Slack: status 404" in told
    assert "verysecret" not in told


@pytest.mark.parametrize("mail", ["smtps", "smtp+starttls"], indirect=True)
def test_mail_goes_encrypted_where_the_address_says_so(mail: MailServer) -> None:
    assert send_alert("two\nlines", "text") == ["e-mail"]
    assert mail.messages[0]["Subject"] == "two lines"
    assert mail.users == ["\0genrec\0pass-word"]


@pytest.mark.parametrize("mail", ["smtps"], indirect=True)
def test_a_certificate_that_nobody_vouches_for_is_refused(mail: MailServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(AlertError, match="e-mail: SSLCertVerificationError"):
        send_alert("a", "b")
    assert not mail.messages


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"GENREC_ALERT_SLACK": "http://hooks.example/secret"}, "GENREC_ALERT_SLACK must be an https:// address"),
        ({"GENREC_ALERT_EMAIL": "a@b.c", "GENREC_ALERT_SMTP": "mail.example:25"}, "GENREC_ALERT_SMTP must be smtp://"),
        ({"GENREC_ALERT_EMAIL": "a@b.c", "GENREC_ALERT_SMTP": "smtps://me:pw@host"}, "GENREC_ALERT_SMTP must be smtp"),
        (
            {"GENREC_ALERT_EMAIL": "a@b.c", "GENREC_ALERT_SMTP": "smtp://mail.example", "GENREC_ALERT_SMTP_USER": "me"},
            "a password is not sent unencrypted",
        ),
    ],
)
def test_an_address_that_would_give_secrets_away_is_refused(
    variables: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(AlertError, match=reason) as caught:
        send_alert("a", "b")
    assert "secret" not in str(caught.value)
    assert "pw" not in str(caught.value)


def test_warnings_of_a_run_that_ended_well_are_told_where_they_are_wanted(
    webhook: Webhook, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [sensor.name for sensor in alert_definitions().sensors or []] == ["alert_on_failure"]
    monkeypatch.setenv("GENREC_ALERT_WARNINGS", "1")
    assert [sensor.name for sensor in alert_definitions().sensors or []] == ["alert_on_failure", "alert_on_warning"]
    watch = Watch(instance, alert_on_warning)
    watch.run(warned)
    watch.tick()
    assert "warned odd: measured 1, wanted 2" in webhook.posted[0]["text"]


def test_without_a_channel_there_is_no_sensor() -> None:
    assert not alert_definitions().sensors
