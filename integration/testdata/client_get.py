# usage: client_get.py HOST PORT
#
# For every line on standard input: connects and prints the line that comes back, or the errno's name.
# The line "end" ends it.
import errno
import socket
import sys

for line in sys.stdin:
    if line == "end\n":
        break
    try:
        with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as s:
            print(s.makefile().readline(), end="", flush=True)
    except OSError as e:
        print(errno.errorcode.get(e.errno, e), flush=True)
