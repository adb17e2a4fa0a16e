# usage: client_selectors.py HOST PORT
#
# Reads the greeting over 20 connections whose sockets are registered before they are connected; asyncio has them in
# its own selector. Then over a stream of asyncio's, made from a socket that was registered before.
import asyncio
import errno
import selectors
import socket
import sys

where = sys.argv[1], int(sys.argv[2])

selector = selectors.EpollSelector()
for i in range(20):
    s = socket.socket()
    s.setblocking(False)
    selector.register(s, selectors.EVENT_READ | selectors.EVENT_WRITE, i)
for key in list(selector.get_map().values()):
    code = key.fileobj.connect_ex(where)
    assert code == errno.EINPROGRESS, code
open_ = 20
while open_:
    ready = selector.select(5)
    if not ready:
        sys.exit("timeout")
    for key, events in ready:
        if events & selectors.EVENT_WRITE:
            code = key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                sys.exit(f"SO_ERROR {code}")
            selector.modify(key.fileobj, selectors.EVENT_READ, key.data)
        elif events & selectors.EVENT_READ:
            data = key.fileobj.recv(100)
            if data:
                print(data.decode(), end="")
            else:
                selector.unregister(key.fileobj)
                key.fileobj.close()
                open_ -= 1


async def main():
    loop = asyncio.get_running_loop()
    s = socket.socket()
    s.setblocking(False)
    writable = asyncio.Event()

    def on_writable():
        loop.remove_writer(s)
        writable.set()

    loop.add_writer(s, on_writable)
    code = s.connect_ex(where)
    assert code == errno.EINPROGRESS, code
    await asyncio.wait_for(writable.wait(), 5)
    assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    reader, writer = await asyncio.open_connection(sock=s)
    print((await asyncio.wait_for(reader.read(), 5)).decode(), end="")
    writer.close()
    await writer.wait_closed()


asyncio.run(main())
