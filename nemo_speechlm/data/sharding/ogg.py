"""Ogg files that are equal byte by byte: encoders draw the number of a stream at random."""

import struct

from nemo_speechlm.errors import InputError

_HEADER = struct.Struct("<4sBBqIIIB")
_SERIAL, _CHECKSUM = 14, 22
"""Where in a page these begin (RFC 3533)."""


def _table() -> list[int]:
    found = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1) ^ (0x04C11DB7 if value & 0x80000000 else 0)
        found.append(value & 0xFFFFFFFF)
    return found


_TABLE = _table()


def with_serial(content: bytes, serial: int = 1) -> bytes:
    """An Ogg file with another stream number in each page, checksums corrected.

    Raises:
        InputError: if the content is not Ogg.
    """
    data, position = bytearray(content), 0
    while position < len(data):
        end = _page_end(data, position)
        struct.pack_into("<I", data, position + _SERIAL, serial)
        struct.pack_into("<I", data, position + _CHECKSUM, 0)
        struct.pack_into("<I", data, position + _CHECKSUM, checksum(data[position:end]))
        position = end
    return bytes(data)


def _page_end(data: bytearray, position: int) -> int:
    """Where the page that begins at ``position`` ends."""
    if data[position : position + 4] != b"OggS" or position + _HEADER.size > len(data):
        raise InputError("is not an Ogg file")
    segments = data[position + _HEADER.size - 1]
    body = position + _HEADER.size + segments
    return body + sum(data[position + _HEADER.size : body])


def checksum(page: bytes | bytearray) -> int:
    """The CRC-32 of a page whose checksum is 0; polynomial 0x04c11db7, not reflected (RFC 3533)."""
    value = 0
    for byte in page:
        value = ((value << 8) & 0xFFFFFFFF) ^ _TABLE[(value >> 24) ^ byte]
    return value
