# usage: client_untouched.py HOST6 PORT6 DIRECTORY
#
# Connects to what upconv has no business with, and checks that each socket is afterwards the one it was
# before: SO_COOKIE names the socket itself.
import os
import socket
import sys
import threading

SO_COOKIE = 57


def connect(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as client:
        cookie = client.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8)
        client.connect(address)
        assert client.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8) == cookie, f"{address}: another socket"
        data = b""
        while chunk := client.recv(4096):
            data += chunk
        return data


def loop(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind(address)
        listener.listen()
        address = listener.getsockname()

        def serve():
            with listener.accept()[0] as conn:
                conn.sendall(b"here")

        threading.Thread(target=serve, daemon=True).start()
        assert connect(family, address) == b"here"
        print(address)


loop(socket.AF_INET, ("127.0.0.1", 0))
loop(socket.AF_INET6, ("::1", 0))
loop(socket.AF_UNIX, sys.argv[3] + "/socket")
loop(socket.AF_UNIX, "\0upconv-test-" + str(os.getpid()))
print(connect(socket.AF_INET6, (sys.argv[1], int(sys.argv[2]))).decode())
