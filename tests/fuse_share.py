"""A small, real FUSE file system, for tests on machines that have Python and nothing else: `python3 fuse_share.py POINT
LOG [OWNER]`.

It holds `/kept` and `/deep/kept`, lets everything be deleted and written, and appends to LOG the name of each request
that changes something, so that a test can see that nobody tried. All belongs to the user with the number OWNER (1000),
who alone writes it if that is 0. When it is unmounted, it writes what it still holds. The protocol is <linux/fuse.h>.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
import sys
from pathlib import Path

HEADER = struct.Struct("=IIQQIIII")
CHANGES = {
    4: "setattr", 6: "symlink", 8: "mknod", 9: "mkdir", 10: "unlink", 11: "rmdir", 12: "rename", 13: "link",
    16: "write", 21: "setxattr", 24: "removexattr", 35: "create", 43: "fallocate", 45: "rename2",
}  # fmt: skip
LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, INIT, OPENDIR, READDIR, BATCH_FORGET = 1, 2, 3, 14, 15, 17, 26, 27, 28, 42
ROOT, TOP_FILE, DEEP, DEEP_FILE = 1, 2, 3, 4
CONTENTS = b"kept\n"
OWNER = int(sys.argv[3]) if len(sys.argv) > 3 else 1000
tree = {ROOT: {b"kept": TOP_FILE, b"deep": DEEP}, DEEP: {b"kept": DEEP_FILE}}


def attributes(node: int) -> bytes:
    directory = node in (ROOT, DEEP)
    mode = stat.S_IFDIR | 0o777 if directory else stat.S_IFREG | 0o666
    mode &= ~(0 if OWNER else 0o022)
    size = 0 if directory else len(CONTENTS)
    return struct.pack("=QQQQQQIIIIIIIIII", node, size, 1, 0, 0, 0, 0, 0, 0, mode, 2, OWNER, OWNER, 0, 4096, 0)


def entries(node: int, offset: int) -> bytes:
    packed = b""
    for number, (name, child) in enumerate(list(tree.get(node, {}).items()), 1):
        if number > offset:
            entry = struct.pack("=QQII", child, number, len(name), 0) + name
            packed += entry + b"\0" * (-len(entry) % 8)
    return packed


def answer(opcode: int, node: int, body: bytes) -> tuple[int, bytes]:
    """Error number, and the rest of the reply."""
    if opcode == INIT:
        return 0, struct.pack("=IIIIHHIIHHIIIIIIII", 7, 23, 65536, 0, 12, 9, 65536, 1, 0, 0, *[0] * 8)
    if opcode == LOOKUP:
        child = tree.get(node, {}).get(body.rstrip(b"\0"))
        return (2, b"") if child is None else (0, struct.pack("=QQQQII", child, 0, 0, 0, 0, 0) + attributes(child))
    if opcode in (GETATTR, 4):
        return 0, struct.pack("=QII", 0, 0, 0) + attributes(node)
    if opcode in (OPEN, OPENDIR):
        return 0, struct.pack("=QII", 0, 0, 0)
    if opcode == READ:
        offset = struct.unpack_from("=QQ", body)[1]
        return 0, CONTENTS[offset:]
    if opcode == READDIR:
        return 0, entries(node, struct.unpack_from("=QQ", body)[1])
    if opcode == STATFS:
        return 0, b"\0" * 80
    if opcode in (10, 11):
        tree[node].pop(body.rstrip(b"\0"), None)
        return 0, b""
    return (0, b"") if opcode in (18, 25, 29, 34, 38) else (38, b"")


def main() -> None:
    point, log = sys.argv[1:3]
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"share", point.encode(), b"fuse.share", 0, options.encode()):
        sys.exit(f"cannot mount: {os.strerror(ctypes.get_errno())}")
    with Path(log).open("a", buffering=1) as said:
        said.write("mounted\n")
        while True:
            try:
                request = os.read(device, 1 << 20)
            except OSError:
                break
            _, opcode, unique, node, *_ = HEADER.unpack_from(request)
            if opcode in CHANGES:
                said.write(CHANGES[opcode] + "\n")
            if opcode in (FORGET, BATCH_FORGET):
                continue
            error, body = answer(opcode, node, request[HEADER.size :])
            os.write(device, struct.pack("=IiQ", 16 + len(body), -error, unique) + body)
        said.write("unmounted with " + " ".join(sorted(b" ".join(tree[ROOT]).decode().split())) + "\n")


if __name__ == "__main__":
    main()
