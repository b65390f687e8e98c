"""jupyterhub-ctl report: what is masked, and what somebody who helps can still read."""

import pytest

from debianized_jupyterhub.ctl.redaction import MASK, redact, redact_forms, redact_python

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


# -- Python ------------------------------------------------------------------------------------------------------------------------

PYTHON = {
    "triple quotes": f'c.A.password = """\n{SECRET}\n"""',
    "f-string": f'c.A.db_url = f"postgresql://hub:{{pw}}{SECRET}@db"',
    "f-string with a part": f'who = "hub"\nc.A.x = f"{{who}} {SECRET}"',
    "parentheses over lines": f'c.A.bind_pw = (\n    "first"\n    # a comment\n    "{SECRET}"\n)',
    "list": f'c.CryptKeeper.keys = [\n    "x",\n    b"{SECRET}",\n]',
    "dictionary": f'c.A.servers = {{"db1": {{"host": "a", "DB_PASS": "{SECRET}"}}}}',
    "variable": f'DB_PASS = "{SECRET}"',
    "variable of a name that says nothing": f'x = "{SECRET}"\nc.A.password = x',
    "salt": f'c.A.salt = b"{SECRET}"',
    "key of a setting": f'c.Spawner.environment["LDAP_PW"] = "{SECRET}"',
    "option": f'c.A.args = ["--verbose", "--bind-pw", "{SECRET}"]',
    "argument": f'c.A.server = connect("db1", "{SECRET}")',
    "named argument": f'connect(user_password="{SECRET}")',
    "default": f'def connect(host="{SECRET}"): pass',
    "call": f'c.A.x = b64decode("{SECRET}").decode()',
    "sum": f'c.A.x = "one" + "{SECRET}"',
    "added": f'c.A.tokens += ["{SECRET}"]',
    "annotated": f'password: str = "{SECRET}"',
    "comparison": f'ok = given == "{SECRET}"',
    "update": f'c.A.env.update({{"X": "{SECRET}"}})',
    "environment": f'os.environ["X"] = "{SECRET}"',
    "docstring": f'"""It is {SECRET}."""',
    "comment": f"c.A.x = 1  # was {SECRET}",
    "setting in a comment": f'# A list:\n# c.A.secrets = [\n#     "{SECRET}",\n# ]',
    "what is no Python": f'c.A.x = "{SECRET}"\nc = (',
    "NUL": f'c.A.x = "{SECRET}"\0',
    "Windows' lines": f'c.A.x = 1\r\nc.A.password = "{SECRET}"\r\n',
    "form feed": f'c.A.x = "\\x0c"\n\x0cc.A.password = "{SECRET}"',
    "behind letters of several bytes": f'c.A.ü = "äöü"; c.A.password = "{SECRET}"; c.A.y = "ß"',
}


@pytest.mark.parametrize("what", PYTHON)
def test_python_keeps_what_may_be_a_secret(what):
    shown = redact_forms(redact_python(PYTHON[what]))
    assert SECRET not in shown
    assert MASK in shown or "not shown" in shown


def test_number_under_a_secrets_name_is_masked():
    assert redact_python("c.A.pin = 4711\nc.A.port = 8000") == f'c.A.pin = "{MASK}"\nc.A.port = 8000'


def test_values_of_secrets_are_known_elsewhere():
    """The journal shows lines of code, and what a setting holds that is of the wrong type."""
    found = set()
    redact_python('x = "Dachs-1"\nc.A.password = x\nc.A.salts = [b"Dachs-2"]\nc.A.token = os.environ["THE_TOKEN"]\nc.A.page = "/lab"', found)
    assert found == {"Dachs-1", "Dachs-2"}


@pytest.mark.parametrize(
    "code",
    [
        "c.PAMAuthenticator.service = 'jupyterhub'",
        'c.Authenticator.admin_users = {"alice", "bob"}',
        'c.Spawner.environment = {"LANG": "C.UTF-8", "N": 4}',
        'c.SharedPasswordAuthenticator.admin_users = ["alice"]',
        'c.JupyterHub.services = [\n    {"name": "cull", "command": ["/usr/bin/cull", "--timeout=3600"]},\n]',
        "c.Spawner.default_url = '/tree'\n# c.Spawner.mem_limit = '2G'\n",
        "if True:\n    c.A.x = None\n",
        "c.A.ü = 'ä'",
    ],
)
def test_literal_settings_stay(code):
    assert redact_forms(redact_python(code)) == code


@pytest.mark.parametrize(
    "text", [f"DB_PASS={SECRET}", f"bind_pw: {SECRET}", f"salt = '{SECRET}'", f"password = connect('{SECRET}')", f"keys_token = ['a', '{SECRET}']"]
)
def test_names_in_texts(text):
    assert SECRET not in redact(text)
