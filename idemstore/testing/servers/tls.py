"""Throw-away certificates for 127.0.0.1 and localhost."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_EXTENSIONS = "subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n"


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files: the authority that clients trust, and the server's certificate and key."""

    authority: Path
    certificate: Path
    key: Path


def _openssl(directory: Path, *words: str) -> None:
    """Run the openssl command line in a directory."""
    subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True, timeout=30)


def available() -> bool:
    """Whether certificates can be made here."""
    return shutil.which("openssl") is not None


def make(directory: Path) -> Certificate:
    """Make an authority and a server certificate that it signed, valid for two days."""
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    (directory / "extensions.cnf").write_text(_EXTENSIONS)
    _openssl(
        directory,
        "req",
        "-x509",
        *curve,
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
        "-days",
        "2",
        "-subj",
        "/CN=idemstore test CA",
    )
    _openssl(directory, "req", *curve, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=127.0.0.1")
    sign = ("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
    _openssl(directory, *sign, "-extfile", "extensions.cnf", "-out", "server.pem")
    return Certificate(directory / "ca.pem", directory / "server.pem", directory / "server.key")
