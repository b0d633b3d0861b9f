"""Pure: WebSocket messages of up to 65,535 bytes in one frame each (RFC 6455, section 5.2)."""

from typing import Final

BINARY: Final = 0x82
MASKED: Final = 0x80
LENGTH_16: Final = 126


def messages(data: bytes) -> tuple[list[bytes], bytes]:
    """The payloads of the whole frames in `data`, unmasked, and the rest of it."""
    found = []
    at = 0
    while len(data) - at >= 2:
        length = data[at + 1] & 0x7F
        body = at + 2
        if length == LENGTH_16:
            length = int.from_bytes(data[body : body + 2])
            body += 2
        masked = data[at + 1] & MASKED
        end = body + (4 if masked else 0) + length
        if end > len(data):
            break
        if masked:
            found.append(unmasked(data[body + 4 : end], data[body : body + 4]))
        else:
            found.append(data[body:end])
        at = end
    return found, data[at:]


def unmasked(payload: bytes, mask: bytes) -> bytes:
    """Also masks: it is its own inverse."""
    size = len(payload)
    stream = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload) ^ int.from_bytes(stream)).to_bytes(size)


def _length(size: int, flag: int) -> bytes:
    if size < LENGTH_16:
        return bytes((BINARY, flag | size))
    return bytes((BINARY, flag | LENGTH_16)) + size.to_bytes(2)


def server_message(payload: bytes) -> bytes:
    return _length(len(payload), 0) + payload


def client_message(payload: bytes, mask: bytes) -> bytes:
    return _length(len(payload), MASKED) + mask + unmasked(payload, mask)
