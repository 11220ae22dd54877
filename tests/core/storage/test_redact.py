"""Secrets are hidden, and what helps to find a fault is left."""

import pytest

from genrec_core.storage.redact import without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GENREC_RAW=https://u:p4ss@host/a.zip: 404", "GENREC_RAW=https://***@host/a.zip: 404"),
        ("postgresql+psycopg2://genrec:pw@db:5432/x", "postgresql+psycopg2://***@db:5432/x"),
        ("https://token@host and http://a@b/c", "https://***@host and http://***@b/c"),
        ("(https://b.s3/a.zip?X-Amz-Signature=12&x=3), again", "(https://b.s3/a.zip?***), again"),
        ("https://u:p@h/a?sig=1", "https://***@h/a?***"),
        ("https://host/a.zip: is it 1@2? yes", "https://host/a.zip: is it 1@2? yes"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("/folder/user@host/file?", "/folder/user@host/file?"),
    ],
)
def test_addresses_lose_user_and_query_and_nothing_else(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_the_values_of_secret_variables_are_hidden_wherever_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7")
    monkeypatch.setenv("GENREC_ALERT_SLACK", "https://hooks.example/services/T0/B0/xyz")
    monkeypatch.setenv("GENREC_TOKEN", "a")  # too short to be told from a word
    assert without_secrets("key wJalrXUtnFEMI/K7!") == "key ***!"
    assert without_secrets("posting to https://hooks.example/services/T0/B0/xyz failed") == "posting to *** failed"
