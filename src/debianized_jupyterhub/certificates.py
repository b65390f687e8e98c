"""By what hub, proxy and the servers of Slurm jobs know one another, where these are on other machines: docs/slurm.md, "Other machines".

There are two authorities, both the hub's own. One vouches for the hub and the proxy: servers believe that alone. The other vouches for servers, for each
under a name that no other ever has: hub and proxy believe that, and ask for the name. So no server passes for the hub, nor for another server.

The authorities are kept (JOBS_CA). All else is made anew at each start of the hub, and every day; the proxy reads its own at each connection.
"""

import contextlib
import ipaddress
import json
import os
import re
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from . import files
from .paths import JOBS_CA, SERVERS

DOMAIN = "jupyterhub-job"  # of servers' names; no DNS knows it
FOR_PROXY = f"{SERVERS}/proxy.json"  # debian/patches/npm/configurable-http-proxy-servers-on-nodes.patch reads it
AUTHORITY, SERVER, OWN = timedelta(days=365 * 30), timedelta(days=365 * 5), timedelta(days=90)  # how long they last; a server's job may have no limit
SKEW = timedelta(days=1)  # that clocks may differ
CLIENT, LISTENER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


def name_of(tag: str, address: str) -> str:
    """Return the name under which hub and proxy know the server of a job, by its tag (hexadecimal); it tells the proxy the IP `address`."""
    return f"{tag}.{re.sub('[.:]', '-', address)}.{DOMAIN}"


@dataclass
class Authority:
    """A key, and the certificate that it has made for itself."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def new(cls, name: str) -> "Authority":
        key = ec.generate_private_key(ec.SECP256R1())
        usage = x509.KeyUsage(*(part in ("key_cert_sign", "crl_sign") for part in USAGES))
        made = _builder(name, name, key, AUTHORITY).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        return cls(key, made.add_extension(usage, critical=True).sign(key, hashes.SHA256()))

    @property
    def pem(self) -> str:
        return _pem(self.certificate)

    def issue(self, name: str, lasts: timedelta, *usages: x509.ObjectIdentifier) -> tuple[str, str]:
        """Return a new key and its certificate (PEM) for a host `name`, which may be an IP address."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternative: x509.GeneralName = x509.DNSName(name)
        with contextlib.suppress(ValueError):
            alternative = x509.IPAddress(ipaddress.ip_address(name))
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        made = _builder(name[:64], self.name, key, lasts).add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        made = made.add_extension(x509.SubjectAlternativeName([alternative]), critical=False).add_extension(issuer, critical=False)
        made = made.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        return _key_pem(key), _pem(made.sign(self.key, hashes.SHA256()))

    @property
    def name(self) -> str:
        return str(self.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def _builder(name: str, issuer: str, key: ec.EllipticCurvePrivateKey, lasts: timedelta) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    subject, by = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, issuer))
    made = x509.CertificateBuilder(by, subject, key.public_key(), x509.random_serial_number(), now - SKEW, now + lasts)
    return made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()


def authorities(path: str = JOBS_CA) -> tuple[Authority, Authority]:
    """Return the authorities for hub and proxy, and for servers, from a file; they are made where it is not there. Raises SystemExit with one line."""
    how = "put it back from a backup; or end the jobs, remove it, and `systemctl restart jupyterhub`: the hub makes new ones, which only new jobs know"
    try:
        text = Path(path).read_text()
    except FileNotFoundError:
        made = Authority.new("JupyterHub: hub and proxy"), Authority.new("JupyterHub: servers of jobs")
        files.put(Path(path), "".join(_key_pem(authority.key) + authority.pem for authority in made), 0o600)
        return made
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"{path}: {error}: {how}") from None
    try:
        parts = re.findall(r"-----BEGIN PRIVATE KEY-.*?-END PRIVATE KEY-----", text, re.DOTALL)
        keys = [serialization.load_pem_private_key(part.encode(), None) for part in parts]
        hub, servers = (Authority(key, found) for key, found in zip(keys, x509.load_pem_x509_certificates(text.encode()), strict=True))
    except ValueError:
        raise SystemExit(f"{path}: it does not hold two keys with their certificates: {how}") from None
    if min(authority.certificate.not_valid_after_utc for authority in (hub, servers)) < datetime.now(UTC) + OWN:
        raise SystemExit(f"{path}: its certificates end on {hub.certificate.not_valid_after_utc:%Y-%m-%d}: {how}")
    return hub, servers


class Certificates:
    """Those of this hub, which servers reach at `host` and `port`."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.are_new = not os.path.exists(JOBS_CA)  # what runs knows others
        self._ours, self._servers = authorities()
        self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=self._servers.pem)
        self.client = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cadata=self._servers.pem)
        self.server.verify_mode = ssl.CERT_REQUIRED
        self.renew()

    @property
    def netloc(self) -> str:
        """Where servers reach the hub, as in URLs."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def renew(self) -> None:
        """Make those of hub and proxy anew; connections that there are go on with the old ones."""
        key, certificate = self._ours.issue("jupyterhub-proxy", OWN, CLIENT)
        made = json.dumps({"key": key, "cert": certificate, "ca": self._servers.pem})
        files.put(Path(FOR_PROXY), made, 0o640)  # the folder gives it to the proxy's group
        for context, name, usage in ((self.server, self.host, LISTENER), (self.client, "jupyterhub", CLIENT)):
            with tempfile.NamedTemporaryFile("w") as file:  # Python takes them from files alone
                file.write("".join(self._ours.issue(name, OWN, usage)))
                file.flush()
                context.load_cert_chain(file.name)

    async def renewed(self) -> None:
        """Do that as one of the hub's periodic callbacks."""
        self.renew()

    def for_server(self, name: str) -> dict[str, str]:
        """Return what the server of a job gets: its key and certificate, and by what it knows the hub (PEM)."""
        key, certificate = self._servers.issue(name, SERVER, LISTENER, CLIENT)
        return {"key": key, "cert": certificate, "ca": self._ours.pem}
