"""A service of systemd's that does what its arguments say, one after the other, and prints what came of each.

listen          the sockets and names that it was given, as sd_listen_fds(3) finds them
watchdog        whether it is to send signs of life, as sd_watchdog_enabled(3) finds out, and whether SYSTEMD_EXEC_PID is its own
say TEXT        sends a message of sd_notify(3), in which @PID is its own pid and \\n a new line, and waits until systemd has it
hurry TEXT      the same without waiting
child TEXT      the same, sent by a child
store           sends an open file to be kept (FDSTORE=1)
ping COUNT      that many signs of life, 50 ms apart
accept          serves one connection of the first socket
where           the address that messages are sent to
fork            goes on in a child; the parent waits
leave FILE      writes its pid to the file, and has the parent end
drop UID        becomes another user
serve           prints each signal that it gets, and ends with 0 after SIGTERM, with 6 after SIGABRT;
                says that it reloads after SIGHUP
sleep           for a long time
die SIGNAL      sends itself a signal
exit STATUS
"""
import array, os, signal, socket, sys, time

me = str(os.getpid())


def notify(message, fds=()):
    address = os.environ['NOTIFY_SOCKET']
    if address[0] == '@':
        address = '\0' + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))] if fds else []
        s.sendmsg([message], rights, 0, address)


def text(arg):
    return arg.replace('@PID', me).replace('\\n', '\n').encode()


def told(message, fds=()):
    """Sends a message and waits until it has been taken: sd_notify_barrier(3)."""
    notify(message, fds)
    ours, theirs = os.pipe()
    notify(b'BARRIER=1', [theirs])
    os.close(theirs)
    os.read(ours, 1)
    os.close(ours)


def serve():
    while True:
        got = signal.sigwaitinfo(wanted)
        print(signal.Signals(got.si_signo).name, flush=True)
        if got.si_signo == signal.SIGHUP:
            told(b'RELOADING=1\nMONOTONIC_USEC=%d' % (time.monotonic_ns() // 1000))
            told(b'READY=1\nSTATUS=reloaded')
        if got.si_signo == signal.SIGABRT:
            os._exit(6)
        if got.si_signo == signal.SIGTERM:
            notify(b'STOPPING=1\nSTATUS=bye')
            time.sleep(.1)  # a second one is to be seen
            while signal.sigtimedwait(wanted, 0):
                print('again', flush=True)
            os._exit(0)


wanted = [signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGABRT]
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
args = iter(sys.argv[1:])
for step in args:
    if step == 'listen':
        n = int(os.environ['LISTEN_FDS']) if os.environ.get('LISTEN_PID') == me else 0
        print('sockets', n, os.environ.get('LISTEN_FDNAMES') if n else '', [os.readlink('/proc/self/fd/%d' % fd).split(':')[0] for fd in range(3, 3 + n)])
    elif step == 'watchdog':
        print('watchdog', os.environ.get('WATCHDOG_PID') == me and os.environ['WATCHDOG_USEC'])
        print('executed', os.environ.get('SYSTEMD_EXEC_PID') == me)
    elif step == 'say':
        told(text(next(args)))
    elif step == 'hurry':
        notify(text(next(args)))
    elif step == 'child':
        message = text(next(args))
        if not os.fork():
            told(message)
            os._exit(0)
        os.wait()
    elif step == 'where':
        print('notify at', os.environ['NOTIFY_SOCKET'])
    elif step == 'store':
        told(b'FDSTORE=1\nFDNAME=kept', [os.open('/proc/version', os.O_RDONLY)])
    elif step == 'ping':
        for _ in range(int(next(args))):
            told(b'WATCHDOG=1')
            time.sleep(.05)
        print('pinged')
    elif step == 'accept':
        connection, _ = socket.socket(fileno=3).accept()
        print('heard', connection.recv(100).decode())
        connection.sendall(b'hello')
    elif step == 'fork':
        reader, writer = os.pipe()
        if os.fork():
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        me, parent = str(os.getpid()), os.getppid()
    elif step == 'leave':
        with open(next(args), 'w') as f:
            print(me, file=f)
        os.close(writer)
        while os.getppid() == parent:
            time.sleep(.001)
    elif step == 'drop':
        os.setresuid(*[int(next(args))] * 3)
    elif step == 'serve':
        print('serving', flush=True)
        serve()
    elif step == 'sleep':
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        time.sleep(1000)
    elif step == 'die':
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.kill(os.getpid(), int(next(args)))
    elif step == 'exit':
        sys.exit(int(next(args)))
    sys.stdout.flush()
