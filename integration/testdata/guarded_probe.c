// guarded_probe HOST PORT
//
// A program of two threads, one of which has sent a datagram to HOST. The other one sends with
// sendmsg(2) and its like on streams, Unix sockets and others, binds Unix sockets, and says how each
// call came out. All but the datagram goes to sockets of its own. It runs in a directory that it may
// write, which is its root directory in the end, if it may have another. The last lines are who
// makes the sends, and "end".
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define BULK (8 << 20)

static void say(const char *what, long result)
{
	if (result < 0)
		printf("%s: %s\n", what, strerrorname_np(errno));
	else
		printf("%s: %ld\n", what, result);
	fflush(stdout);
}

static void must(int ok, const char *what)
{
	if (!ok) {
		say(what, -1);
		exit(3);
	}
}

static pid_t caught_by;
static siginfo_t caught;
static atomic_int signals;

static void catch(int signal, siginfo_t *info, void *unused)
{
	caught = *info;
	caught_by = syscall(SYS_gettid);
	signals++;
}

static void handle(int signal, int flags)
{
	struct sigaction action = {.sa_sigaction = catch, .sa_flags = SA_SIGINFO | flags};
	sigaction(signal, &action, 0);
	signals = 0;
}

static void tcp_pair(int pair[2])
{
	struct sockaddr_in name = {AF_INET, 0, {htonl(INADDR_LOOPBACK)}};
	socklen_t length = sizeof name;
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	must(!bind(listener, (void *)&name, sizeof name) && !listen(listener, 1) && !getsockname(listener, (void *)&name, &length), "listen");
	pair[0] = socket(AF_INET, SOCK_STREAM, 0);
	must(!connect(pair[0], (void *)&name, sizeof name), "connect");
	pair[1] = accept(listener, 0, 0);
	close(listener);
}

static void unix_pair(int type, int pair[2]) { must(!socketpair(AF_UNIX, type, 0, pair), "socketpair"); }

static void close_pair(int pair[2])
{
	close(pair[0]);
	close(pair[1]);
}

static long send_one(int fd, const void *data, size_t length, int flags)
{
	struct iovec vector = {(void *)data, length};
	struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
	return sendmsg(fd, &message, flags);
}

static char big[BULK];

// Bulk data, in messages of many vectors, to a reader that is slow now and then.

static uint64_t hash(uint64_t sum, const char *data, size_t length)
{
	for (size_t i = 0; i < length; i++)
		sum = (sum ^ (uint8_t)data[i]) * 1099511628211;
	return sum;
}

struct reader {
	int fd;
	uint64_t sum;
	size_t total;
};

static void *read_all(void *of)
{
	struct reader *r = of;
	static char data[1 << 16];
	ssize_t n;
	for (int i = 0; (n = recv(r->fd, data, 1 + (i * 7919) % sizeof data, 0)) > 0; i++) {
		r->sum = hash(r->sum, data, n);
		r->total += n;
		if (i % 50 == 0)
			usleep(500);
	}
	return 0;
}

static void bulk(const char *what, int pair[2])
{
	struct reader r = {pair[1]};
	pthread_t thread;
	pthread_create(&thread, 0, read_all, &r);
	size_t sent = 0;
	long shorts = 0;
	for (int i = 0; sent < sizeof big; i++) {
		struct iovec vectors[40];
		struct msghdr message = {.msg_iov = vectors, .msg_iovlen = 1 + i % 40};
		size_t length = 0;
		for (size_t j = 0; j < message.msg_iovlen; j++) {
			size_t part = 1 + (i * 104729 + j * 7919) % 50000;
			if (part > sizeof big - sent - length)
				part = sizeof big - sent - length;
			vectors[j] = (struct iovec){big + sent + length, part};
			length += part;
		}
		long n = sendmsg(pair[0], &message, 0);
		must(n > 0, what);
		shorts += (size_t)n < length;
		sent += n;
	}
	shutdown(pair[0], SHUT_WR);
	pthread_join(thread, 0);
	printf("%s: %s, %ld were short\n", what, r.total == sizeof big && r.sum == hash(0, big, sizeof big) ? "all as sent" : "it differs", shorts);
	close_pair(pair);
}

// Sends that nobody takes, until something ends them.

// fill sends until there is no more room, also a while later.
static void fill(int fd)
{
	for (int full = 0; full < 4; full++) {
		while (send_one(fd, big, 65536, MSG_DONTWAIT) > 0)
			full = 0;
		usleep(3000);
	}
}

// ended says how a send has come out for which there was no room. TCP may find some later: its
// window opens when a timer says so.
static void ended(const char *what, long n)
{
	if (!strncmp(what, "tcp", 3))
		printf("%s: %s\n", what, n == BULK ? "all" : n > 0 || errno == EAGAIN || errno == EINTR ? "no room" : strerrorname_np(errno));
	else
		say(what, n);
}

static void ends(const char *what, int pair[2])
{
	struct itimerval soon = {.it_value.tv_usec = 20000};
	struct timeval little = {.tv_usec = 30000};
	char text[100];
	handle(SIGALRM, 0);
	setitimer(ITIMER_REAL, &soon, 0);
	snprintf(text, sizeof text, "%s, a signal after some is sent", what);
	long n = send_one(pair[0], big, sizeof big, 0);
	say(text, n > 0 && n < BULK ? 1 : n);
	fill(pair[0]);
	setitimer(ITIMER_REAL, &soon, 0);
	snprintf(text, sizeof text, "%s, a signal before", what);
	ended(text, send_one(pair[0], big, sizeof big, 0));
	snprintf(text, sizeof text, "%s, MSG_DONTWAIT", what);
	ended(text, send_one(pair[0], big, sizeof big, MSG_DONTWAIT));
	setsockopt(pair[0], SOL_SOCKET, SO_SNDTIMEO, &little, sizeof little);
	snprintf(text, sizeof text, "%s, SO_SNDTIMEO", what);
	ended(text, send_one(pair[0], big, sizeof big, 0));
	fcntl(pair[0], F_SETFL, O_NONBLOCK);
	snprintf(text, sizeof text, "%s, O_NONBLOCK", what);
	ended(text, send_one(pair[0], big, sizeof big, 0));
	struct iovec vector = {big, 10};
	struct mmsghdr batch[2] = {{.msg_hdr = {.msg_iov = &vector, .msg_iovlen = 1}}, {.msg_hdr = {.msg_iov = &vector, .msg_iovlen = 1}}};
	snprintf(text, sizeof text, "%s, sendmmsg", what);
	ended(text, sendmmsg(pair[0], batch, 2, 0));
	while (recv(pair[1], big, sizeof big / 2, MSG_DONTWAIT) > 0)
		;
	usleep(10000);
	n = send_one(pair[0], big, sizeof big, 0);
	snprintf(text, sizeof text, "%s, some of it at once", what);
	say(text, n > 0 && n < BULK ? 1 : n);
	close_pair(pair);
}

// A signal handler with SA_RESTART, and then somebody reads.
static void *later(void *of)
{
	struct reader *r = of;
	usleep(20000);
	kill(getpid(), SIGALRM);
	while (!signals) // upconv may learn of it a little later
		usleep(1000);
	usleep(5000);
	return read_all(r);
}

static void restarts(const char *what, int pair[2])
{
	struct reader r = {pair[1]};
	pthread_t thread;
	sigset_t alarms;
	handle(SIGALRM, SA_RESTART);
	fill(pair[0]);
	sigemptyset(&alarms);
	sigaddset(&alarms, SIGALRM);
	pthread_sigmask(SIG_BLOCK, &alarms, 0); // the reader shall not take it
	pthread_create(&thread, 0, later, &r);
	pthread_sigmask(SIG_UNBLOCK, &alarms, 0);
	long n = send_one(pair[0], big, 3 << 20, 0);
	printf("%s, SA_RESTART: %ld, %d signals\n", what, n, signals);
	shutdown(pair[0], SHUT_WR);
	pthread_join(thread, 0);
	close_pair(pair);
}

static void broken(const char *what, int pair[2])
{
	handle(SIGPIPE, 0);
	shutdown(pair[0], SHUT_WR);
	struct iovec vector = {big, 10};
	struct mmsghdr batch[2] = {{.msg_hdr = {.msg_iov = &vector, .msg_iovlen = 1}}, {.msg_hdr = {.msg_iov = &vector, .msg_iovlen = 1}}};
	long n = send_one(pair[0], "x", 1, 0);
	int error = errno, came = signals;
	printf("%s: %ld %s, %d signals, to this thread: %d\n", what, n, strerrorname_np(error), came, caught_by == syscall(SYS_gettid));
	n = send_one(pair[0], "x", 1, MSG_NOSIGNAL);
	error = errno;
	printf("%s, MSG_NOSIGNAL: %ld %s, %d signals\n", what, n, strerrorname_np(error), signals);
	n = sendmmsg(pair[0], batch, 2, 0);
	error = errno;
	printf("%s, sendmmsg: %ld %s, %d signals\n", what, n, strerrorname_np(error), signals);
	close_pair(pair);
}

// Descriptors and credentials.

static long pass(int fd, const int *numbers, int count, const struct sockaddr *name, socklen_t length)
{
	char control[CMSG_SPACE(300 * sizeof(int))] = {0};
	struct iovec vector = {"x", 1};
	struct msghdr message = {(void *)name, length, &vector, 1, control, CMSG_SPACE(count * sizeof(int)), 0};
	*(struct cmsghdr *)control = (struct cmsghdr){CMSG_LEN(count * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
	memcpy(CMSG_DATA((struct cmsghdr *)control), numbers, count * sizeof(int));
	return sendmsg(fd, &message, 0);
}

static int taken(int fd, const int *numbers)
{
	char byte, control[CMSG_SPACE(300 * sizeof(int))];
	struct iovec vector = {&byte, 1};
	struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	int same = 0;
	must(recvmsg(fd, &message, MSG_DONTWAIT) == 1, "recvmsg");
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
		int count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int), own[300];
		memcpy(own, CMSG_DATA(c), count * sizeof(int));
		for (int i = 0; i < count; i++) {
			struct stat a, b;
			same += !fstat(own[i], &a) && !fstat(numbers[i], &b) && a.st_ino == b.st_ino && a.st_dev == b.st_dev;
			close(own[i]);
		}
	}
	return same;
}

static int open_files(void)
{
	int count = 0;
	for (int fd = 0; fd < 1024; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

static void rights(const char *what, int type)
{
	int pair[2], numbers[300], before = open_files();
	char text[100];
	unix_pair(type, pair);
	for (int i = 0; i < 5; i++)
		numbers[i] = i % 2 ? socket(AF_INET, SOCK_DGRAM, 0) : memfd_create("x", 0);
	numbers[5] = open("/", O_PATH);
	snprintf(text, sizeof text, "%s, SCM_RIGHTS", what);
	say(text, pass(pair[0], numbers, 6, 0, 0));
	say(text, taken(pair[1], numbers));
	for (int i = 6; i < 300; i++)
		numbers[i] = numbers[i % 6];
	say(text, pass(pair[0], numbers, 253, 0, 0));
	say(text, taken(pair[1], numbers));
	say(text, pass(pair[0], numbers, 254, 0, 0));
	for (int i = 0; i < 6; i++)
		close(numbers[i]);
	say(text, pass(pair[0], numbers, 6, 0, 0));
	close_pair(pair);
	printf("%s, open files: %d\n", what, open_files() - before);
}

static long claim(int fd, int pid, int uid, int gid)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(struct ucred))];
	} control = {{CMSG_LEN(sizeof(struct ucred)), SOL_SOCKET, SCM_CREDENTIALS}};
	struct iovec vector = {"x", 1};
	struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	struct ucred says = {pid, uid, gid};
	memcpy(CMSG_DATA(&control.header), &says, sizeof says);
	return sendmsg(fd, &message, 0);
}

static void who(const char *what, int fd)
{
	char byte, control[CMSG_SPACE(sizeof(struct ucred))];
	struct iovec vector = {&byte, 1};
	struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct ucred said = {0};
	must(recvmsg(fd, &message, MSG_DONTWAIT) == 1 && CMSG_FIRSTHDR(&message), "recvmsg");
	memcpy(&said, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof said);
	// Only a privileged upconv can say who the process is.
	printf("%s: %s, user %d, group %d\n", what, said.pid == getpid() || getuid() ? "its process" : "another process", said.uid == getuid(), said.gid == getgid());
}

static void senders(const char *what, int type)
{
	int pair[2], on = 1;
	char text[100];
	unix_pair(type, pair);
	setsockopt(pair[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
	snprintf(text, sizeof text, "%s, SO_PASSCRED", what);
	say(text, send_one(pair[0], "x", 1, 0));
	who(text, pair[1]);
	snprintf(text, sizeof text, "%s, SCM_CREDENTIALS", what);
	say(text, claim(pair[0], getpid(), getuid(), getgid()));
	who(text, pair[1]);
	if (getuid())
		say(text, claim(pair[0], getppid(), getuid(), getgid()));
	close_pair(pair);
}

// Unix sockets with names.

static socklen_t unix_name(struct sockaddr_un *name, const char *path)
{
	*name = (struct sockaddr_un){AF_UNIX};
	strcpy(name->sun_path, path);
	if (path[0] != '@')
		return sizeof *name;
	name->sun_path[0] = 0;
	return 2 + strlen(path);
}

static void *drain(void *fd)
{
	static char data[70000];
	usleep(20000);
	while (recv(*(int *)fd, data, sizeof data, 0) > 0)
		;
	return 0;
}

// bound says what bind(2) has made.
static void bound(const char *path, int fd)
{
	struct sockaddr_un name = {0};
	struct stat file;
	socklen_t length = sizeof name;
	getsockname(fd, (void *)&name, &length);
	int begin = !strncmp(name.sun_path, "/proc/", 6) ? strcspn(name.sun_path + 6, "/") + 6 : 0; // whose, is not told
	printf("its name is %s, of %d bytes\n", name.sun_path + begin + !name.sun_path[0], begin ? 0 : length);
	if (path[0] != '@' && !stat(path, &file))
		printf("its file is %o, of its user: %d, and group: %d\n", file.st_mode, file.st_uid == geteuid(), file.st_gid == getegid());
}

// others binds what cannot be bound, or not by everybody.
static void others(void)
{
	static const char *paths[] = {"/guarded.sock", "none/guarded.sock", "guarded.sock/x", "."};
	struct sockaddr_un name;
	struct sockaddr_nl groups = {AF_NETLINK, 0, 0, 1};
	char room[20] = {0};
	for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
		int fd = socket(AF_UNIX, SOCK_STREAM, 0);
		socklen_t length = unix_name(&name, paths[i]);
		if (i > 0 || getuid())
			say(paths[i], bind(fd, (void *)&name, length));
		close(fd);
	}
	int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
	memcpy(room, &groups, sizeof groups);
	say("bind of netlink", bind(fd, (void *)room, sizeof room));
	close(fd);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	struct sockaddr_in inet = {AF_INET};
	say("bind to another family", bind(fd, (void *)&inet, sizeof inet));
	say("bind to nowhere", bind(fd, (void *)16, sizeof inet));
	say("bind of 200 bytes", bind(fd, (void *)big, 200));
	close(fd);
	say("bind of a file", bind(0, (void *)&inet, sizeof inet));
}

static void named(const char *path)
{
	struct sockaddr_un name;
	char text[100];
	socklen_t length = unix_name(&name, path);
	int to = socket(AF_UNIX, SOCK_DGRAM, 0), from = socket(AF_UNIX, SOCK_DGRAM, 0);
	struct iovec vector = {"hello", 5};
	struct msghdr message = {&name, length, &vector, 1};
	unlink(path);
	umask(path[0] == '.' ? 077 : 026);
	snprintf(text, sizeof text, "bind to %s", path);
	say(text, bind(to, (void *)&name, length));
	bound(path, to);
	say(text, bind(to, (void *)&name, length));
	say(text, bind(from, (void *)&name, length));
	say(text, listen(to, 1));
	if (path[0] != '@') {
		chmod(path, 0); // which is nothing to root
		snprintf(text, sizeof text, "to %s, which may not be written", path);
		say(text, sendmsg(from, &message, 0));
		recv(to, big, 5, MSG_DONTWAIT);
		chmod(path, 0700);
	}
	snprintf(text, sizeof text, "to %s", path);
	say(text, sendmsg(from, &message, 0));
	say(text, sendto(from, "hello", 5, 0, (void *)&name, length));
	say(text, recv(to, big, sizeof big, MSG_DONTWAIT) + recv(to, big, sizeof big, MSG_DONTWAIT));
	snprintf(text, sizeof text, "to %s, until there is no room", path);
	while (sendmsg(from, &message, MSG_DONTWAIT) > 0)
		;
	say(text, -1);
	snprintf(text, sizeof text, "to %s, when there is room", path);
	pthread_t thread;
	pthread_create(&thread, 0, drain, &to);
	say(text, sendmsg(from, &message, 0));
	snprintf(text, sizeof text, "to %s, too long", path);
	int little = 8192;
	setsockopt(from, SOL_SOCKET, SO_SNDBUF, &little, sizeof little);
	say(text, sendto(from, big, 100000, 0, (void *)&name, length));
	shutdown(to, SHUT_RD);
	pthread_join(thread, 0);
	snprintf(text, sizeof text, "to %s, shut down", path);
	say(text, sendmsg(from, &message, 0));
	close(to);
	snprintf(text, sizeof text, "to %s, nobody is there", path);
	say(text, sendmsg(from, &message, 0));
	unlink(path);
	snprintf(text, sizeof text, "to %s, which is not there", path);
	say(text, sendmsg(from, &message, 0));
	close(from);
}

static void whole_messages(void)
{
	int pair[2], size = 3000;
	struct iovec vectors[2] = {{big, 1000}, {big + 500, 234}};
	struct mmsghdr batch[5];
	unix_pair(SOCK_SEQPACKET, pair);
	for (int i = 0; i < 5; i++)
		batch[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = vectors, .msg_iovlen = 1 + i % 2}};
	say("seqpacket, sendmmsg", sendmmsg(pair[0], batch, 5, 0));
	for (int i = 0; i < 5; i++) {
		printf("sent %u, ", batch[i].msg_len);
		say("received", recv(pair[1], big, sizeof big, MSG_DONTWAIT));
	}
	setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
	say("seqpacket, too long", send_one(pair[0], big, 1 << 20, 0));
	say("seqpacket, MSG_EOR", send_one(pair[0], big, 10, MSG_EOR));
	close_pair(pair);
}

static void wrong(const char *what, int fd)
{
	struct sockaddr_in to = {AF_INET, htons(9), {htonl(INADDR_LOOPBACK)}};
	struct iovec vector = {"x", 1}, nowhere = {(void *)16, 100}, negative = {big, -1L};
	static struct iovec many[1025];
	struct msghdr messages[] = {
		{&to, sizeof to, &vector, 1}, {0, 0, &nowhere, 1}, {0, 0, &negative, 1}, {0, 0, many, 1025}, {0, 0, (void *)16, 2},
		{(void *)16, 16, &vector, 1}, {&to, -1, &vector, 1}, {0, 0, &vector, 1, (void *)16, 64}, {0, 0, 0, 0}, {&to, sizeof to, 0, 0},
	};
	for (size_t i = 0; i < sizeof messages / sizeof *messages; i++) {
		char text[100];
		snprintf(text, sizeof text, "%s, wrong %zu", what, i);
		say(text, sendmsg(fd, &messages[i], MSG_DONTWAIT));
	}
	printf("%s: ", what);
	say("no header", sendmsg(fd, (void *)16, 0));
	printf("%s: ", what);
	say("an address", sendto(fd, "x", 1, MSG_DONTWAIT, (void *)&to, sizeof to));
	printf("%s: ", what);
	say("no messages", sendmmsg(fd, 0, 0, 0));
}

static void wrong_ones(void)
{
	int pair[2], file = open("/dev/null", O_RDWR), path = open("/", O_PATH);
	tcp_pair(pair);
	wrong("tcp", pair[0]);
	close_pair(pair);
	unix_pair(SOCK_STREAM, pair);
	wrong("stream", pair[0]);
	close_pair(pair);
	unix_pair(SOCK_SEQPACKET, pair);
	wrong("seqpacket", pair[0]);
	close_pair(pair);
	pair[0] = socket(AF_UNIX, SOCK_STREAM, 0);
	wrong("stream that is not connected", pair[0]);
	close(pair[0]);
	pair[0] = socket(AF_INET, SOCK_STREAM, 0);
	handle(SIGPIPE, 0);
	wrong("tcp that is not connected", pair[0]);
	close(pair[0]);
	wrong("file", file);
	wrong("path", path);
	wrong("none", 900);
}

static void urgent(void)
{
	int pair[2], mark = 0;
	char byte = 0;
	tcp_pair(pair);
	say("MSG_MORE", send_one(pair[0], "ab", 2, MSG_MORE));
	say("MSG_OOB", send_one(pair[0], "cd", 2, MSG_OOB));
	say("before the mark", recv(pair[1], big, 100, MSG_WAITALL));
	ioctl(pair[1], SIOCATMARK, &mark);
	say("at the mark", mark);
	say("urgent", recv(pair[1], &byte, 1, MSG_OOB) == 1 ? byte : -1);
	close_pair(pair);
}

// A connection that begins with what is sent.
static void deferred(void)
{
	struct sockaddr_in name = {AF_INET, 0, {htonl(INADDR_LOOPBACK)}};
	socklen_t length = sizeof name;
	int listener = socket(AF_INET, SOCK_STREAM, 0), fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	must(!bind(listener, (void *)&name, sizeof name) && !listen(listener, 1) && !getsockname(listener, (void *)&name, &length), "listen");
	setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &one, sizeof one);
	say("TCP_FASTOPEN_CONNECT", connect(fd, (void *)&name, sizeof name));
	say("what is sent then", send_one(fd, "hello", 5, 0));
	int peer = accept(listener, 0, 0);
	say("what comes", recv(peer, big, 100, MSG_WAITALL | (shutdown(fd, SHUT_WR) ? MSG_DONTWAIT : 0)));
	close(peer);
	close(fd);
	close(listener);
}

static void netlink(void)
{
	struct sockaddr_nl kernel = {AF_NETLINK};
	char room[20];
	struct {
		struct nlmsghdr header;
		struct ifinfomsg what;
	} ask = {{sizeof ask, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 1}};
	struct iovec vector = {&ask, sizeof ask};
	struct msghdr message = {&kernel, sizeof kernel, &vector, 1};
	int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
	say("netlink", sendmsg(fd, &message, 0));
	struct nlmsghdr *answer = (void *)big;
	must(recv(fd, big, sizeof big, 0) > 0, "recv");
	printf("netlink answers %d\n", answer->nlmsg_type);
	struct iovec halves[2] = {{&ask, 10}, {(char *)&ask + 10, sizeof ask - 10}};
	struct mmsghdr batch[2] = {{{&kernel, sizeof kernel, halves, 2}}, {{0, 0, &vector, 1}}};
	say("netlink, two pieces", sendmsg(fd, &batch[0].msg_hdr, 0));
	while (recv(fd, big, sizeof big, MSG_DONTWAIT) > 0)
		;
	batch[0] = batch[1];
	say("netlink, sendmmsg", sendmmsg(fd, batch, 1, 0));
	printf("netlink has sent %u\n", batch[0].msg_len);
	kernel.nl_family = AF_INET;
	say("netlink, another family", sendmsg(fd, &message, 0));
	kernel = (struct sockaddr_nl){AF_NETLINK, 0, 77777};
	say("netlink, nobody", sendmsg(fd, &message, MSG_DONTWAIT));
	message.msg_namelen = 5;
	say("netlink, a short name", sendmsg(fd, &message, 0));
	kernel.nl_pid = 0;
	memcpy(room, &kernel, sizeof kernel);
	say("netlink, a long name", sendto(fd, &ask, sizeof ask, 0, (void *)room, sizeof room));
	say("netlink, nowhere", send_one(fd, (void *)16, 32, 0));
	close(fd);
}

static int wait_here[2];

static void *idle(void *unused)
{
	char byte;
	while (read(wait_here[0], &byte, 1) < 0)
		;
	return unused;
}

int main(int argc, char **argv)
{
	struct sockaddr_in to = {AF_INET};
	int pair[2];
	pthread_t thread;
	sigset_t alarms;
	must(argc == 3 && inet_pton(AF_INET, argv[1], &to.sin_addr), "arguments");
	to.sin_port = htons(atoi(argv[2]));
	for (size_t i = 0; i < sizeof big; i++)
		big[i] = i * 2654435761u >> 13;
	must(!pipe(wait_here), "pipe");
	sigfillset(&alarms);
	pthread_sigmask(SIG_BLOCK, &alarms, 0);
	pthread_create(&thread, 0, idle, 0);
	pthread_sigmask(SIG_UNBLOCK, &alarms, 0);
	int moved = socket(AF_INET, SOCK_DGRAM, 0);
	must(sendto(moved, "x", 1, 0, (void *)&to, sizeof to) == 1, "sendto");

	tcp_pair(pair);
	bulk("bulk, tcp", pair);
	unix_pair(SOCK_STREAM, pair);
	bulk("bulk, unix", pair);
	tcp_pair(pair);
	ends("tcp", pair);
	unix_pair(SOCK_STREAM, pair);
	ends("unix", pair);
	unix_pair(SOCK_STREAM, pair);
	restarts("unix", pair);
	tcp_pair(pair);
	broken("broken tcp", pair);
	unix_pair(SOCK_STREAM, pair);
	broken("broken stream", pair);
	unix_pair(SOCK_SEQPACKET, pair);
	broken("broken seqpacket", pair);
	rights("stream", SOCK_STREAM);
	rights("datagram", SOCK_DGRAM);
	senders("stream", SOCK_STREAM);
	senders("datagram", SOCK_DGRAM);
	named("guarded.sock");
	named("./guarded.sock");
	named("/proc/self/cwd/guarded.sock");
	named("@guarded");
	others();
	whole_messages();
	wrong_ones();
	urgent();
	deferred();
	netlink();
	if (getuid() == 0 && !chroot(".")) {
		named("/guarded.sock");
		chdir("/");
		named("guarded.sock");
	}
	handle(SIGPIPE, 0);
	unix_pair(SOCK_STREAM, pair);
	close(pair[1]);
	send_one(pair[0], "x", 1, 0);
	printf("sends are made by %s\n", caught.si_code == SI_TKILL ? "another" : "the kernel");
	puts("end");
	return 0;
}
