// hostile KIND SECONDS TRIES ALLOWED CLOSED SILENT REJECTED PORT OWN-PORT
//         [LINKED LINK OWN-SOCKET FOREIGN-SOCKET]
// hostile list
//
// A program that tries to arrive where a policy has it not: one thread or process calls connect(2),
// say, and another one changes what the call is about while it is decided. It goes on for SECONDS, or
// until it has made so many TRIES (0: any number). It prints how many it has made, how many sockets it
// has found to be bound in the egress (reached), how the calls came out, and "end". Whether anything
// has arrived is for the servers to say.
//
// At PORT of ALLOWED there is a server, at CLOSED none, and SILENT never answers. REJECTED, and
// 127.0.0.1 of the egress, are where it must not arrive. The kinds are in a table. "list" prints their
// names, for the calls that the program was compiled for, and behind each what is particular to it
// (it sends without connecting, needs a link, or tries to be a server) and what it has to do with,
// between slashes. With -DSOCKETCALL the calls are made by i386's socketcall(2).
#include "hostile.h"

enum {
	// What an attacker changes.
	ADDRESS = 1,        // of the destination
	FAMILY = 1 << 1,    // of the destination
	LENGTH = 1 << 2,    // of the address, where that is in memory
	POINTER = 1 << 3,   // to the address, where that is in memory
	VECTOR = 1 << 4,    // where the data is, and how much
	DUP2 = 1 << 5,      // the socket, by one of the kind's source
	REOPEN = 1 << 6,    // the same by close(2), and F_DUPFD to the same number
	SHUTDOWN = 1 << 7,  // the connection, by shutdown(2)
	UNSPEC = 1 << 8,    // the connection, by connect(2)
	LINK = 1 << 9,      // where a symbolic link leads
	FLAGS = 1 << 20,    // of a send, where they are in memory
	SOCKET = DUP2 | REOPEN,
	// Who does.
	PROCESS = 1 << 10,  // a process that shares descriptors (CLONE_FILES), instead of a thread
	VFORK = 1 << 11,    // the calls are those of a child of vfork(2)
	SHARED = 1 << 12,   // which shares its parent's descriptors
	HANDED = 1 << 13,   // the source's sockets come from another process by SCM_RIGHTS
	WAITS = 1 << 14,    // the calls wait for a host that does not answer, until a signal comes
	ALONE = 1 << 15,    // no attacker: the caller puts a socket of the source under the number
	FIRST = 1 << 16,    // one round: the attacker's is the first socket that leaves the origin
	// Where a kind makes sense.
	I386 = 1 << 17,        // also as a 32-bit program
	MEMORY = 1 << 18,      // with socketcall(2) alone, whose arguments are in memory
	UNCONNECTED = 1 << 19, // not with --udp connected, where nobody looks at such sends
};

// A call is one way to ask for a destination.
struct call {
	int family, type, protocol; // of the socket; a family of 0 is a file that is none
	int named;  // the family of the address
	int reused; // a socket is good for so many calls
	long (*make)(int fd);
};

static long sys(int name, int multiplexed, long x, long y, long z, long u, long v, long w)
{
#ifdef SOCKETCALL
	long args[6] = {x, y, z, u, v, w};
	memcpy(a->args, args, sizeof args);
	return syscall(SYS_socketcall, multiplexed, a->args);
#else
	return syscall(name, x, y, z, u, v, w);
#endif
}

static long make_connect(int fd) { return sys(SYS_connect, 3, fd, (long)&a->name, sizeof a->name, 0, 0, 0); }

static long make_connect6(int fd) { return sys(SYS_connect, 3, fd, (long)&a->name6, sizeof a->name6, 0, 0, 0); }

// make_deferred has the connection begin with what is written first.
static long make_deferred(int fd)
{
	int one = 1;
	setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &one, sizeof one);
	return make_connect(fd);
}

static long make_sendto(int fd) { return sys(SYS_sendto, 11, fd, (long)a->data, 1, 0, (long)&a->name, sizeof a->name); }

static long make_sendto6(int fd) { return sys(SYS_sendto, 11, fd, (long)a->data, 1, 0, (long)&a->name6, sizeof a->name6); }

static long make_fast(int fd)
{
	return sys(SYS_sendto, 11, fd, (long)a->data, 1, MSG_FASTOPEN | MSG_NOSIGNAL, (long)&a->name, sizeof a->name);
}

static long make_sendmsg(int fd) { return sys(SYS_sendmsg, 16, fd, (long)&a->message[0].msg_hdr, 0, 0, 0, 0); }

static long make_fastmsg(int fd)
{
	return sys(SYS_sendmsg, 16, fd, (long)&a->message[0].msg_hdr, MSG_FASTOPEN | MSG_NOSIGNAL, 0, 0, 0);
}

static long make_sendmmsg(int fd) { return sys(SYS_sendmmsg, 20, fd, (long)a->message, BATCH, 0, 0, 0); }

// bound notes whether the socket under the number is bound in the egress to the port that the program
// asks for. If so it waits a while for others to come.
static void bound(void)
{
	struct sockaddr_in name;
	socklen_t length = sizeof name;
	struct pollfd comes = {dup(CONTESTED), POLLIN};
	uint64_t place = cookie(comes.fd);
	if (place && place != origin && !getsockname(comes.fd, (void *)&name, &length) && name.sin_port == own_port) {
		a->reached++;
		poll(&comes, 1, 20);
	}
	close(comes.fd);
}

static long make_bind(int fd)
{
	struct sockaddr_in name = {AF_INET, own_port};
	long result = sys(SYS_bind, 2, fd, (long)&name, sizeof name, 0, 0, 0);
	bound();
	return result;
}

static long make_server(int fd)
{
	struct sockaddr_in name = {AF_INET, own_port};
	long result = sys(SYS_bind, 2, fd, (long)&name, sizeof name, 0, 0, 0);
	if (!result)
		result = sys(SYS_listen, 4, fd, 9, 0, 0, 0, 0);
	bound();
	return result;
}

static const struct call
	c_connect = {AF_INET, SOCK_STREAM, 0, AF_INET, 1, make_connect},
	c_connect6 = {AF_INET6, SOCK_STREAM, 0, AF_INET6, 1, make_connect6},
	c_multipath = {AF_INET, SOCK_STREAM, IPPROTO_MPTCP, AF_INET, 1, make_connect},
	c_deferred = {AF_INET, SOCK_STREAM, 0, AF_INET, 1, make_deferred},
	c_fast = {AF_INET, SOCK_STREAM, 0, AF_INET, 1, make_fast},
	c_fastmsg = {AF_INET, SOCK_STREAM, 0, AF_INET, 1, make_fastmsg},
	c_unix = {AF_UNIX, SOCK_STREAM, 0, AF_UNIX, 1, make_connect},
	c_udp = {AF_INET, SOCK_DGRAM, 0, AF_INET, 8, make_connect},
	c_udp6 = {AF_INET6, SOCK_DGRAM, 0, AF_INET6, 8, make_connect6},
	c_sendto = {AF_INET, SOCK_DGRAM, 0, AF_INET, 32, make_sendto},
	c_sendto6 = {AF_INET6, SOCK_DGRAM, 0, AF_INET6, 32, make_sendto6},
	c_sendmsg = {AF_INET, SOCK_DGRAM, 0, AF_INET, 32, make_sendmsg},
	c_sendmmsg = {AF_INET, SOCK_DGRAM, 0, AF_INET, 32, make_sendmmsg},
	c_sendto_stream = {AF_INET, SOCK_STREAM, 0, AF_INET, 1, make_sendto},
	c_sendmsg_stream = {AF_INET, SOCK_STREAM, 0, AF_INET, 1, make_sendmsg},
	c_sendmsg_unix = {AF_UNIX, SOCK_DGRAM, 0, AF_INET, 1, make_sendmsg},
	c_sendmsg_netlink = {AF_NETLINK, SOCK_RAW, 0, AF_INET, 1, make_sendmsg},
	c_connect_file = {0, 0, 0, AF_INET, 1, make_connect},
	c_sendto_file = {0, 0, 0, AF_INET, 1, make_sendto},
	c_server_unix = {AF_UNIX, SOCK_STREAM, 0, AF_INET, 1, make_server},
	c_bind_unix = {AF_UNIX, SOCK_DGRAM, 0, AF_INET, 1, make_bind},
	c_bind = {AF_INET, SOCK_DGRAM, 0, AF_INET, 1, make_bind},
	c_server = {AF_INET, SOCK_STREAM, 0, AF_INET, 1, make_server};

static const struct kind {
	const char *name;
	const struct call *call;
	int how;
	int (*source)(unsigned);
} kinds[] = {
	{"connect, address", &c_connect, ADDRESS | I386},
	{"connect, family", &c_connect, ADDRESS | FAMILY},
	{"connect, length", &c_connect, ADDRESS | LENGTH | MEMORY},
	{"connect, pointer", &c_connect, POINTER | MEMORY},
	{"connect, dup2 connected", &c_connect, ADDRESS | DUP2, src_connected},
	{"connect, dup2 disconnected", &c_connect, DUP2 | I386, src_disconnected},
	{"connect, dup2 refused", &c_connect, DUP2, src_refused},
	{"connect, dup2 shut down", &c_connect, DUP2, src_shut},
	{"connect, dup2 left by MSG_FASTOPEN", &c_connect, DUP2, src_fast},
	{"connect, dup2 datagrams", &c_connect, DUP2 | I386, src_datagram},
	{"connect, dup2 datagrams and family", &c_connect, DUP2 | FAMILY, src_datagram},
	{"connect, dup2 datagrams and address", &c_connect, DUP2 | ADDRESS, src_datagram},
	{"connect of a file, dup2 datagrams", &c_connect_file, DUP2, src_datagram},
	{"connect, close and reopen", &c_connect, REOPEN, src_refused},
	{"connect, CLONE_FILES", &c_connect, DUP2 | PROCESS, src_refused},
	{"connect, vfork", &c_connect, ADDRESS | VFORK},
	{"connect, vfork with CLONE_FILES", &c_connect, DUP2 | VFORK | SHARED, src_refused},
	{"connect, SCM_RIGHTS", &c_connect, DUP2 | HANDED, src_refused},
	{"connect, SCM_RIGHTS of datagrams", &c_connect, DUP2 | HANDED, src_datagram},
	{"connect that waits, shutdown", &c_connect, ADDRESS | SHUTDOWN | WAITS},
	{"connect that waits, disconnected", &c_connect, ADDRESS | UNSPEC | WAITS},
	{"connect that waits, dup2 refused", &c_connect, ADDRESS | DUP2 | WAITS, src_refused},
	{"connect that waits, dup2 datagrams", &c_connect, ADDRESS | DUP2 | WAITS, src_datagram},
	{"AF_INET6 connect, address", &c_connect6, ADDRESS},
	{"AF_INET6 connect, dup2 refused", &c_connect6, DUP2, src_refused6},
	{"AF_INET6 connect, dup2 datagrams", &c_connect6, DUP2, src_datagram6},
	{"MPTCP, address", &c_multipath, ADDRESS},
	{"MPTCP, dup2 refused", &c_multipath, DUP2, src_multipath},
	{"MSG_FASTOPEN, address", &c_fast, ADDRESS | I386},
	{"MSG_FASTOPEN, disconnected", &c_fast, ADDRESS | UNSPEC},
	{"MSG_FASTOPEN, shutdown", &c_fast, ADDRESS | SHUTDOWN | WAITS},
	{"MSG_FASTOPEN, flags", &c_fast, DUP2 | FLAGS | MEMORY, src_refused},
	{"MSG_FASTOPEN, dup2 refused", &c_fast, DUP2 | I386, src_refused},
	{"MSG_FASTOPEN, dup2 datagrams", &c_fast, DUP2 | UNCONNECTED, src_datagram},
	{"MSG_FASTOPEN by sendmsg, pointer", &c_fastmsg, POINTER},
	{"TCP_FASTOPEN_CONNECT, address", &c_deferred, ADDRESS},
	{"TCP_FASTOPEN_CONNECT, dup2 refused", &c_deferred, DUP2, src_refused},
	{"Unix connect, dup2 refused", &c_unix, DUP2 | FAMILY, src_refused},
	{"Unix connect, dup2 datagrams", &c_unix, DUP2 | FAMILY, src_datagram},
	{"Unix route, symbolic link", &c_connect, LINK},
	{"UDP connect, address", &c_udp, ADDRESS | I386},
	{"UDP connect, dup2 datagrams", &c_udp, DUP2, src_datagram},
	{"UDP connect, dup2 refused", &c_udp, DUP2, src_refused},
	{"AF_INET6 UDP connect, address", &c_udp6, ADDRESS},
	{"AF_INET6 UDP connect, dup2 datagrams", &c_udp6, DUP2, src_datagram6},
	{"the first connect, dup2 refused", &c_connect, DUP2 | FIRST, src_refused},
	{"the first send, dup2 datagrams", &c_sendto, DUP2 | UNCONNECTED | FIRST, src_datagram},
	{"sendto, address", &c_sendto, ADDRESS | UNCONNECTED | I386},
	{"AF_INET6 sendto, address", &c_sendto6, ADDRESS | UNCONNECTED},
	{"AF_INET6 sendto, dup2 datagrams", &c_sendto6, DUP2 | UNCONNECTED, src_datagram6},
	{"sendto, family", &c_sendto, DUP2 | FAMILY | UNCONNECTED, src_datagram},
	{"sendto, length", &c_sendto, DUP2 | LENGTH | MEMORY | UNCONNECTED, src_peer},
	{"sendto, pointer", &c_sendto, DUP2 | POINTER | MEMORY | UNCONNECTED, src_datagram},
	{"sendto, dup2 datagrams", &c_sendto, DUP2 | UNCONNECTED | I386, src_datagram},
	{"sendto, dup2 connected datagrams", &c_sendto, DUP2 | UNCONNECTED, src_peer},
	{"sendto, dup2 datagrams and address", &c_sendto, DUP2 | ADDRESS | UNCONNECTED, src_datagram},
	{"sendto on a stream, dup2 datagrams", &c_sendto_stream, DUP2 | UNCONNECTED, src_datagram},
	{"sendmsg on a stream, dup2 datagrams", &c_sendmsg_stream, DUP2 | UNCONNECTED, src_datagram},
	{"sendmsg on a Unix socket, dup2 datagrams", &c_sendmsg_unix, DUP2 | UNCONNECTED, src_datagram},
	{"sendmsg on a netlink socket, dup2 datagrams", &c_sendmsg_netlink, DUP2 | UNCONNECTED, src_datagram},
	{"sendto on a file, dup2 datagrams", &c_sendto_file, DUP2 | UNCONNECTED, src_datagram},
	{"sendmsg, close and reopen", &c_sendmsg, REOPEN | UNCONNECTED, src_datagram},
	{"sendto, close and reopen", &c_sendto, REOPEN | UNCONNECTED, src_datagram},
	{"sendto, CLONE_FILES", &c_sendto, DUP2 | PROCESS | UNCONNECTED, src_datagram},
	{"sendto, vfork", &c_sendto, ADDRESS | VFORK | UNCONNECTED},
	{"sendto, SCM_RIGHTS", &c_sendto, DUP2 | HANDED | UNCONNECTED, src_datagram},
	{"sendmsg, address", &c_sendmsg, ADDRESS | UNCONNECTED},
	{"sendmsg, length", &c_sendmsg, DUP2 | LENGTH | UNCONNECTED, src_peer},
	{"sendmsg, pointer", &c_sendmsg, POINTER | UNCONNECTED | I386},
	{"sendmsg, no pointer, dup2 connected datagrams", &c_sendmsg, DUP2 | POINTER | UNCONNECTED, src_peer},
	{"sendmsg, iovec", &c_sendmsg, ADDRESS | VECTOR | UNCONNECTED},
	{"sendmsg, dup2 datagrams and all", &c_sendmsg, DUP2 | ADDRESS | FAMILY | LENGTH | POINTER | VECTOR | UNCONNECTED, src_datagram},
	{"sendmmsg, pointer", &c_sendmmsg, POINTER | UNCONNECTED | I386},
	{"sendmmsg, dup2 datagrams", &c_sendmmsg, DUP2 | VECTOR | UNCONNECTED, src_datagram},
	{"server, disconnected", &c_server, ALONE, src_disconnected},
	{"server, refused", &c_server, ALONE, src_refused},
	{"server, shut down", &c_server, ALONE, src_shut},
	{"server, dup2 refused", &c_server, DUP2, src_refused},
	{"server, dup2 shut down", &c_server, DUP2, src_shut},
	{"server, close and reopen", &c_server, REOPEN, src_refused},
	{"server on a Unix socket, dup2 refused", &c_server_unix, DUP2, src_refused},
	{"bind of a Unix socket, dup2 datagrams", &c_bind_unix, DUP2, src_datagram},
	{"bind, close and reopen", &c_bind, REOPEN, src_datagram},
	{"bind, datagrams", &c_bind, ALONE, src_peer},
	{"bind, dup2 datagrams", &c_bind, DUP2, src_datagram},
	{"bind, dup2 connected datagrams", &c_bind, DUP2, src_peer},
};

static const struct kind *k;
static const char *link_path, *link_next, *own_socket, *foreign_socket;
static int nonblock; // SOCK_NONBLOCK in every other round
static int loop6;    // the loopback of AF_INET6 sockets is ::1
static void *nowhere;

// fresh puts a new socket under the number, or a file that is none.
static int fresh(void)
{
	const struct call *c = k->call;
	return number_at(c->family ? socket(c->family, c->type | nonblock, c->protocol) : open("/dev/null", O_RDWR), CONTESTED);
}

static void name(struct in_addr address)
{
	a->name.sin_addr = address;
	a->name6.sin6_addr = loop6 && address.s_addr == loop4.s_addr ? in6addr_loopback : mapped(address);
}

static void lead(const char *where)
{
	unlink(link_next);
	if (symlink(where, link_next) || rename(link_next, link_path))
		die("symlink");
}

// change changes what the kind says, to what must not arrive; other is a socket of its source.
static void change(int other, unsigned r)
{
	static const sa_family_t families[] = {AF_INET, AF_UNSPEC, AF_UNIX, AF_INET6};
	static const socklen_t lengths[] = {0, 2, 8, 15, 28, 128};
	if (k->how & ADDRESS)
		name(a->bad);
	if (k->how & FAMILY)
		a->name.sin_family = families[r % 4];
	if (k->how & LENGTH) {
		a->message[0].msg_hdr.msg_namelen = lengths[r % 6];
		a->args[k->call->make == make_connect ? 2 : 5] = lengths[r % 6];
	}
	if (k->how & POINTER) {
		for (int i = 0; i < BATCH; i++)
			a->message[i].msg_hdr.msg_name = k->how & DUP2 ? 0 : &a->other;
		a->args[k->call->make == make_connect ? 1 : 4] = k->how & DUP2 ? 0 : (long)&a->other;
	}
	if (k->how & FLAGS)
		a->args[3] = MSG_NOSIGNAL;
	if (k->how & VECTOR) {
		a->vector[0].iov_base = r & 1 ? nowhere : a->data + 32;
		a->vector[0].iov_len = r % 2000;
		a->message[0].msg_hdr.msg_iovlen = r % 3;
	}
	if (k->how & REOPEN) {
		close(CONTESTED);
		fcntl(other, F_DUPFD, CONTESTED);
	}
	if (k->how & DUP2)
		dup2(other, CONTESTED);
	if (k->how & SHUTDOWN)
		shutdown(CONTESTED, SHUT_RDWR);
	if (k->how & UNSPEC)
		unspec(CONTESTED, r);
	if (k->how & LINK)
		lead(foreign_socket);
}

// restore makes it again what the caller began with.
static void restore(int other)
{
	if (k->how & (DUP2 | REOPEN)) {
		send(other, "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL); // to whatever it has been connected to
		fresh();
	}
	name(a->good);
	a->name.sin_family = k->call->named;
	a->message[0].msg_hdr.msg_namelen = sizeof a->name;
	for (int i = 0; i < BATCH; i++)
		a->message[i].msg_hdr.msg_name = &a->name;
	if (k->how & FLAGS)
		a->args[3] = MSG_FASTOPEN | MSG_NOSIGNAL;
	a->vector[0] = (struct iovec){a->data, 1};
	a->message[0].msg_hdr.msg_iovlen = 1;
	if (k->how & LINK)
		lead(own_socket);
}

static void *attack(void *unused)
{
	unsigned r = getpid() + a->tries;
	int other = -1;
	for (int turn = 0; !a->stop; turn++) {
		if (k->source && (turn % 64 == 0 || (turn % 8 == 0 && cookie(other) == origin))) {
			close(other);
			other = k->how & HANDED ? src_handed(chance(&r)) : k->source(chance(&r));
		}
		change(other, chance(&r));
		spin(chance(&r) % 800);
		restore(other);
		if (k->how & WAITS)
			syscall(SYS_tgkill, getpid(), a->caller, SIGUSR1);
		spin(chance(&r) % 3000);
	}
	if (other >= 0)
		close(other);
	return unused;
}

// round_of_calls makes the caller's calls.
static int round_of_calls(void *unused)
{
	unsigned r = a->tries;
	a->caller = syscall(SYS_gettid);
	for (int i = 0; i < ROUND; i++) {
		if (k->how & ALONE)
			number_at(k->source(chance(&r)), CONTESTED);
		else if (!(k->how & SOCKET) && i % k->call->reused == 0)
			fresh();
		long result = k->call->make(CONTESTED);
		a->outcomes[result < 0 ? errno : 0]++;
		a->tries++;
		send(CONTESTED, "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL); // to whatever it is connected to
	}
	return 0;
}

// in_child has a child make the calls while this thread waits, as vfork(2) does.
static void in_child(void)
{
	static char stack[1 << 16] __attribute__((aligned(16)));
	int files = k->how & SHARED ? CLONE_FILES : 0;
	pid_t pid = clone(round_of_calls, stack + sizeof stack, CLONE_VM | CLONE_VFORK | files | SIGCHLD, 0);
	if (pid < 0 || waitpid(pid, 0, 0) != pid)
		die("clone");
}

// play plays one round: an attacker, and a caller beside it.
static void play(unsigned number)
{
	pthread_t thread;
	pid_t process = 0;
	nonblock = number % 2 && !(k->how & (WAITS | ALONE)) && k->call->make != make_bind ? SOCK_NONBLOCK : 0;
	a->bad = number / 2 % 2 ? rejected : loop4;
	loop6 = number / 4 % 2;
	a->good = !(k->how & ADDRESS) ? a->bad : k->how & WAITS ? silent : number / 4 % 4 == 3 ? closed : allowed;
	if (k->how & POINTER && !(k->how & DUP2))
		a->good = allowed;
	if (k->how & LINK)
		a->good = linked;
	a->other = (struct sockaddr_in){AF_INET, port, a->bad};
	a->stop = 0;
	fresh();
	restore(-1);
	if (k->how & PROCESS) {
		if ((process = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0)) == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			attack(0);
			_exit(0);
		}
	} else if (!(k->how & ALONE) && pthread_create(&thread, 0, attack, 0)) {
		die("pthread_create");
	}
	if (k->how & VFORK)
		in_child();
	else
		round_of_calls(0);
	a->stop = 1;
	if (process)
		waitpid(process, 0, 0);
	else if (!(k->how & ALONE))
		pthread_join(thread, 0);
	close(CONTESTED);
}

static int makes_sense(const struct kind *kind)
{
#ifdef SOCKETCALL
	return kind->how & (MEMORY | I386) && kind->call->make != make_sendmmsg;
#elif defined(__i386__)
	return kind->how & I386;
#else
	return !(kind->how & MEMORY);
#endif
}

static void interrupted(int signal) {}

static void prepare(char **argv)
{
	inet_pton(AF_INET, argv[0], &allowed);
	inet_pton(AF_INET, argv[1], &closed);
	inet_pton(AF_INET, argv[2], &silent);
	inet_pton(AF_INET, argv[3], &rejected);
	loop4.s_addr = htonl(INADDR_LOOPBACK);
	port = htons(atoi(argv[4]));
	own_port = htons(atoi(argv[5]));
	if (k->how & LINK) {
		char *next;
		if (!argv[6] || asprintf(&next, "%s.next", argv[7]) < 0)
			die("no link");
		inet_pton(AF_INET, argv[6], &linked);
		link_path = argv[7], link_next = next, own_socket = argv[8], foreign_socket = argv[9];
	}
	a = mmap(0, sizeof *a, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	nowhere = mmap(0, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	a->name.sin_port = a->name6.sin6_port = port;
	a->name6.sin6_family = AF_INET6;
	for (int i = 0; i < BATCH; i++)
		a->message[i].msg_hdr = (struct msghdr){&a->name, sizeof a->name, a->vector, 1};
	a->vector[1] = (struct iovec){a->data, 1};
	int own = socket(AF_INET6, SOCK_STREAM, 0); // which nobody replaces
	origin = cookie(own);
	close(own);
	struct sigaction action = {.sa_handler = interrupted};
	sigaction(SIGUSR1, &action, 0);
	signal(SIGPIPE, SIG_IGN);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

// list prints a line about a kind.
static void list(const struct kind *k)
{
	static const struct { int how; const char *what; } words[] = {
		{UNCONNECTED, "unconnected"}, {LINK, "link"},
		{ADDRESS, "changes the address"}, {FAMILY, "changes the family"}, {LENGTH, "changes the length"}, {POINTER, "changes the pointer"},
		{VECTOR, "changes the iovec"}, {FLAGS, "changes the flags"}, {DUP2, "dup2"}, {REOPEN, "close and reopen"},
		{SHUTDOWN | UNSPEC, "disconnects meanwhile"}, {PROCESS | SHARED, "CLONE_FILES"}, {VFORK, "vfork"}, {HANDED, "SCM_RIGHTS"},
	};
	const struct call *c = k->call;
	printf("%s", k->name);
	for (unsigned i = 0; i < sizeof words / sizeof *words; i++)
		if (k->how & words[i].how)
			printf("/%s", words[i].what);
	if (c->make == make_server)
		printf("/server");
	if (k->how & DUP2 && k->source != src_connected && k->source != src_peer)
		printf("/dup2 with a socket that is not connected");
	printf("/%s", c->make == make_fast || c->make == make_fastmsg || c->make == make_deferred ? "Fast Open" : c->protocol == IPPROTO_MPTCP ? "MPTCP" :
		c->family != AF_INET && c->family != AF_INET6 ? "other sockets and files" : c->type == SOCK_DGRAM ? "UDP" : "TCP");
	puts("");
}

int main(int argc, char **argv)
{
	for (k = kinds; k < kinds + sizeof kinds / sizeof *kinds; k++) {
		if (argc == 2 && makes_sense(k))
			list(k);
		if (argc > 9 && !strcmp(k->name, argv[1]))
			break;
	}
	if (argc <= 9)
		return argc != 2;
	if (k == kinds + sizeof kinds / sizeof *kinds)
		die("no such kind");
	double seconds = atof(argv[2]);
	long most = atol(argv[3]);
	alarm(30 + (int)seconds); // a call that never ends fails the test
	prepare(argv + 4);
	if (!(k->how & FIRST)) { // it goes on as with any other program that has been there for a while
		close(src_refused(0));
		close(src_datagram(0));
	}
	pid_t hander = k->how & HANDED ? start_handing(k->source) : 0;
	unsigned number = getpid(); // programs that are there for one round only begin with various ones
	double end = now() + seconds;
	do
		play(number++);
	while (!(k->how & FIRST) && now() < end && (!most || a->tries < most));
	if (hander) {
		kill(hander, SIGKILL);
		waitpid(hander, 0, 0);
	}
	printf("tries %ld\nreached %ld\n", a->tries, a->reached);
	for (int i = 0; i < 200; i++)
		if (a->outcomes[i])
			printf("%s %ld\n", i ? strerrorname_np(i) : "success", a->outcomes[i]);
	puts("end");
	return 0;
}
