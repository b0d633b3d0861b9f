"""The certificate files of the control API: whether they can be used, and for how long.

`turnout check`, the start, a reload and the server itself come through `server_context`, so
what was checked is what is used.
"""

import base64
import binascii
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from pydantic import GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from turnout.config.conflicts import CONFLICTS
from turnout.config.model import ApiTls
from turnout.config.secret_files import LENIENT, read_file

if TYPE_CHECKING:
    import ssl

FILE_BYTES_MAX: Final = 1024 * 1024
_CERTIFICATE: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL
)


class TlsError(ValueError):
    """A file that cannot be used; `key` is the setting that names it."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


@dataclass(frozen=True, slots=True)
class Tls:
    """Of an annotation: the section's files are looked at as soon as they are named."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        def check(value: Any, info: ValidationInfo) -> Any:
            if value is not None and not (info.context or {}).get(LENIENT):
                try:
                    server_context(ApiTls(value.cert, value.key, value.client_ca))
                except TlsError as error:
                    found = [(("control", "tls", error.key), str(error))]
                    raise PydanticCustomError(
                        CONFLICTS, "a file cannot be used", {CONFLICTS: found}
                    ) from None
            return value

        return core_schema.with_info_after_validator_function(check, handler(source))


def server_context(tls: ApiTls) -> "ssl.SSLContext":
    """What a server speaks TLS by, version 1.2 or newer. Raises TlsError."""
    if not _CERTIFICATE.search(_content("cert", tls.cert)):
        raise TlsError("cert", "it holds no certificate in PEM; expected -----BEGIN CERTIFICATE")
    key = _content("key", tls.key)
    if b"PRIVATE KEY-----" not in key:
        raise TlsError("key", "it holds no private key in PEM; expected -----BEGIN PRIVATE KEY")
    if b"ENCRYPTED" in key:
        raise TlsError("key", "it has a passphrase, which nobody could type. Write it without one")
    import ssl  # here, as the compiler reads settings at each start, and few have TLS

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(tls.cert, tls.key, password=lambda: b"")
    except ssl.SSLError as error:
        if "MISMATCH" in (error.reason or ""):
            text = f"it is not the key of the certificate in {tls.cert}. Write the one it was made with"
            raise TlsError("key", text) from None
        text = f"the pair cannot be used: {error.reason or error}. Look at both with openssl"
        raise TlsError("cert", text) from None
    except OSError as error:
        raise TlsError("cert", f"it cannot be read: {error.strerror}") from None
    if tls.client_ca is not None:
        if not _CERTIFICATE.search(_content("client_ca", tls.client_ca)):
            raise TlsError("client_ca", "it holds no certificate in PEM")
        try:
            context.load_verify_locations(tls.client_ca)
        except (ssl.SSLError, OSError) as error:
            why = getattr(error, "reason", None) or error
            raise TlsError("client_ca", f"it cannot be used: {why}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _content(key: str, path: str) -> bytes:
    try:
        content = read_file(path, FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise TlsError(key, "there is no such file") from None
    except OSError as error:
        text = f"it cannot be read by user {os.geteuid()}: {error.strerror}"
        raise TlsError(key, text) from None
    if content is None:
        raise TlsError(key, "it is no regular file")
    if len(content) > FILE_BYTES_MAX:
        raise TlsError(key, f"it has more than {FILE_BYTES_MAX} bytes")
    return content


def first_certificate(pem: bytes) -> bytes | None:
    """The first certificate of a PEM text, in DER; None: there is none."""
    found = _CERTIFICATE.search(pem)
    try:
        return None if found is None else base64.b64decode(found[1])
    except binascii.Error:
        return None


def not_after(der: bytes) -> float | None:
    """Until when a certificate is valid, in seconds since 1970; None: it cannot be told.

    Source: RFC 5280, section 4.1: Certificate { tbsCertificate { [0] version, serialNumber,
    signature, issuer, validity { notBefore, notAfter }, … } }.
    """
    try:
        tbs = _value(_value(der, 0)[1], 0)[1]
        tag, _, at = _value(tbs, 0)
        if tag == 0xA0:  # the version, which may be left out
            at = _value(tbs, at)[2]
        for _ in range(2):  # the signature's algorithm, and the issuer
            at = _value(tbs, at)[2]
        validity = _value(tbs, at)[1]
        tag, text, _ = _value(validity, _value(validity, 0)[2])
        digits = text.decode("ascii")
        if tag == 0x17:  # UTCTime: two digits of the year, from 1950 on
            digits = ("19" if digits >= "50" else "20") + digits
        return datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except (IndexError, ValueError, OverflowError):
        return None


def _value(data: bytes, at: int) -> tuple[int, bytes, int]:
    """Tag, content and end of the DER value at `at`. Raises IndexError."""
    length, start = data[at + 1], at + 2
    if length & 0x80:
        octets = length & 0x7F
        length = int.from_bytes(data[start : start + octets], "big")
        start += octets
    if start + length > len(data):
        raise IndexError("a value is longer than what it stands in")
    return data[at], data[start : start + length], start + length
