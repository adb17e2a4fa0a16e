"""Starts a command as systemd starts a socket-activated Type=notify service, and prints who sends it messages.

Usage: service_start.py ADDRESS COMMAND...
ADDRESS is where messages are received: a path, or @NAME for an abstract address. The command is given a listening socket as
descriptor 3, and the variables LISTEN_PID, LISTEN_PIDFDID, LISTEN_FDS, WATCHDOG_PID, SYSTEMD_EXEC_PID and NOTIFY_SOCKET. Each
message is printed with its sender: "main" for the process that was started, else the name of the process; then how the command ended.
"""
import os, signal, socket, struct, sys

address = sys.argv[1]
listener = socket.create_server(('::1', 0), family=socket.AF_INET6)
messages = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
messages.bind('\0' + address[1:] if address[0] == '@' else address)
messages.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
messages.settimeout(20)
go_on, started = os.pipe()
pid = os.fork()
if pid == 0:
    os.read(go_on, 1)
    me = str(os.getpid())
    os.dup2(listener.fileno(), 3)
    os.set_inheritable(3, True)
    os.environ.update(LISTEN_PID=me, LISTEN_FDS='1', LISTEN_FDNAMES='front', LISTEN_PIDFDID=str(os.fstat(os.pidfd_open(os.getpid())).st_ino),
                      WATCHDOG_PID=me, WATCHDOG_USEC='5000000', SYSTEMD_EXEC_PID=me, MANAGERPID='1', NOTIFY_SOCKET=address)
    os.execvp(sys.argv[2], sys.argv[2:])
os.write(started, b'x')
while True:
    data, control, _, _ = messages.recvmsg(1000, 1000)
    who, fds = 0, []
    for _, kind, value in control:
        if kind == 2:  # SCM_CREDENTIALS
            who, = struct.unpack('i', value[:4])
        elif kind == socket.SCM_RIGHTS:
            fds = struct.unpack('%di' % (len(value) // 4), value)
    if data == b'END=1':
        break
    name = 'main'
    if who != pid:
        with open('/proc/%d/comm' % who) as f:
            name = f.read().strip()
    print(name, data.decode().replace('\n', ' ').replace(str(pid), '@MAIN'), [os.readlink('/proc/self/fd/%d' % fd) for fd in fds], flush=True)
    for fd in fds:
        os.close(fd)
print('status', os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
