"""Corrects wrong lengths in the headers of audio files.

libsndfile trusts a header. `mended` replaces a header with a wrong length, so that libsndfile reads all the audio and can seek in it:

- WAV, RF64, AU, AIFF, CAF: the data chunk claims to end before the file, and no other chunk follows (programs that write to a pipe leave
  a size of 0)
- FLAC: the number of samples (0: unknown) differs from the end of the last frame
- MP3: several bit rates without a Xing header, or a Xing header that does not fit the file (as in concatenated files); the frames are
  counted

Only the first and last bytes of a file are read, except for an MP3 without a valid header, which is read completely.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO, cast

TAIL = 2**16  # bytes at the end of a FLAC in which to look for its last frame; 16 times as many at the second try
LARGEST = 2**30  # bytes; larger files are not read to the end


class Stitched(io.RawIOBase):
    """A read-only stream of pieces: bytes, or (begin, end) of a stretch of `source`."""

    def __init__(self, source: BinaryIO, pieces: list[bytes | tuple[int, int]]) -> None:
        self._source, self._at, self._pieces = source, 0, pieces
        self.size = sum(len(piece) if isinstance(piece, bytes) else piece[1] - piece[0] for piece in pieces)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        view, place = memoryview(buffer).cast("B"), 0
        filled = 0
        for piece in self._pieces:
            length = len(piece) if isinstance(piece, bytes) else piece[1] - piece[0]
            within = self._at - place
            place += length
            if within >= length or filled == len(view):
                continue
            count = min(length - within, len(view) - filled)
            data = piece[within : within + count] if isinstance(piece, bytes) else read_at(self._source, piece[0] + within, count)
            view[filled : filled + len(data)] = data
            filled += len(data)
            self._at += len(data)
            if len(data) < count:
                break
        return filled


def read_at(stream: BinaryIO, offset: int, count: int) -> bytes:
    """Up to `count` bytes from `offset`; empty for an impossible offset."""
    if not 0 <= offset < 2**62:
        return b""
    stream.seek(offset)
    return stream.read(count)


Pieces = list[bytes | tuple[int, int]]


def mended(stream: BinaryIO) -> BinaryIO | None:
    """The stream with a corrected length in its header; None when the header is right or cannot be checked, or the file is not audio.

    Changes the position of the stream.
    """
    head, begin = read_at(stream, 0, 64), 0
    size = stream.seek(0, os.SEEK_END)
    if head[:3] == b"ID3" and len(head) >= 10:
        begin = _tag(head)
        head = read_at(stream, begin, 64)
    if len(head) < 12:
        return None
    pieces: Pieces | None = None
    if head[:4] == b"fLaC":
        pieces = _flac(stream, begin, size)
    elif head[:2] in MPEG_SYNCS and _mpeg_frame(head[1], head[2]):
        pieces = _mp3(stream, begin, size)
    elif begin:
        return None
    elif head[:4] in (b"RIFF", b"RIFX") and head[8:12] == b"WAVE":
        pieces = _riff(stream, size, ">" if head[:4] == b"RIFX" else "<")
    elif head[:4] == b"RF64" and head[12:16] == b"ds64":
        pieces = _rf64(stream, size)
    elif head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        pieces = _aiff(stream, size)
    elif head[:4] == b"caff":
        pieces = _caf(stream, size)
    elif head[:4] in (b".snd", b"dns."):
        pieces = _au(head, size, ">" if head[:4] == b".snd" else "<")
    return None if pieces is None else cast(BinaryIO, Stitched(stream, pieces))


# Files of chunks -----------------------------------------------------------------------------------------------------------------


def _chunks(stream: BinaryIO, size: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, offset of the content, claimed length) of the chunks from byte 12 on. Stops after a wrong length."""
    offset = 12
    for _ in range(4096):
        head = read_at(stream, offset, 8)
        if len(head) < 8:
            return
        name, length = head[:4], struct.unpack(order + "I", head[4:])[0]
        yield name, offset + 8, length
        offset += 8 + length + length % 2


def _goes_on(stream: BinaryIO, end: int, size: int, order: str) -> bool:
    """Whether samples follow the claimed end: the file continues there without another chunk."""
    for at in (end + end % 2, end):
        head = read_at(stream, at, 8)
        if len(head) < 8:
            return False
        if all(0x20 <= letter < 0x7F for letter in head[:4]) and struct.unpack(order + "I", head[4:])[0] <= size - at - 8:
            return False
    return True


def _riff(stream: BinaryIO, size: int, order: str) -> Pieces | None:
    for name, begin, length in _chunks(stream, size, order):
        if name == b"data":
            if begin + length >= size or not _goes_on(stream, begin + length, size, order):
                return None
            riff_size = struct.pack(order + "I", min(size - 8, 0xFFFFFFFF))
            return [(0, 4), riff_size, (8, begin - 4), struct.pack(order + "I", min(size - begin, 0xFFFFFFFF)), (begin, size)]
    return None


def _rf64(stream: BinaryIO, size: int) -> Pieces | None:
    claimed = struct.unpack("<Q", read_at(stream, 28, 8).ljust(8, b"\0"))[0]
    for name, begin, length in _chunks(stream, size, "<"):
        if name == b"data":
            length = claimed if length == 0xFFFFFFFF else length
            endless = length >= 2**62  # unknown length; libsndfile reads it as negative
            if not endless and (begin + length >= size or not _goes_on(stream, begin + length, size, "<")):
                return None
            size_field = (begin - 4, begin)
            return [(0, 28), struct.pack("<Q", size - begin), (36, size_field[0]), b"\xff" * 4, (begin, size)]
    return None


def _aiff(stream: BinaryIO, size: int) -> Pieces | None:
    common = 0
    for name, begin, length in _chunks(stream, size, ">"):
        if name == b"COMM":
            common = begin
        if name == b"SSND":
            if not common or begin + length >= size or not _goes_on(stream, begin + length, size, ">"):
                return None
            channels, _, bits = struct.unpack(">hIh", read_at(stream, common, 8).ljust(8, b"\0"))
            frames = (size - begin - 8) // max(channels * ((bits + 7) // 8), 1)
            data_size = struct.pack(">I", min(size - begin, 0xFFFFFFFF))
            return [
                (0, common + 2),
                struct.pack(">I", min(frames, 0xFFFFFFFF)),
                (common + 6, begin - 4),
                data_size,
                (begin, size),
            ]
    return None


def _au(head: bytes, size: int, order: str) -> Pieces | None:
    begin, length = struct.unpack(order + "II", head[4:12])
    return None if begin + length >= size else [(0, 8), b"\xff" * 4, (12, size)]


def _caf(stream: BinaryIO, size: int) -> Pieces | None:
    offset = 8
    for _ in range(4096):
        head = read_at(stream, offset, 12)
        if len(head) < 12:
            return None
        length = struct.unpack(">q", head[4:])[0]  # -1: to the end of the file, which libsndfile refuses
        if head[:4] == b"data":
            follows = read_at(stream, offset + 12 + max(length, 0), 12)
            next_chunk = len(follows) == 12 and all(0x20 <= letter < 0x7F for letter in follows[:4])
            if offset + 12 + length == size or (length > 0 and next_chunk and struct.unpack(">q", follows[4:])[0] < size):
                return None
            return [(0, offset + 4), struct.pack(">q", size - offset - 12), (offset + 12, size)]
        if not 0 <= length < size:
            return None
        offset += 12 + length
    return None


# Ogg -----------------------------------------------------------------------------------------------------------------------------


def is_chained(stream: BinaryIO) -> bool:
    """Whether an Ogg file holds several recordings one after another; libsndfile reads only the first. True when a stream begins in the
    last pages, or the last page belongs to a stream that does not begin at the start of the file."""
    offset = 0
    serials: set[bytes] = set()
    while len(head := read_at(stream, offset, 27)) == 27 and head[:4] == b"OggS" and head[5] & 2 and len(serials) < 16:
        serials.add(head[14:18])
        offset += 27 + head[26] + sum(read_at(stream, offset + 27, head[26]))
    if not serials:
        return False
    begin = max(offset, stream.seek(0, os.SEEK_END) - TAIL)
    tail = read_at(stream, begin, TAIL)
    last = tail.rfind(b"OggS\0")
    return b"OggS\0\2" in tail or (0 <= last <= len(tail) - 18 and tail[last + 14 : last + 18] not in serials)


# FLAC ----------------------------------------------------------------------------------------------------------------------------


def _crc_table(polynomial: int, bits: int) -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte << (bits - 8)
        for _ in range(8):
            value = (value << 1) ^ (polynomial if value >> (bits - 1) else 0)
            value &= (1 << bits) - 1
        table.append(value)
    return tuple(table)


CRC8, CRC16 = _crc_table(0x07, 8), _crc_table(0x8005, 16)
BLOCKS = (0, 192, 576, 1152, 2304, 4608, 0, 0, *(256 << n for n in range(8)))


def _flac(stream: BinaryIO, begin: int, size: int) -> Pieces | None:
    info = read_at(stream, begin + 4, 38)
    if len(info) < 38 or info[0] & 0x7F:  # the first block is the STREAMINFO
        return None
    block, packed = struct.unpack(">H", info[6:8])[0], struct.unpack(">Q", info[14:22])[0]
    claimed, channels = packed & (2**36 - 1), (packed >> 41 & 7) + 1
    total = _flac_end(stream, begin + 42, size, block, channels, claimed)
    if total is None or total == claimed or not 0 < total < 2**36:
        return None
    if total < claimed and size < LARGEST and b"fLaC\0\0\0\x22" in read_at(stream, begin + 42, size):
        return None  # the last frame belongs to a second, appended file
    return [(0, begin + 18), struct.pack(">Q", packed >> 36 << 36 | total), (begin + 26, size)]


def _flac_end(stream: BinaryIO, begin: int, size: int, block: int, channels: int, claimed: int) -> int | None:
    """Number of samples up to the end of the last frame; `claimed` if a frame ends there; None when no frame is found.

    A frame is accepted by its own checksum. If no frame passes, as in a truncated file, the checksum of the frame's header is enough.
    """
    for reach in (TAIL, 16 * TAIL):
        first = max(begin, size - reach)
        tail = read_at(stream, first, size - first)
        ends = {len(tail), len(tail) - 128 if tail[-128:-125] == b"TAG" else len(tail)}
        weaker: int | None = None
        offset = len(tail)
        while (offset := max(tail.rfind(b"\xff\xf8", 0, offset), tail.rfind(b"\xff\xf9", 0, offset))) >= 0:
            end = _flac_frame(tail[offset : offset + 16], block, channels)
            if end is None:
                continue
            if end == claimed or any(
                _crc16(tail[offset : stop - 2]) == int.from_bytes(tail[stop - 2 : stop], "big") for stop in ends
            ):
                return end
            weaker = end if weaker is None else weaker
        if weaker is not None or first == begin:
            return weaker
    return None


def _flac_frame(head: bytes, block: int, channels: int) -> int | None:
    """Number of samples up to the end of the frame that begins here; None when no frame begins here."""
    if len(head) < 6:
        return None
    size, rate, layout, depth = head[2] >> 4, head[2] & 15, head[3] >> 4, head[3] >> 1 & 7
    if not size or rate == 15 or layout > 10 or depth == 3 or head[3] & 1 or (layout + 1 if layout < 8 else 2) != channels:
        return None
    first_byte = head[4]
    extra_bytes = 0 if first_byte < 0x80 else 8 - (first_byte ^ 0xFF).bit_length() - 1  # as in UTF-8, up to seven bytes
    if first_byte >= 0x80 and not 1 <= extra_bytes <= 6:
        return None
    number = first_byte if first_byte < 0x80 else first_byte & (0x3F >> extra_bytes)
    for byte in head[5 : 5 + extra_bytes]:
        if byte >> 6 != 2:
            return None
        number = number << 6 | byte & 0x3F
    offset = 5 + extra_bytes
    block_size = BLOCKS[size]
    if size in (6, 7):
        block_size = int.from_bytes(head[offset : offset + size - 5], "big") + 1
        offset += size - 5
    offset += {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if offset >= len(head):
        return None
    crc = 0
    for byte in head[:offset]:
        crc = CRC8[crc ^ byte]
    if crc != head[offset]:
        return None
    return (number if head[1] & 1 else number * block) + block_size


def _crc16(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc = crc << 8 & 0xFFFF ^ CRC16[crc >> 8 ^ byte]
    return crc


# MP3 -----------------------------------------------------------------------------------------------------------------------------

MPEG_SYNCS = frozenset(bytes((0xFF, second)) for second in range(0xE0, 0x100))
BITRATES = {  # kbit/s, by (whether MPEG 1, layer)
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
MPEG_RATES = (44_100, 48_000, 32_000)


@dataclass(frozen=True)
class MpegFrame:
    """bytes: length of the frame. samples: per channel. rate: Hz. kbits: kbit/s. kind: (version, layer, rate), constant in a file."""

    bytes: int
    samples: int
    rate: int
    kbits: int
    kind: tuple[int, int, int]


@cache
def _mpeg_frame(second: int, third: int) -> MpegFrame | None:
    """The frame with these second and third bytes; None when they are invalid or the bit rate is free, so that the length is unknown."""
    version, layer = second >> 3 & 3, 4 - (second >> 1 & 3)
    if second < 0xE0 or version == 1 or layer == 4 or third >> 4 in (0, 15) or third >> 2 & 3 == 3:
        return None
    is_mpeg1 = version == 3
    kbits = BITRATES[is_mpeg1, layer][third >> 4]
    rate = MPEG_RATES[third >> 2 & 3] // (1 if is_mpeg1 else 2 if version == 2 else 4)
    padding = third >> 1 & 1
    samples = 384 if layer == 1 else 1152 if layer == 2 or is_mpeg1 else 576
    size = (12_000 * kbits // rate + padding) * 4 if layer == 1 else samples * 125 * kbits // rate + padding
    return MpegFrame(size, samples, rate, kbits, (version, layer, rate))


def _tag(head: bytes) -> int:
    """Length of an ID3v2 tag in bytes."""
    length = 0
    for byte in head[6:10]:
        length = length << 7 | byte & 0x7F
    return 10 + length + (10 if head[5] & 0x10 else 0)


def _mp3(stream: BinaryIO, begin: int, size: int) -> Pieces | None:
    head = read_at(stream, begin, 256)
    first = _mpeg_frame(head[1], head[2])
    if first is None or first.kind[1] != 3:
        return None
    side = (17 if head[3] >> 6 == 3 else 32) if first.kind[0] == 3 else (9 if head[3] >> 6 == 3 else 17)
    xing_offset = 4 + side
    has_header = head[xing_offset : xing_offset + 4] in (b"Xing", b"Info")
    claimed = claimed_bytes = 0
    if has_header:
        flags, *numbers = struct.unpack(">III", head[xing_offset + 4 : xing_offset + 16])
        claimed = numbers[0] if flags & 1 else 0
        claimed_bytes = numbers[flags & 1] if flags & 2 else 0
        seconds = claimed * first.samples / first.rate
        if claimed and abs(claimed_bytes - (size - begin)) < 2048 and seconds * 1000 <= claimed_bytes <= seconds * 56_000:
            return None  # the header fits this file, at 8 to 448 kbit/s
    if size - begin > LARGEST:
        return None
    data = read_at(stream, begin, size - begin)
    header_bytes = first.bytes if has_header or head[36:40] == b"VBRI" else 0
    count, several = _count(data, header_bytes, first.kind)
    if not count or (abs(count - claimed) <= 1 if has_header else not several and not header_bytes):
        return None
    index = BITRATES[first.kind[0] == 3, 3].index(64)
    start = bytes((0xFF, head[1] | 1, index << 4 | head[2] & 0x0C, head[3]))  # no checksum, no padding
    frame = _mpeg_frame(start[1], start[2])
    assert frame is not None
    header = start + bytes(side) + b"Xing" + struct.pack(">III", 3, count, frame.bytes + len(data) - header_bytes)
    return [header.ljust(frame.bytes, b"\0"), (begin + header_bytes, size)]


def _count(data: bytes, offset: int, kind: tuple[int, int, int]) -> tuple[int, bool]:
    """(number of complete frames of a kind from `offset` on, whether their bit rates differ)."""
    count, kbits = 0, set()
    while offset + 4 <= len(data):
        frame = _mpeg_frame(data[offset + 1], data[offset + 2]) if data[offset] == 0xFF else None
        if frame is not None and frame.kind == kind:
            if offset + frame.bytes > len(data):
                break
            count += 1
            kbits.add(frame.kbits)
            offset += frame.bytes
        elif data[offset : offset + 3] == b"ID3" and offset + 10 <= len(data):  # a tag of an appended file
            offset += _tag(data[offset : offset + 10])
        else:
            offset = data.find(b"\xff", offset + 1)
            if offset < 0:
                break
    return count, len(kbits) > 1
