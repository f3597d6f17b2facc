"""Ogg files that are equal byte by byte: encoders draw the number of a stream at random."""

import struct
import zlib

from nemo_speechlm.errors import InputError

_HEADER = struct.Struct("<4sBBqIIIB")
_SERIAL, _CHECKSUM = 14, 22
"""Where in a page these begin (RFC 3533)."""


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
"""Each byte with its bits in the other order."""


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
    """The CRC-32 of a page whose checksum is 0; polynomial 0x04c11db7, not reflected (RFC 3533).

    zlib's has the same polynomial, takes the bits of a byte from the other end, and inverts them before and after.
    """
    reflected = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(reflected.to_bytes(4, "little").translate(_REVERSED), "big")
