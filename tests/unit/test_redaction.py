"""jupyterhub-ctl report: what is masked, and what somebody who helps can still read."""

import pytest

from debianized_jupyterhub.ctl.report import MASK, redact

SECRET = "Kupfer-Dachs-91"

SECRETS = [
    f"password = {SECRET}",
    f"c.LDAPAuthenticator.lookup_dn_user_password = '{SECRET}'",
    f'"client_secret": "{SECRET}"',
    f"export JUPYTERHUB_API_TOKEN={SECRET}",
    f"c.JupyterHub.db_url = 'postgresql://hub:{SECRET}@db.example.org/hub'",
    f"Authorization: Bearer {SECRET}",
    f"Cookie: session={SECRET}; theme=dark",
    f"the proxy was asked with bearer {SECRET}",
    f"passphrase = '''{SECRET}\n{SECRET}'''",
    f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----",
    f"-----BEGIN PRIVATE KEY-----\n{SECRET}",  # cut off
]


@pytest.mark.parametrize("text", SECRETS)
def test_secret_is_masked(text):
    assert SECRET not in redact(text)
    assert MASK in redact(text)


@pytest.mark.parametrize("written", ["Kupfer Dachs/91", "Kupfer%20Dachs%2F91"])
def test_known_secret_is_masked_wherever_it_stands(written):
    assert "Dachs" not in redact(f"GET /hub?what={written}", {"Kupfer Dachs/91"})


def test_known_secret_that_begins_like_another_is_masked_whole():
    assert "91" not in redact("saw Dachs-91 there", {"Dachs", "Dachs-91"})


def test_long_random_word_is_masked():
    assert redact("saw 0123456789abcdef0123456789abcdef there") == f"saw {MASK} there"


@pytest.mark.parametrize(
    "text",
    [
        "%users ALL=(ALL) NOPASSWD: JUPYTER_CMD",
        "c.PAMAuthenticator.service = 'jupyterhub'",
        "token = None",
        "see https://jupyterhub.readthedocs.io/en/stable/reference/authenticators.html",
        "/usr/lib/systemd/system/jupyterhub.service",
        "password expired for alice",
    ],
)
def test_what_is_no_secret_stays(text):
    assert redact(text) == text
