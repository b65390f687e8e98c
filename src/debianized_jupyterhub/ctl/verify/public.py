"""Checks: the address that browsers know, where JUPYTERHUB_PUBLIC_URL says it: its name, who answers there, with which certificate."""

from __future__ import annotations

import datetime
import http.client
import re
import socket
import ssl
import urllib.parse
from typing import TYPE_CHECKING

from ...lines import joined
from ...paths import DEFAULTS
from ..command import properties
from ..common import default_setting
from .check import Failed, Findings, Warned, check, once
from .services import public_address, setting

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

NAME = "JUPYTERHUB_PUBLIC_URL"
FORM = re.compile(r"https?://(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]+)(:\d+)?(/[^\s?#]*)?")
WEB_SERVERS = ("nginx", "apache2", "haproxy", "caddy", "lighttpd", "traefik")
EXAMPLES = "/usr/share/doc/jupyterhub/off-loader.md has tested examples"
TIMEOUT = 4  # seconds
SOON = 21  # days before a certificate's end


@once
def public_url() -> str:
    """Return the URL (str) that browsers know, "" where it is not set."""
    own = "" if setting("subdomain_host") else setting("public_url")
    return default_setting(NAME).strip() or own


def place() -> tuple[str, str, int, str]:
    """Return scheme, host, port and path (without the last slash) of the public URL."""
    url = urllib.parse.urlsplit(public_url())
    return url.scheme, url.hostname or "", url.port or {"http": 80, "https": 443}[url.scheme], url.path.rstrip("/")


def _port() -> int:
    """Return the number that stands for a port in the public URL; 0 where there is none."""
    return int(found[1]) if (found := re.match(r"https?://[^/]*:(\d+)(/|$)", public_url())) else 0


def origin() -> str:
    """Return the public URL without its path."""
    scheme, host, port, _ = place()
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}" + ("" if port == {"http": 80, "https": 443}[scheme] else f":{port}")


def _stopped() -> tuple[str, str] | None:
    """Return (unit, state) of a web server that is installed and does not run, one that should first; None if there is none, or one runs."""
    found = []
    for name in WEB_SERVERS:
        state = properties(f"{name}.service", "LoadState", "ActiveState", "UnitFileState")
        if state.get("ActiveState") == "active":
            return None
        if state.get("LoadState") in ("loaded", "masked"):
            shown = state["ActiveState"] if state["LoadState"] == "loaded" else "masked"
            found.append((state["UnitFileState"] not in ("enabled", "masked"), shown != "failed", f"{name}.service", shown))
    return min(found)[2:] if found else None


@check("public-address", needs=["configuration"])
def public_address_of_browsers() -> Findings:
    """The name is known, and a web server listens there."""
    if not public_url():
        yield f"{NAME} is not set"
        return
    if not FORM.fullmatch(public_url()) or _port() > 65535:
        raise Failed(
            f"{NAME}={public_url()} in {DEFAULTS} is not a URL", "it cannot be looked at", "write https://HOST.NAME/, with the path of JUPYTERHUB_BIND_URL"
        )
    _, host, port, path = place()
    if path != public_address()[2]:
        what = f"{NAME} has the path {path or '/'}, JUPYTERHUB_BIND_URL has {public_address()[2] or '/'}"
        raise Failed(what, "browsers do not find the hub's pages", f"let both in {DEFAULTS} have the same path; then systemctl restart jupyterhub-proxy")
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        mend = f"put it into DNS (resolvectl query {host}), or correct {NAME} in {DEFAULTS}"
        raise Failed(f"the name {host} of {NAME} is not known here ({error.strerror})", "browsers do not find the site", mend) from None
    try:
        socket.create_connection((host, port), timeout=TIMEOUT).close()
    except OSError as error:
        raise _nobody(host, port, error) from None
    yield f"{host}:{port}"


def _nobody(host: str, port: int, error: OSError) -> Failed | Warned:
    """Return what is the case where nobody answers at an address."""
    why = error.strerror or str(error)
    if stopped := _stopped():
        unit, state = stopped
        mend = f"systemctl start {unit}; if it does not start: journalctl -u {unit} -n 30"
        return Failed(f"{unit} does not run ({state}): nobody answers at {host}:{port}", "browsers see nothing", mend)
    try:
        socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT).close()
    except OSError:
        mend = f"start the web server there, or correct {NAME} in {DEFAULTS}; a firewall?"
        return Failed(f"nobody answers at {host}:{port} ({why})", "browsers see nothing", mend)
    what = f"{host}:{port} cannot be reached from here ({why}); a web server of this machine listens at port {port}"
    return Warned(what, "perhaps browsers reach it, it cannot be tried here", f"look from outside, or have {host} in /etc/hosts lead to this machine")


# -- Certificate -------------------------------------------------------------------------------------------------------------------


def _names(cert: Certificate) -> str:
    """Return the host names and addresses that a certificate is for."""
    from cryptography import x509

    try:
        names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return "no host name"
    return ", ".join(str(name.value) for name in names)


def _handshake(host: str, port: int, context: ssl.SSLContext) -> ssl.SSLCertVerificationError | None:
    """Return what TLS says against the certificate of host and port, None for nothing. Raises OSError."""
    try:
        with socket.create_connection((host, port), timeout=TIMEOUT) as connection, context.wrap_socket(connection, server_hostname=host):
            return None
    except ssl.SSLCertVerificationError as error:
        return error


def _shown(host: str, port: int) -> tuple[Certificate, str]:
    """Return the certificate that a web server shows, and its PEM. Raises Warned."""
    from cryptography import x509

    try:
        pem = ssl.get_server_certificate((host, port), timeout=TIMEOUT)
    except OSError as error:
        what = f"port {port} of {host} does not speak TLS ({joined(error)})"
        raise Warned(what, "browsers cannot use https", "look at the log of the web server") from None
    return x509.load_pem_x509_certificate(pem.encode()), pem


def _require_time(cert: Certificate, where: str) -> None:
    """Raise Failed for a certificate that is not valid now, Warned for one that ends soon."""
    now, mend = datetime.datetime.now(datetime.UTC), "renew it (certbot renew, for example) and reload the web server"
    until = cert.not_valid_after_utc
    if until < now:
        raise Failed(f"the certificate at {where} ended on {until:%Y-%m-%d}", "browsers refuse the site", mend)
    if cert.not_valid_before_utc > now:
        raise Failed(f"the certificate at {where} begins on {cert.not_valid_before_utc:%Y-%m-%d}", "browsers refuse the site", "date; or another certificate")
    if (until - now).days < SOON:
        raise Warned(f"the certificate at {where} ends on {until:%Y-%m-%d}", "browsers will refuse the site", mend)


@check("certificate", needs=["public-address"])
def certificate() -> Findings:
    """That of the public URL: its time, its name, whether this machine trusts it. Without such a URL, the time of what is shown at this machine's port 443."""
    scheme, host, port = place()[:3] if public_url() else ("https", "127.0.0.1", 443)
    if not public_url():
        try:
            socket.create_connection((host, port), timeout=2).close()
        except OSError:
            scheme = "http"
    if scheme == "http":
        yield "no TLS here"
        return
    cert, pem = _shown(host, port)
    where = f"{host}:{port}" if public_url() else f"port {port}"
    _require_time(cert, where)
    if public_url():
        own = ssl.create_default_context(cadata=pem)  # as if it were trusted: what is left to complain of is the name
        own.verify_flags = ssl.VERIFY_X509_PARTIAL_CHAIN
        if error := _handshake(host, port, own):
            what = f"the certificate at {where} is for {_names(cert)}: {error.verify_message.strip(' .')}"
            raise Failed(what, "browsers refuse the site", f"get one for {host}, or correct {NAME} in {DEFAULTS}")
        trusting = ssl.create_default_context()
        trusting.verify_flags &= ~ssl.VERIFY_X509_STRICT  # which browsers are not
        if error := _handshake(host, port, trusting):
            mend = "get one that browsers trust, or hand its authority to all browsers and /usr/local/share/ca-certificates; are intermediate ones missing?"
            raise Warned(f"this machine does not trust the certificate at {where} ({error.verify_message})", "browsers may not trust it either", mend)
    yield f"valid until {cert.not_valid_after_utc:%Y-%m-%d}"


# -- Answer ------------------------------------------------------------------------------------------------------------------------


def _get(path: str) -> http.client.HTTPResponse:
    """Return the answer of the public URL's host to a GET request. The certificate has a check of its own."""
    scheme, host, port, _ = place()
    if scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    connection.request("GET", path)
    return connection.getresponse()


def _not_the_hub(url: str, answer: http.client.HTTPResponse) -> Failed:
    """Return what is the case where the answer at the login page's URL is not the hub's."""
    host = place()[1]
    rule = "the web server's rule for {} has to pass all on to http://{}:{}: {}".format(host, *public_address()[:2], EXAMPLES)
    if answer.status in (502, 503, 504):
        what = f"the web server at {host} does not reach the hub: it answers {answer.status}"
        return Failed(what, "browsers see its error page", f"{rule}; see its error log")
    if 300 <= answer.status < 400:
        what = f"{url} leads to {answer.headers['Location']}"
        return Failed(what, "browsers do not get the login page there", f"set {NAME} to where it leads, or correct the web server's rule")
    return Failed(f"at {url} answers something else than the hub (status {answer.status})", "browsers get the wrong pages", rule)


@check("public-url", needs=["public-address", "certificate", "login-page"])
def public_page() -> Findings:
    """The hub's login page, as browsers get it."""
    if not public_url():
        yield f"{NAME} is not set"
        return
    scheme, host, port, base = place()
    url = f"{origin()}{base}/hub/login"
    try:
        answer = _get(f"{base}/hub/login")
    except (OSError, http.client.HTTPException) as error:
        raise Failed(f"{url} does not answer ({error})", "browsers see nothing", "look at the log of the web server") from None
    if "X-JupyterHub-Version" not in answer.headers:
        raise _not_the_hub(url, answer)
    cookies = answer.headers.get_all("Set-Cookie", [])
    if scheme == "https" and cookies and not any(re.search(r";\s*secure\b", cookie, re.IGNORECASE) for cookie in cookies):
        why = "cookies are not kept to https"
        raise Warned(f"the web server at {host}:{port} does not tell the hub that browsers use https", why, f"it has to send X-Forwarded-Proto: {EXAMPLES}")
    yield url
