"""database_url.py: URLs of databases, which SQLAlchemy, libpq and what hides passwords must understand alike; and the file that has the hub's."""

import pytest

from debianized_jupyterhub import database_url
from debianized_jupyterhub.ctl import common
from debianized_jupyterhub.ctl.database import _target
from debianized_jupyterhub.database import DatabaseError
from debianized_jupyterhub.database_url import called, place


@pytest.mark.parametrize(
    "text, url",
    [
        ("postgresql:///hub?host=/run/postgresql", "postgresql+psycopg:///hub?host=/run/postgresql"),
        ("postgres://hub@db.example.org:5433/hub", "postgresql+psycopg://hub@db.example.org:5433/hub"),
        ("postgresql+psycopg2://hub:a%40b@[::1]/hub?sslmode=verify-full", "postgresql+psycopg2://hub:a%40b@[::1]/hub?sslmode=verify-full"),
        ("sqlite:////srv/hub.sqlite", "sqlite:////srv/hub.sqlite"),
        ("sqlite:////srv/../var/./x//hub.sqlite", "sqlite:////var/x/hub.sqlite"),
        ("sqlite+pysqlite:///hub.sqlite", "sqlite:////var/opt/jupyterhub/hub.sqlite"),
    ],
)
def test_one_form_for_each(text, url):
    assert place(text) == place(url) == url


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "not the URL of a database: write postgresql://"),
        ("/var/opt/jupyterhub/x.sqlite", "not the URL of a database"),
        ("postgresql://db.example.org", "not the URL of a database"),
        ("postgresql://hub:a@b@db/hub", "special characters of a password as %40"),
        ("postgresql://hub:a/b@db/hub", "special characters"),
        ("postgresql://hub:a#b@db/hub", "special characters"),
        ("postgresql://hub:a b@db/hub", "special characters"),
        ("postgresql:///hub\nx", "not the URL of a database"),
        ("postgresql:///hub?password=geheim", "password= in the URL's query"),
        ("postgresql:///hub?host=/x&ssl%70assword=geheim", "sslpassword= in the URL's query"),
        ("mysql://db/hub", "of the kind mysql cannot be moved: write postgresql://"),
        ("sqlite://", "not the URL of a database"),
        ("sqlite:///", "not the URL of a database"),
        ("sqlite:////", "not the URL of a database"),
        ("sqlite:////srv/folder/", "not the URL of a database"),
        ("sqlite:///:memory:", "not the URL of a database"),
        ("sqlite:///file:x?uri=true", "not the URL of a database"),
        ("sqlite:////srv/a%2fb", "not the URL of a database"),
    ],
)
def test_what_is_no_place(text, words):
    with pytest.raises(DatabaseError) as error:
        place(text)
    said = str(error.value)
    assert words in said and "geheim" not in said and said.isprintable()


@pytest.mark.parametrize(
    "url, name",
    [
        ("postgresql://hub:a%40b@db/hub?host=x", "postgresql://hub:***@db/hub?host=x"),
        ("postgresql://:a@db/hub", "postgresql://:***@db/hub"),
        ("postgresql://hub@db/hub", "postgresql://hub@db/hub"),
        ("postgresql:///hub?host=/run/postgresql", "postgresql:///hub?host=/run/postgresql"),
        ("sqlite:////srv/a:b@c.sqlite", "/srv/a:b@c.sqlite"),
    ],
)
def test_passwords_are_hidden(url, name):
    assert called(url) == name
    assert database_url.has_password(url) == ("***" in name)


def test_password_on_the_command_line_is_refused():
    with pytest.raises(common.Failure, match=r"can read a password on the command line: `jupyterhub-ctl database move - <FILE` ") as error:
        _target("postgresql://hub:geheim@db/hub")
    assert "geheim" not in error.value.message


def test_password_on_standard_input_is_not(monkeypatch, tmp_path):
    (tmp_path / "url").write_text("postgresql://hub:geheim@db/hub\nmore\n")
    with open(tmp_path / "url") as stream:
        monkeypatch.setattr("sys.stdin", stream)
        assert _target("-") == "postgresql+psycopg://hub:geheim@db/hub"


def test_file_says_where_it_is(tmp_path):
    assert database_url.own(tmp_path) == "sqlite:////var/opt/jupyterhub/jupyterhub.sqlite"
    (tmp_path / "database.url").write_text(" postgresql+psycopg:///hub\n")
    assert database_url.own(tmp_path) == "postgresql+psycopg:///hub"


@pytest.mark.parametrize("content", [b"", b"hub\n", b"# a comment\npostgresql:///hub\n", b"postgresql:///hub\nsqlite:///x\n", b"\xff\xfe://x"])
def test_file_with_something_else_is_named(tmp_path, content):
    (tmp_path / "database.url").write_bytes(content)
    with pytest.raises(SystemExit) as end:
        database_url.own(tmp_path)
    assert end.value.code.startswith(f"{tmp_path}/database.url: the URL of a database is one line") and end.value.code.isprintable()
