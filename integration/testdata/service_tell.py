"""Prints what sd_listen_fds(3) and sd_watchdog_enabled(3) find, and sends messages as sd_notify(3) does; the last one is END=1."""
import array, os, socket, sys

me = str(os.getpid())
print('named', [name for name in ('LISTEN_PID', 'WATCHDOG_PID', 'SYSTEMD_EXEC_PID', 'MANAGERPID') if os.environ[name] == me],
      os.environ['LISTEN_PIDFDID'] == str(os.fstat(os.pidfd_open(os.getpid())).st_ino))
with socket.socket(fileno=3) as listener:
    print('socket', listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
print('environment', sorted(set(os.environ) - set(sys.argv[1].split(','))), flush=True)
address = os.environ['NOTIFY_SOCKET'].replace('@', '\0', 1)


def tell(message, fds=()):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))] if fds else [], 0, address)


tell(b'READY=1\nSTATUS=up')
tell(b'MAINPID=%s\nX=1' % me.encode())
tell(b'FDSTORE=1', [os.open('/proc/version', os.O_RDONLY), os.open('/dev/null', os.O_RDONLY)])
if not os.fork():
    with open('/proc/self/comm', 'w') as f:
        f.write('worker')
    tell(b'STATUS=child')
    ours, theirs = os.pipe()
    tell(b'BARRIER=1', [theirs])
    os.close(theirs)
    os.read(ours, 1)
    os._exit(0)
os.wait()
tell(b'STOPPING=1')
tell(b'END=1')
