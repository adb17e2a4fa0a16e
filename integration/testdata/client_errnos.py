# usage: client_errnos.py HOST PORT...
#
# Connects to each port, once with a blocking and once with a non-blocking socket, and prints both
# errnos. By libc itself: Python has ideas of its own about some errnos.
import ctypes
import socket
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)


def connect(port, blocking):
    sa = struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(sys.argv[1]) + bytes(8)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.setblocking(blocking)
        return ctypes.get_errno() if libc.connect(s.fileno(), sa, len(sa)) else 0


for port in map(int, sys.argv[2:]):
    print(port, connect(port, True), connect(port, False))
