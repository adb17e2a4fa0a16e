// udp_probe CASE ADDRESS PORT OTHER-PORT CLOSED-PORT [ARG...]: datagrams. At PORT and OTHER-PORT is the server of udpEcho in
// udp_test.go, which answers according to the first word; at CLOSED-PORT nobody is. See swap.h. Compiled with -m32
// -DSOCKETCALL, every call goes by socketcall(2).
#include "swap.h"
#include <linux/errqueue.h>
#include <stdarg.h>
#include <net/if.h>
#include <netinet/udp.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/un.h>

#ifdef SOCKETCALL
static long by(int call, ...) {
	long args[6];
	va_list list;
	va_start(list, call);
	for (int i = 0; i < 6; i++)
		args[i] = va_arg(list, long); // all are of 32 bits
	va_end(list);
	return syscall(SYS_socketcall, call, args);
}
#define connect(fd, sa, length) ((int)by(3, fd, sa, length, 0, 0, 0))
#define getsockname(fd, sa, length) ((int)by(6, fd, sa, length, 0, 0, 0))
#define getpeername(fd, sa, length) ((int)by(7, fd, sa, length, 0, 0, 0))
#define send(fd, data, size, flags) by(9, fd, data, size, flags, 0, 0)
#define recv(fd, data, size, flags) by(10, fd, data, size, flags, 0, 0)
#define sendto(fd, data, size, flags, sa, length) by(11, fd, data, size, flags, sa, length)
#define recvfrom(fd, data, size, flags, sa, length) by(12, fd, data, size, flags, sa, length)
#define sendmsg(fd, msg, flags) by(16, fd, msg, flags, 0, 0, 0)
#define recvmsg(fd, msg, flags) by(17, fd, msg, flags, 0, 0, 0)
#define recvmmsg(fd, msgs, count, flags, timeout) ((int)by(19, fd, msgs, count, flags, timeout, 0))
#define sendmmsg(fd, msgs, count, flags) ((int)by(20, fd, msgs, count, flags, 0, 0))
#endif

static struct sockaddr_in other, closed_port;
static char **extra;
static int extras;

static int udp(int flags) {
	int fd = socket(AF_INET, SOCK_DGRAM | flags, 0);
	if (fd < 0)
		die("socket");
	return fd;
}

static struct sockaddr_in6 mapped(struct sockaddr_in *sa) {
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = sa->sin_port};
	six.sin6_addr.s6_addr[10] = six.sin6_addr.s6_addr[11] = 0xff;
	memcpy(&six.sin6_addr.s6_addr[12], &sa->sin_addr, 4);
	return six;
}

// who says in words whose address it is. Ports of the kernel's choice are not told.
static const char *who(void *address, socklen_t length) {
	static char text[200];
	struct sockaddr_in *four = address, copy;
	struct sockaddr_in6 *six = address;
	const char *prefix = "", *suffix = "";
	if (length == 0)
		return "nobody";
	if (four->sin_family == AF_INET6 && length == sizeof *six) {
		char plain[INET6_ADDRSTRLEN];
		if (!IN6_IS_ADDR_V4MAPPED(&six->sin6_addr)) {
			sprintf(text, "[%s]", inet_ntop(AF_INET6, &six->sin6_addr, plain, sizeof plain));
			return text;
		}
		copy = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = six->sin6_port};
		memcpy(&copy.sin_addr, &six->sin6_addr.s6_addr[12], 4);
		four = &copy;
		prefix = "::ffff:";
	} else if (four->sin_family != AF_INET || length != sizeof *four) {
		sprintf(text, "family %d length %d", four->sin_family, (int)length);
		return text;
	}
	if (four->sin_addr.s_addr == dst.sin_addr.s_addr)
		suffix = four->sin_port == dst.sin_port ? " the server" : four->sin_port == other.sin_port ? " the other" :
			four->sin_port == closed_port.sin_port ? " the closed port" : " another port";
	sprintf(text, "%s%s%s%s", prefix, inet_ntoa(four->sin_addr), suffix, four->sin_port ? "" : " port 0");
	for (int i = 0; i < (int)sizeof four->sin_zero; i++)
		if (four->sin_zero[i])
			strcat(text, " with rubbish in sin_zero");
	return text;
}

static long to(int fd, struct sockaddr_in *sa, const char *text) {
	return sendto(fd, text, strlen(text), 0, (struct sockaddr *)sa, sizeof *sa);
}

// saying prints the result of sending a text.
static long saying(int fd, struct sockaddr_in *sa, const char *text) {
	char what[300];
	snprintf(what, sizeof what, "send \"%s\"", text);
	return result(what, to(fd, sa, text));
}

static int patience = 10000; // in milliseconds

// comes waits for something to receive. Whoever waits in vain too often gives up.
static int comes(int fd) {
	static int vain;
	struct pollfd p = {fd, POLLIN, 0};
	if (poll(&p, 1, patience) > 0)
		return 1;
	if (++vain == 3) {
		puts("gives up");
		exit(3);
	}
	return 0;
}

// got prints what comes, or that nothing does.
static int got(const char *what, int fd) {
	static char data[70000];
	struct sockaddr_storage from;
	socklen_t length = sizeof from;
	if (!comes(fd)) {
		printf("%s: nothing comes\n", what);
		return -1;
	}
	memset(&from, 0xaa, sizeof from);
	long n = recvfrom(fd, data, sizeof data, MSG_DONTWAIT, (struct sockaddr *)&from, &length);
	if (n < 0) {
		result(what, n);
		return -1;
	}
	printf("%s: %ld bytes from %s: \"%.*s\"\n", what, n, who(&from, length), n > 60 ? 60 : (int)n, data);
	return n;
}

// gather prints so many datagrams from several ports, which can come in any order.
static void gather(const char *what, int fd, int count) {
	static char lines[8][120];
	int n = 0;
	for (; n < count && n < 8; n++) {
		char data[50];
		struct sockaddr_storage from;
		socklen_t length = sizeof from;
		if (!comes(fd))
			break;
		long size = recvfrom(fd, data, sizeof data, MSG_DONTWAIT, (struct sockaddr *)&from, &length);
		snprintf(lines[n], sizeof lines[n], "  \"%.*s\" from %s", size < 0 ? 0 : (int)size, data, who(&from, length));
	}
	qsort(lines, n, sizeof lines[0], (int (*)(const void *, const void *))strcmp);
	printf("%s: %d of %d\n", what, n, count);
	for (int i = 0; i < n; i++)
		puts(lines[i]);
}

// nothing_more sees that there is not a datagram that should not be there.
static void nothing_more(int fd) {
	char data[100];
	long n = recv(fd, data, sizeof data, MSG_DONTWAIT);
	if (n < 0)
		result("and then", n);
	else
		printf("and then: %ld bytes \"%.*s\"\n", n, (int)n, data);
}

// settle waits until the server has answered what was sent to it: it answers everybody in order.
static void settle(void) {
	int fd = udp(0);
	to(fd, &dst, "echo");
	if (wait_for(fd, POLLIN) != POLLIN)
		printf("the server does not answer\n");
	close(fd);
}

static void names(int fd) {
	struct sockaddr_storage ss;
	socklen_t length = sizeof ss;
	int r = getsockname(fd, (struct sockaddr *)&ss, &length);
	if (r)
		result("getsockname", r);
	else
		printf("getsockname: %s\n", who(&ss, length));
	length = sizeof ss;
	r = getpeername(fd, (struct sockaddr *)&ss, &length);
	if (r)
		result("getpeername", r);
	else
		printf("getpeername: %s\n", who(&ss, length));
}

static int port_of(int fd) {
	struct sockaddr_in sa = {0};
	socklen_t length = sizeof sa;
	getsockname(fd, (struct sockaddr *)&sa, &length);
	return ntohs(sa.sin_port);
}

// local makes a socket at 127.0.0.1, to send to.
static int local(struct sockaddr_in *sa) {
	socklen_t length = sizeof *sa;
	int fd = udp(0);
	*sa = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	if (bind(fd, (struct sockaddr *)sa, sizeof *sa) || getsockname(fd, (struct sockaddr *)sa, &length))
		die("bind to 127.0.0.1");
	return fd;
}

// bounce has the socket of local answer one datagram.
static void bounce(int fd, const char *text) {
	struct sockaddr_in from;
	socklen_t length = sizeof from;
	char data[100];
	if (!comes(fd)) {
		printf("at 127.0.0.1: nothing comes\n");
		return;
	}
	long n = recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&from, &length);
	printf("at 127.0.0.1: \"%.*s\" from %s\n", n < 0 ? 0 : (int)n, data, who(&from, length));
	if (text)
		to(fd, &from, text);
}

static void connected(void) {
	char data[100];
	int fd = udp(0);
	names(fd);
	result("connect", conn_to(fd, &dst));
	names(fd);
	result("send", send(fd, "echo 1", 6, 0));
	long n = recv(fd, data, sizeof data, 0);
	printf("recv: %.*s\n", (int)n, data);
	result("write", write(fd, "echo 2", 6));
	n = read(fd, data, sizeof data);
	printf("read: %.*s\n", (int)n, data);
	result("sendto nobody", sendto(fd, "echo 3", 6, 0, NULL, 0));
	got("recvfrom", fd);
	saying(fd, &dst, "echo to the same address");
	got("recvfrom", fd);
	struct iovec part = {"echo 4", 6};
	struct msghdr msg = {.msg_iov = &part, .msg_iovlen = 1};
	result("sendmsg", sendmsg(fd, &msg, 0));
	got("recvfrom", fd);
	saying(fd, &other, "log to another address");
	saying(fd, &dst, "report 1");
	got("recvfrom", fd);
	result("connect elsewhere", conn_to(fd, &other));
	names(fd);
	result("send", send(fd, "echo 5", 6, 0));
	got("recvfrom", fd);
	nothing_more(fd);
}

static void unconnected(void) {
	struct sockaddr_storage from;
	socklen_t length = sizeof from;
	char data[100];
	int fd = udp(0);
	printf("port: %s\n", port_of(fd) ? "some" : "none");
	saying(fd, &dst, "echo 1");
	int port = port_of(fd);
	printf("port: %s\n", port ? "some" : "none");
	names(fd);
	long n = recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&from, &length); // and waits in it
	printf("recvfrom: \"%.*s\" from %s\n", (int)n, data, who(&from, length));
	saying(fd, &other, "echo 2");
	got("recvfrom", fd);
	saying(fd, &dst, "elsewhere"); // answered by the other
	got("recvfrom", fd);
	saying(fd, &dst, "echo 3");
	n = recv(fd, data, sizeof data, 0);
	printf("recv: \"%.*s\"\n", (int)n, data);
	saying(fd, &dst, "echo 4");
	n = read(fd, data, sizeof data);
	printf("read: \"%.*s\"\n", (int)n, data);
	printf("the port is %s\n", port_of(fd) == port ? "the same" : "another");
	nothing_more(fd);
	result("connect", conn_to(fd, &dst));
	printf("the port is %s\n", port_of(fd) == port ? "the same" : "another");
	result("send", send(fd, "echo 5", 6, 0));
	got("recv", fd);
}

static void nonblocking(void) {
	int fd = udp(SOCK_NONBLOCK | SOCK_CLOEXEC);
	nothing_more(fd);
	saying(fd, &dst, "echo 1");
	printf("F_GETFL %o F_GETFD %d\n", fcntl(fd, F_GETFL), fcntl(fd, F_GETFD));
	got("recvfrom", fd);
	nothing_more(fd);
	int blocking = udp(0);
	result("MSG_DONTWAIT", sendto(blocking, "echo 2", 6, MSG_DONTWAIT | MSG_CONFIRM | MSG_NOSIGNAL, (struct sockaddr *)&dst, sizeof dst));
	got("recvfrom", blocking);
	nothing_more(blocking);
	printf("F_GETFL %o F_GETFD %d\n", fcntl(blocking, F_GETFL), fcntl(blocking, F_GETFD));
}

static void iovecs(void) {
	static struct iovec parts[1025];
	static char data[1025 * 3];
	struct msghdr msg = {.msg_name = &dst, .msg_namelen = sizeof dst, .msg_iov = parts};
	int counts[] = {1, 3, 8, 9, 1024, 1025, 0};
	memcpy(data, "len", 3);
	for (int i = 3; i < (int)sizeof data; i++)
		data[i] = 'a' + i % 26;
	for (int i = 0; i < 1025; i++)
		parts[i] = (struct iovec){data + 3 * i, 3};
	for (int again = 0; again < 2; again++) { // the first send, and one on a socket that has been there
		int fd = udp(0);
		for (int i = 0; i < 7; i++) {
			char what[50];
			if (!again) {
				close(fd);
				fd = udp(0);
			}
			msg.msg_iovlen = counts[i];
			sprintf(what, "%d parts", counts[i]);
			if (result(what, sendmsg(fd, &msg, 0)) >= 0)
				got(what, fd);
		}
		parts[1].iov_len = 0;
		parts[1].iov_base = NULL;
		msg.msg_iovlen = 3;
		if (result("an empty part", sendmsg(fd, &msg, 0)) > 0)
			got("an empty part", fd);
		parts[1].iov_base = (void *)1;
		parts[1].iov_len = 3;
		result("a bad part", sendmsg(fd, &msg, 0));
		parts[1].iov_len = -1;
		result("a part of negative length", sendmsg(fd, &msg, 0));
		parts[1] = (struct iovec){data + 3, 3};
		msg.msg_iov = (void *)1;
		result("a bad vector", sendmsg(fd, &msg, 0));
		msg.msg_iov = parts;
		result("a bad message", sendmsg(fd, (void *)1, 0));
		msg.msg_name = (void *)1;
		result("a bad name", sendmsg(fd, &msg, 0));
		msg.msg_name = &dst;
		for (int length = 0; length < 130; length += length == 15 ? 1 : length == 16 ? 112 : length == 128 ? 1 : 15) {
			struct sockaddr_storage long_name = {0};
			memcpy(&long_name, &dst, sizeof dst);
			char what[50];
			msg.msg_name = &long_name;
			msg.msg_namelen = length;
			sprintf(what, "a name of %d", length);
			if (result(what, sendmsg(fd, &msg, 0)) > 0)
				got(what, fd);
		}
		msg.msg_namelen = -1;
		result("a name of negative length", sendmsg(fd, &msg, 0));
		msg.msg_namelen = sizeof dst;
		msg.msg_name = &dst;
	}
}

static void several(void) {
	struct sockaddr_in here;
	int at = local(&here), fd = udp(0);
	struct iovec parts[] = {{"echo one", 8}, {"echo two", 8}, {"echo three", 10}, {"echo four", 9}};
	struct mmsghdr all[4] = {0};
	struct sockaddr_in *names[] = {&dst, &other, &dst, &other};
	for (int i = 0; i < 4; i++)
		all[i].msg_hdr = (struct msghdr){.msg_name = names[i], .msg_namelen = sizeof dst, .msg_iov = &parts[i], .msg_iovlen = 1};
	result("sendmmsg", sendmmsg(fd, all, 4, 0));
	for (int i = 0; i < 4; i++)
		printf("msg_len %u\n", all[i].msg_len);
	gather("answers", fd, 4);
	result("of none", sendmmsg(fd, all, 0, 0));
	for (int bad = 0; bad < 4; bad++) {
		if (bad) {
			close(fd);
			fd = udp(0);
		}
		for (int i = 0; i < 4; i++)
			all[i].msg_len = 99;
		all[bad].msg_hdr.msg_iov = (void *)1;
		int sent = result("with a bad pointer", sendmmsg(fd, all, 4, 0));
		for (int i = 0; i < 4; i++)
			printf("msg_len %u\n", all[i].msg_len);
		if (sent > 0)
			gather("answers", fd, sent);
		all[bad].msg_hdr.msg_iov = &parts[bad];
		nothing_more(fd);
	}
	close(fd);
	fd = udp(0);
	all[1].msg_hdr.msg_namelen = 3;
	int sent = result("with a short name", sendmmsg(fd, all, 4, 0));
	gather("answers", fd, sent);
	all[1].msg_hdr.msg_namelen = sizeof dst;
	all[2].msg_hdr.msg_name = NULL;
	all[2].msg_hdr.msg_namelen = 0;
	sent = result("without a name", sendmmsg(fd, all, 4, 0));
	gather("answers", fd, sent);
	result("with a bad vector of messages", sendmmsg(fd, (void *)1, 4, 0));
	all[2].msg_hdr.msg_name = &dst;
	all[2].msg_hdr.msg_namelen = sizeof dst;

	close(fd);
	fd = udp(0);
	all[1].msg_hdr.msg_name = all[3].msg_hdr.msg_name = &here;
	result("here and there", sendmmsg(fd, all, 4, 0));
	gather("answers", fd, 2);
	bounce(at, NULL);
	bounce(at, NULL);
	all[1].msg_hdr.msg_name = all[3].msg_hdr.msg_name = &other;

	static struct mmsghdr many[1100];
	struct iovec part = {"log", 3};
	for (int i = 0; i < 1100; i++)
		many[i].msg_hdr = (struct msghdr){.msg_name = i % 2 ? &other : &dst, .msg_namelen = sizeof dst, .msg_iov = &part, .msg_iovlen = 1};
	result("UIO_MAXIOV and more", sendmmsg(fd, many, 1100, 0));

	result("connect", conn_to(fd, &dst));
	for (int i = 0; i < 4; i++) {
		all[i].msg_hdr.msg_name = NULL;
		all[i].msg_hdr.msg_namelen = 0;
		all[i].msg_len = 0;
	}
	result("connected", sendmmsg(fd, all, 4, 0));
	for (int i = 0; i < 4; i++)
		printf("msg_len %u\n", all[i].msg_len);
	gather("answers", fd, 4);
}

static void more(void) {
	int fd = udp(0);
	result("MSG_MORE", sendto(fd, "len ", 4, MSG_MORE, (struct sockaddr *)&dst, sizeof dst));
	nothing_more(fd);
	saying(fd, &other, "and more"); // to the first address
	got("recvfrom", fd);
	nothing_more(fd);
	result("MSG_MORE", sendto(fd, "len 1", 5, MSG_MORE, (struct sockaddr *)&other, sizeof other));
	result("MSG_MORE", sendto(fd, "2", 1, MSG_MORE, NULL, 0));
	result("the last", sendto(fd, "3", 1, 0, NULL, 0));
	got("recvfrom", fd);
	close(fd);

	fd = udp(0);
	result("UDP_CORK", set(fd, IPPROTO_UDP, UDP_CORK, 1));
	saying(fd, &dst, "len ");
	saying(fd, &dst, "corked");
	nothing_more(fd);
	result("UDP_CORK", set(fd, IPPROTO_UDP, UDP_CORK, 0));
	got("recvfrom", fd);
	result("UDP_CORK", set(fd, IPPROTO_UDP, UDP_CORK, 1));
	saying(fd, &dst, "len ");
	saying(fd, &dst, "corked again");
	result("UDP_CORK", set(fd, IPPROTO_UDP, UDP_CORK, 0));
	got("recvfrom", fd);
	nothing_more(fd);
	close(fd);

	fd = udp(0);
	result("connect", conn_to(fd, &dst));
	result("MSG_MORE", send(fd, "len ", 4, MSG_MORE));
	struct iovec part = {"connected", 9};
	struct msghdr msg = {.msg_iov = &part, .msg_iovlen = 1};
	result("sendmsg", sendmsg(fd, &msg, 0));
	got("recvfrom", fd);
	close(fd);

	// What was begun is gone with the socket.
	fd = udp(0);
	result("MSG_MORE", sendto(fd, "log lost", 8, MSG_MORE, (struct sockaddr *)&dst, sizeof dst));
	close(fd);
	fd = udp(0);
	saying(fd, &dst, "report 0");
	got("recvfrom", fd);
}

// control sends a datagram with one control message.
static long control(int fd, struct sockaddr_in *sa, const char *text, int level, int type, void *data, size_t size, int length) {
	union {
		struct cmsghdr header;
		char space[256];
	} u = {0};
	struct iovec part = {(char *)text, strlen(text)};
	struct msghdr msg = {.msg_name = sa, .msg_namelen = sizeof *sa, .msg_iov = &part, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = CMSG_SPACE(size)};
	u.header.cmsg_level = level;
	u.header.cmsg_type = type;
	u.header.cmsg_len = length ? length : (int)CMSG_LEN(size);
	memcpy(CMSG_DATA(&u.header), data, size);
	return sendmsg(fd, &msg, 0);
}

// segments prints datagrams that come back from "len": they can come in any order.
static void segments(int fd, int count) {
	long sizes[1000] = {0};
	for (int i = 0; i < count; i++) {
		char data[100] = "";
		if (!comes(fd) || recv(fd, data, sizeof data - 1, 0) < 0) {
			printf("only %d came\n", i);
			return;
		}
		long size = -1;
		sscanf(data, "len %ld", &size);
		sizes[size >= 0 && size < 1000 ? size : 0]++;
	}
	for (int i = 0; i < 1000; i++)
		if (sizes[i])
			printf("%ld of %d bytes\n", sizes[i], i);
}

// in_hundreds is a text in which every hundred bytes are a question for the length.
static char *in_hundreds(int length) {
	static char data[70000];
	memset(data, 'x', length);
	for (int i = 0; i + 4 <= length; i += 100)
		memcpy(data + i, "len ", 4);
	data[length] = 0;
	return data;
}

static void segment(void) {
	uint16_t size;
	for (int i = 0; i < 2; i++) {
		int fd = udp(0);
		if (i) {
			saying(fd, &dst, "echo before");
			got("before", fd);
		}
		size = 500;
		result("UDP_SEGMENT", control(fd, &dst, in_hundreds(1200), IPPROTO_UDP, UDP_SEGMENT, &size, sizeof size, 0));
		segments(fd, 3);
		nothing_more(fd);
		saying(fd, &dst, "len without");
		got("recvfrom", fd);
		result("option UDP_SEGMENT", set(fd, IPPROTO_UDP, UDP_SEGMENT, 700));
		printf("UDP_SEGMENT %d\n", get(fd, IPPROTO_UDP, UDP_SEGMENT));
		result("sendto", to(fd, &dst, in_hundreds(2100)));
		segments(fd, 3);
		result("option UDP_SEGMENT", set(fd, IPPROTO_UDP, UDP_SEGMENT, 0));
		size = 100;
		result("64 segments", control(fd, &dst, in_hundreds(6400), IPPROTO_UDP, UDP_SEGMENT, &size, sizeof size, 0));
		segments(fd, 64);
		size = 1;
		result("too many segments", control(fd, &dst, in_hundreds(1000), IPPROTO_UDP, UDP_SEGMENT, &size, sizeof size, 0));
		result("UDP_SEGMENT of a wrong length", control(fd, &dst, in_hundreds(1000), IPPROTO_UDP, UDP_SEGMENT, &size, sizeof size, CMSG_LEN(4)));
		size = 9000;
		result("segments beyond the MTU", control(fd, &dst, in_hundreds(20000), IPPROTO_UDP, UDP_SEGMENT, &size, sizeof size, 0));
		close(fd);
		fd = udp(0);
		conn_to(fd, &dst);
		result("option UDP_SEGMENT", set(fd, IPPROTO_UDP, UDP_SEGMENT, 700));
		result("connected", send(fd, in_hundreds(2100), 2100, 0));
		segments(fd, 3);
		close(fd);
	}
	int fd = udp(0);
	result("option UDP_SEGMENT before", set(fd, IPPROTO_UDP, UDP_SEGMENT, 300));
	result("sendto", to(fd, &dst, in_hundreds(900)));
	segments(fd, 3);
	printf("UDP_SEGMENT %d\n", get(fd, IPPROTO_UDP, UDP_SEGMENT));
}

// ttl has the server tell what it has seen. It is printed relative to the first: there are hops between.
static int ttl(int fd) {
	char data[50] = "";
	int value = -1;
	if (comes(fd) && recv(fd, data, sizeof data - 1, 0) > 0)
		sscanf(data, "ttl %d", &value);
	return value;
}

static void controls(void) {
	int value = 0x28;
	for (int again = 0; again < 2; again++) {
		int fd = udp(0);
#define FRESH if (!again) { close(fd); fd = udp(0); }
		result("IP_TOS", control(fd, &dst, "tos", IPPROTO_IP, IP_TOS, &value, sizeof value, 0));
		got("recvfrom", fd);
		FRESH
		unsigned char byte = 0x48;
		result("IP_TOS of a byte", control(fd, &dst, "tos", IPPROTO_IP, IP_TOS, &byte, 1, 0));
		got("recvfrom", fd);
		saying(fd, &dst, "tos without");
		got("recvfrom", fd);
		result("option IP_TOS", set(fd, IPPROTO_IP, IP_TOS, 0xb8));
		saying(fd, &dst, "tos of the socket");
		got("recvfrom", fd);
		int usual, little;
		FRESH
		saying(fd, &dst, "ttl");
		usual = ttl(fd);
		FRESH
		value = 33;
		result("IP_TTL", control(fd, &dst, "ttl", IPPROTO_IP, IP_TTL, &value, sizeof value, 0));
		little = ttl(fd);
		printf("that is less by %d\n", usual - little);
		FRESH
		result("option IP_TTL", set(fd, IPPROTO_IP, IP_TTL, 22));
		saying(fd, &dst, "ttl of the socket");
		printf("that is less by %d\n", usual - ttl(fd));
		printf("IP_TTL %d IP_TOS %d\n", get(fd, IPPROTO_IP, IP_TTL), get(fd, IPPROTO_IP, IP_TOS));
		FRESH
		value = 256;
		result("a bad IP_TTL", control(fd, &dst, "log", IPPROTO_IP, IP_TTL, &value, sizeof value, 0));
		value = 0x28;
		result("a short IP_TOS", control(fd, &dst, "log", IPPROTO_IP, IP_TOS, &value, 2, 0));
		result("an unknown type", control(fd, &dst, "log", IPPROTO_IP, 99, &value, sizeof value, 0));
		result("an unknown level", control(fd, &dst, "echo unknown", 250, 1, &value, sizeof value, 0));
		got("recvfrom", fd);
		result("a length beyond the end", control(fd, &dst, "log", IPPROTO_IP, IP_TOS, &value, sizeof value, 200));
		result("a length below that of the header", control(fd, &dst, "log", IPPROTO_IP, IP_TOS, &value, sizeof value, 3));
		if (result("SO_MARK", control(fd, &dst, "echo marked", SOL_SOCKET, SO_MARK, &value, sizeof value, 0)) > 0) // not for everybody
			got("recvfrom", fd);
		FRESH
		struct in_pktinfo any = {0};
		result("IP_PKTINFO of nothing", control(fd, &dst, "echo any", IPPROTO_IP, IP_PKTINFO, &any, sizeof any, 0));
		got("recvfrom", fd);
		any.ipi_spec_dst.s_addr = htonl(0xcb0071fe); // 203.0.113.254, which nobody has
		result("IP_PKTINFO of a foreign address", control(fd, &dst, "log", IPPROTO_IP, IP_PKTINFO, &any, sizeof any, 0));
		inet_pton(AF_INET, "127.0.0.1", &any.ipi_spec_dst);
		result("IP_PKTINFO of 127.0.0.1", control(fd, &dst, "log", IPPROTO_IP, IP_PKTINFO, &any, sizeof any, 0));
		inet_pton(AF_INET, "127.1.2.3", &any.ipi_spec_dst);
		result("IP_PKTINFO of 127.1.2.3", control(fd, &dst, "log", IPPROTO_IP, IP_PKTINFO, &any, sizeof any, 0));
		inet_pton(AF_INET, "224.0.0.1", &any.ipi_spec_dst);
		result("IP_PKTINFO of a group", control(fd, &dst, "log", IPPROTO_IP, IP_PKTINFO, &any, sizeof any, 0));
		struct in6_pktinfo six = {0};
		result("IPV6_PKTINFO", control(fd, &dst, "echo six", IPPROTO_IPV6, IPV6_PKTINFO, &six, sizeof six, 0));
		got("recvfrom", fd);
		result("IPV6_PKTINFO, short", control(fd, &dst, "echo six", IPPROTO_IPV6, IPV6_PKTINFO, &six, 4, 0));
		got("recvfrom", fd);
		result("MSG_DONTROUTE", sendto(fd, "log", 3, MSG_DONTROUTE, (struct sockaddr *)&dst, sizeof dst));
		any = (struct in_pktinfo){.ipi_ifindex = 9999};
		result("IP_PKTINFO of no interface", control(fd, &dst, "log", IPPROTO_IP, IP_PKTINFO, &any, sizeof any, 0));
		struct msghdr msg = {.msg_name = &dst, .msg_namelen = sizeof dst, .msg_control = (void *)1, .msg_controllen = 64};
		result("a bad pointer", sendmsg(fd, &msg, 0));
		printf("IP_MULTICAST_ALL %d\n", get(fd, IPPROTO_IP, IP_MULTICAST_ALL));
		result("IP_MULTICAST_ALL", set(fd, IPPROTO_IP, IP_MULTICAST_ALL, 0));
		saying(fd, &dst, "echo");
		got("recvfrom", fd);
		printf("IP_MULTICAST_ALL %d\n", get(fd, IPPROTO_IP, IP_MULTICAST_ALL));
		// To the program's own namespace.
		struct sockaddr_in here;
		int at = local(&here);
		any = (struct in_pktinfo){.ipi_spec_dst.s_addr = htonl(0x7f010203)};
		result("from 127.1.2.3 to 127.0.0.1", control(fd, &here, "here", IPPROTO_IP, IP_PKTINFO, &any, sizeof any, 0));
		bounce(at, NULL);
		result("MSG_DONTROUTE to 127.0.0.1", sendto(fd, "here", 4, MSG_DONTROUTE, (struct sockaddr *)&here, sizeof here));
		bounce(at, NULL);
		result("connect to 127.0.0.1", conn_to(fd, &here));
		struct iovec part = {"connected", 9};
		msg = (struct msghdr){.msg_iov = &part, .msg_iovlen = 1};
		result("MSG_DONTROUTE, connected", sendmsg(fd, &msg, MSG_DONTROUTE));
		bounce(at, NULL);
		close(at);
		close(fd);
		fd = udp(0);
		result("connect", conn_to(fd, &dst));
		result("MSG_DONTROUTE, connected", sendmsg(fd, &msg, MSG_DONTROUTE));
		close(fd);
	}
}

// info prints the control messages of a datagram, in the order of their types.
static void info(const char *what, int fd, int flags) {
	union {
		struct cmsghdr header;
		char space[1024];
	} u;
	char data[100], lines[12][200];
	struct sockaddr_storage from;
	struct iovec part = {data, sizeof data};
	struct msghdr msg = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &part, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof u};
	struct pollfd p = {fd, flags & MSG_ERRQUEUE ? 0 : POLLIN, 0};
	int count = 0, port = port_of(fd);
	if (poll(&p, 1, flags & MSG_DONTWAIT ? 0 : patience) <= 0) {
		printf("%s: nothing comes\n", what);
		return;
	}
	if (flags & MSG_ERRQUEUE)
		printf("poll: %x\n", p.revents);
	long n = recvmsg(fd, &msg, flags);
	if (n < 0) {
		result(what, n);
		return;
	}
	printf("%s: \"%.*s\" from %s flags %x\n", what, (int)n, data, who(&from, msg.msg_namelen), msg.msg_flags);
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c && count < 12; c = CMSG_NXTHDR(&msg, c)) {
		char *line = lines[count++];
		void *d = CMSG_DATA(c);
		line += sprintf(line, "  level %d type %2d length %d: ", c->cmsg_level, c->cmsg_type, (int)(c->cmsg_len - CMSG_LEN(0)));
		if (c->cmsg_level == SOL_SOCKET)
			sprintf(line, "a time or so");
		else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
			struct in_pktinfo *i = d;
			char text[30];
			strcpy(text, inet_ntoa(i->ipi_addr));
			sprintf(line, "interface %s address %s specific %s", i->ipi_ifindex > 0 ? "some" : "none", text, inet_ntoa(i->ipi_spec_dst));
		} else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TTL)
			sprintf(line, "%s", *(int *)d > 64 && *(int *)d <= 77 ? "77 less some hops" : "not what was sent");
		else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS)
			sprintf(line, "%x", *(unsigned char *)d);
		else if (c->cmsg_type == IP_ORIGDSTADDR && c->cmsg_level == IPPROTO_IP)
			sprintf(line, "%s, %s", who(d, sizeof(struct sockaddr_in)), ntohs(((struct sockaddr_in *)d)->sin_port) == port ? "the own port" : "another port");
		else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVERR) {
			struct sock_extended_err *e = d;
			struct sockaddr_in *offender = (void *)SO_EE_OFFENDER(e);
			offender->sin_port = htons(1); // it has none; see who
			sprintf(line, "%s origin %d type %d code %d info %u data %u offender %s", strerrorname_np(e->ee_errno), e->ee_origin, e->ee_type, e->ee_code, e->ee_info, e->ee_data,
				who(offender, sizeof *offender));
		}
	}
	qsort(lines, count, sizeof lines[0], (int (*)(const void *, const void *))strcmp);
	for (int i = 0; i < count; i++)
		puts(lines[i]);
}

static void infos(void) {
	for (int before = 1; before >= 0; before--) {
		int fd = udp(0);
		if (!before) {
			saying(fd, &dst, "echo");
			got("recvfrom", fd);
		}
		printf("options %s the first send\n", before ? "before" : "after");
		result("IP_PKTINFO", set(fd, IPPROTO_IP, IP_PKTINFO, 1));
		saying(fd, &dst, "mark");
		info("IP_PKTINFO", fd, 0);
		set(fd, IPPROTO_IP, IP_RECVTTL, 1);
		set(fd, IPPROTO_IP, IP_RECVTOS, 1);
		set(fd, IPPROTO_IP, IP_RECVORIGDSTADDR, 1);
		set(fd, SOL_SOCKET, SO_TIMESTAMP, 1);
		saying(fd, &dst, "mark");
		info("all", fd, 0);
		printf("IP_PKTINFO %d IP_RECVTTL %d IP_RECVTOS %d IP_RECVORIGDSTADDR %d\n", get(fd, IPPROTO_IP, IP_PKTINFO), get(fd, IPPROTO_IP, IP_RECVTTL),
			get(fd, IPPROTO_IP, IP_RECVTOS), get(fd, IPPROTO_IP, IP_RECVORIGDSTADDR));
		set(fd, IPPROTO_IP, IP_PKTINFO, 0);
		set(fd, IPPROTO_IP, IP_RECVTTL, 0);
		saying(fd, &dst, "mark");
		info("some", fd, 0);

		// Too little room: what is there, and MSG_CTRUNC.
		set(fd, IPPROTO_IP, IP_PKTINFO, 1);
		set(fd, SOL_SOCKET, SO_TIMESTAMP, 0);
		set(fd, IPPROTO_IP, IP_RECVTOS, 0);
		set(fd, IPPROTO_IP, IP_RECVORIGDSTADDR, 0);
		saying(fd, &dst, "mark");
		char room[20], data[10];
		struct iovec part = {data, sizeof data};
		struct msghdr msg = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
		long n = recvmsg(fd, &msg, 0);
		printf("little room: %ld flags %x\n", n, msg.msg_flags);
		saying(fd, &dst, "mark");
		msg.msg_controllen = 0;
		msg.msg_control = NULL;
		n = recvmsg(fd, &msg, 0);
		printf("no room: %ld flags %x controllen %d\n", n, msg.msg_flags, (int)msg.msg_controllen);
		close(fd);
	}
}

static void empty(void) {
	struct sockaddr_in from;
	socklen_t length = sizeof from;
	char data[10];
	struct msghdr msg = {.msg_name = &dst, .msg_namelen = sizeof dst};
	for (int i = 0; i < 4; i++) {
		int fd = udp(0);
		if (i == 3)
			conn_to(fd, &dst);
		result("send nothing", i == 0 ? sendto(fd, NULL, 0, 0, (struct sockaddr *)&dst, sizeof dst) : i == 1 ? sendmsg(fd, &msg, 0) :
			i == 2 ? sendto(fd, data, 0, 0, (struct sockaddr *)&dst, sizeof dst) : send(fd, data, 0, 0));
		long n = recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&from, &length); // the server answers with nothing
		result("received", n);
		printf("from %s\n", who(&from, length));
		nothing_more(fd);
		close(fd);
	}
}

static void sizes(void) {
	static char data[70000];
	int size[] = {1, 1472, 1473, 9000, 40000, 65507, 65508, 65515, 65516, 65527, 65528, 65535, 65536, 70000};
	memset(data, 'x', sizeof data);
	memcpy(data, "len ", 4);
	data[0] = 'l';
	for (int how = 0; how < 4; how++) {
		int fd = udp(0);
		set(fd, SOL_SOCKET, SO_SNDBUF, 400000);
		if (how == 2)
			conn_to(fd, &dst);
		for (int i = 0; i < (int)(sizeof size / sizeof *size); i++) {
			char what[50];
			if (how == 2 && size[i] > 65507 && size[i] <= 65527)
				continue; // send(2) on a connected socket is the kernel's own business, and over IPv6 these fit
			struct iovec parts[2] = {{data, size[i] / 3}, {data + size[i] / 3, size[i] - size[i] / 3}};
			struct msghdr msg = {.msg_name = &dst, .msg_namelen = sizeof dst, .msg_iov = parts, .msg_iovlen = 2};
			if (how == 1) {
				close(fd);
				fd = udp(0);
				set(fd, SOL_SOCKET, SO_SNDBUF, 400000);
			}
			sprintf(what, "%d bytes", size[i]);
			long n = how == 2 ? send(fd, data, size[i], 0) : how == 3 ? sendmsg(fd, &msg, 0) : sendto(fd, data, size[i], 0, (struct sockaddr *)&dst, sizeof dst);
			if (result(what, n) > 3)
				got(what, fd);
		}
		result("IP_MTU_DISCOVER", set(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO));
		result("3000 bytes in one packet", how == 2 ? send(fd, data, 3000, 0) : sendto(fd, data, 3000, 0, (struct sockaddr *)&dst, sizeof dst));
		result("1400 bytes in one packet", how == 2 ? send(fd, data, 1400, 0) : sendto(fd, data, 1400, 0, (struct sockaddr *)&dst, sizeof dst));
		got("1400 bytes", fd);
		close(fd);
	}
	// Without a name, and too long only from the second on.
	int fd = udp(0);
	conn_to(fd, &dst);
	struct iovec each[2] = {{data, 100}, {data, 65520}};
	struct mmsghdr two[2] = {{.msg_hdr = {.msg_iov = &each[0], .msg_iovlen = 1}}, {.msg_hdr = {.msg_iov = &each[1], .msg_iovlen = 1}}};
	result("sendmmsg of 100 and 65520 bytes", sendmmsg(fd, two, 2, 0));
	got("100 bytes", fd);
	result("sendmmsg of 65520 bytes", sendmmsg(fd, two + 1, 1, 0));
	nothing_more(fd);
	close(fd);
	// What comes back is as long.
	fd = udp(0);
	memcpy(data, "echo", 4);
	set(fd, SOL_SOCKET, SO_RCVBUF, 400000);
	set(fd, SOL_SOCKET, SO_SNDBUF, 400000);
	printf("SO_RCVBUF %d SO_SNDBUF %d\n", get(fd, SOL_SOCKET, SO_RCVBUF), get(fd, SOL_SOCKET, SO_SNDBUF));
	result("send", sendto(fd, data, 20000, 0, (struct sockaddr *)&dst, sizeof dst));
	got("20000 bytes", fd);
	printf("SO_RCVBUF %d SO_SNDBUF %d\n", get(fd, SOL_SOCKET, SO_RCVBUF), get(fd, SOL_SOCKET, SO_SNDBUF));
}

static void refused(void) {
	for (int nonblock = 0; nonblock < 2; nonblock++) {
		char data[10];
		int fd = udp(nonblock ? SOCK_NONBLOCK : 0);
		result("connect", conn_to(fd, &closed_port));
		result("send", send(fd, "log", 3, 0));
		if (nonblock)
			printf("poll: %x\n", wait_for(fd, POLLIN));
		result("recv", recv(fd, data, sizeof data, 0));
		result("recv again", recv(fd, data, sizeof data, MSG_DONTWAIT));
		result("send", send(fd, "log", 3, 0));
		printf("poll: %x\n", wait_for(fd, POLLIN));
		so_error(fd);
		so_error(fd);
		result("send", send(fd, "log", 3, 0));
		printf("poll: %x\n", wait_for(fd, POLLIN));
		result("send tells", send(fd, "log", 3, 0));
		so_error(fd);
		result("connect elsewhere", conn_to(fd, &dst));
		result("send", send(fd, "echo", 4, 0));
		got("recv", fd);
		close(fd);

		// A socket that is not connected is not told.
		fd = udp(nonblock ? SOCK_NONBLOCK : 0);
		saying(fd, &closed_port, "log");
		saying(fd, &dst, "echo after");
		got("recv", fd);
		saying(fd, &closed_port, "log");
		nothing_more(fd);
		close(fd);
	}
}

static void recverr(void) {
	for (int how = 0; how < 4; how++) {
		int fd = udp(0);
		char data[10];
		printf("IP_RECVERR %s the first send, %s\n", how & 1 ? "after" : "before", how & 2 ? "connected" : "not connected");
		if (how & 1) {
			saying(fd, &dst, "echo");
			got("recvfrom", fd);
		}
		result("IP_RECVERR", set(fd, IPPROTO_IP, IP_RECVERR, 1));
		if (how & 2)
			result("connect", conn_to(fd, &closed_port));
		info("empty queue", fd, MSG_ERRQUEUE | MSG_DONTWAIT);
		result("send", how & 2 ? send(fd, "log queue", 9, 0) : to(fd, &closed_port, "log queue"));
		info("queue", fd, MSG_ERRQUEUE);
		info("empty queue", fd, MSG_ERRQUEUE | MSG_DONTWAIT);
		nothing_more(fd);
		result("send", how & 2 ? send(fd, "log queue", 9, 0) : to(fd, &closed_port, "log queue"));
		wait_for(fd, 0);
		long n;
		int tries = 0;
		do // the kernel first queues the error, and poll(2) tells; then it sets it: udp_err in net/ipv4/udp.c
			n = recv(fd, data, sizeof data, MSG_DONTWAIT);
		while (n < 0 && errno == EAGAIN && ++tries < 100000);
		result("recv", n);
		info("queue", fd, MSG_ERRQUEUE);
		printf("IP_RECVERR %d\n", get(fd, IPPROTO_IP, IP_RECVERR));
		if (!(how & 2)) {
			saying(fd, &dst, "echo after");
			got("recvfrom", fd);
		}
		close(fd);
	}
}

// completed counts the completions of MSG_ZEROCOPY that are in the error queue: linux/errqueue.h, SO_EE_ORIGIN_ZEROCOPY is 5.
static int completed(int fd) {
	int count = 0;
	for (;;) {
		char control[200];
		struct msghdr msg = {.msg_control = control, .msg_controllen = sizeof control};
		if (recvmsg(fd, &msg, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
			return count;
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		struct sock_extended_err *e = (void *)CMSG_DATA(c);
		if (c->cmsg_level != IPPROTO_IP || c->cmsg_type != IP_RECVERR || e->ee_origin != 5 || e->ee_errno)
			printf("level %d type %d origin %d errno %u\n", c->cmsg_level, c->cmsg_type, e->ee_origin, e->ee_errno);
		count += e->ee_data - e->ee_info + 1;
	}
}

// zerocopy says when the kernel needs the data no more, which may be long after it has been sent.
static void zerocopy(void) {
	static char data[4096] = "len", answer[100];
	struct iovec part = {data, sizeof data};
	struct mmsghdr msgs[3] = {0};
	int fd = udp(0), count = 0;
	for (int i = 0; i < 3; i++)
		msgs[i].msg_hdr = (struct msghdr){.msg_name = &dst, .msg_namelen = sizeof dst, .msg_iov = &part, .msg_iovlen = 1};
	result("MSG_ZEROCOPY alone", sendto(fd, data, sizeof data, MSG_ZEROCOPY, (struct sockaddr *)&dst, sizeof dst));
	got("recvfrom", fd);
	info("no completion", fd, MSG_ERRQUEUE | MSG_DONTWAIT);
	result("SO_ZEROCOPY", set(fd, SOL_SOCKET, 60, 1));
	for (int i = 0; i < 3; i++) {
		memset(data + 3, 'a' + i, sizeof data - 3);
		result("sendto", sendto(fd, data, sizeof data, MSG_ZEROCOPY, (struct sockaddr *)&dst, sizeof dst));
		long n = recv(fd, answer, sizeof answer, 0);
		printf("answer: %.*s\n", (int)n, answer);
	}
	result("sendmmsg", sendmmsg(fd, msgs, 3, MSG_ZEROCOPY));
	for (int i = 0; i < 3; i++)
		printf("answer: %ld\n", (long)recv(fd, answer, sizeof answer, 0));
	// What has been sent may wait to be freed, for the next to arrive at the same processor.
	cpu_set_t all;
	sched_getaffinity(0, sizeof all, &all);
	for (int i = 0; i < 3000 && count < 6; i++) {
		cpu_set_t one;
		CPU_ZERO(&one);
		CPU_SET(i % CPU_COUNT(&all), &one);
		sched_setaffinity(0, sizeof one, &one); // fails if it may not run there
		count += completed(fd);
		to(fd, &dst, "echo");
		recv(fd, answer, sizeof answer, 0);
	}
	sched_setaffinity(0, sizeof all, &all);
	printf("completed: %d\n", count);
	struct { struct cmsghdr header; int value; } bad = {{CMSG_LEN(sizeof(int)), IPPROTO_IP, IP_TTL}, 0};
	struct iovec little = {data, 3};
	msgs[0].msg_hdr.msg_iov = &little;
	msgs[1].msg_hdr.msg_control = &bad;
	msgs[1].msg_hdr.msg_controllen = sizeof bad;
	result("a bad one behind it", sendmmsg(fd, msgs, 2, MSG_ZEROCOPY));
	close(fd);
}

static void bad(void) {
	struct sockaddr_in sa = dst;
	struct sockaddr_in6 six = mapped(&dst);
	for (int again = 0; again < 2; again++) {
		int fd = udp(0);
		if (again) {
			saying(fd, &dst, "echo");
			got("recvfrom", fd);
		}
		result("send", send(fd, "log", 3, 0));
		result("write", write(fd, "log", 3));
		result("nobody", sendto(fd, "log", 3, 0, NULL, 0));
		result("nobody, but long", sendto(fd, "log", 3, 0, NULL, sizeof sa));
		for (int length = 1; length < 16; length += 7)
			result("a short address", sendto(fd, "log", 3, 0, (struct sockaddr *)&sa, length));
		result("a long address", sendto(fd, "log", 3, 0, (struct sockaddr *)&sa, 129));
		result("a negative length", sendto(fd, "log", 3, 0, (struct sockaddr *)&sa, -1));
		result("a bad address", sendto(fd, "log", 3, 0, (void *)1, sizeof sa));
		result("bad data", sendto(fd, (void *)1, 3, 0, (struct sockaddr *)&sa, sizeof sa));
		result("MSG_OOB", sendto(fd, "log", 3, MSG_OOB, (struct sockaddr *)&sa, sizeof sa));
		sa.sin_family = AF_INET6;
		result("a wrong family", sendto(fd, "log", 3, 0, (struct sockaddr *)&sa, sizeof sa));
		result("another wrong family", sendto(fd, "log", 3, 0, (struct sockaddr *)&six, sizeof six));
		sa.sin_family = AF_UNIX;
		result("a third wrong family", sendto(fd, "log", 3, 0, (struct sockaddr *)&sa, sizeof sa));
		sa.sin_family = AF_UNSPEC; // which the kernel takes for AF_INET
		result("AF_UNSPEC", sendto(fd, "echo unspec", 11, 0, (struct sockaddr *)&sa, sizeof sa));
		got("recvfrom", fd);
		sa = dst;
		sa.sin_port = 0;
		result("port 0", sendto(fd, "log", 3, 0, (struct sockaddr *)&sa, sizeof sa));
		result("connect to port 0", conn_to(fd, &sa));
		result("send", send(fd, "log", 3, 0));
		printf("poll: %x\n", wait_for(fd, POLLIN));
		so_error(fd);
		sa = dst;
		memset(sa.sin_zero, 7, sizeof sa.sin_zero);
		sa.sin_family = AF_UNSPEC;
		result("connect(AF_UNSPEC)", conn_to(fd, &sa));
		sa.sin_family = AF_INET;
		saying(fd, &sa, "echo rubbish in sin_zero");
		got("recvfrom", fd);
		sa = dst;
		result("shutdown", shutdown(fd, SHUT_WR));
		saying(fd, &dst, "log");
		close(fd);
		result("closed", to(fd, &dst, "log"));
		fd = udp(0);
		result("shutdown before", shutdown(fd, SHUT_RD));
		saying(fd, &dst, "echo");
		settle();
		char data[10];
		result("recv", recv(fd, data, sizeof data, 0));
		result("recv again", recv(fd, data, sizeof data, 0));
		close(fd);
	}
	int both[2];
	if (pipe(both))
		die("pipe");
	result("a pipe", to(both[1], &dst, "log"));
	int tcp = socket(AF_INET, SOCK_STREAM, 0);
	signal(SIGPIPE, SIG_IGN);
	result("TCP", to(tcp, &dst, "log"));
	int un = socket(AF_UNIX, SOCK_DGRAM, 0);
	result("AF_UNIX", to(un, &dst, "log"));
	int fd = udp(0);
	saying(fd, &dst, "report 0");
	got("recvfrom", fd);
}

// bound sends from a port, and sees that the server sees it.
static void bound(void) {
	struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(atoi(extra[0]))};
	for (int how = 0; how < (extras > 1 ? 2 : 3); how++) { // "given": not one that the kernel chooses
		int fd = udp(0), port;
		if (how == 2)
			any.sin_port = 0;
		result("bind", bind(fd, (struct sockaddr *)&any, sizeof any));
		names(fd);
		port = port_of(fd);
		char want[100], data[100] = "";
		if (how == 1)
			result("connect", conn_to(fd, &dst));
		result("send", how == 1 ? send(fd, "port", 4, 0) : to(fd, &dst, "port"));
		sprintf(want, "port %d", port);
		wait_for(fd, POLLIN);
		recv(fd, data, sizeof data - 1, MSG_DONTWAIT);
		if (strcmp(data, want))
			printf("the server has seen \"%s\", not \"%s\"\n", data, want);
		else
			printf("the server has seen that port\n");
		printf("and now: %s\n", port_of(fd) == port ? "the same" : "another");
		names(fd);
		int second = udp(0);
		any.sin_port = htons(port);
		result("bind another to it", bind(second, (struct sockaddr *)&any, sizeof any));
		close(second);
		close(fd);
		second = udp(0);
		result("bind another to it after", bind(second, (struct sockaddr *)&any, sizeof any));
		saying(second, &dst, "echo");
		got("recvfrom", second);
		close(second);
	}
}

// bound_to_loopback cannot send to others, natively.
static void bound_to_loopback(void) {
	struct sockaddr_in here;
	int fd = local(&here);
	saying(fd, &dst, "log");
	result("connect", conn_to(fd, &dst));
	names(fd);
	struct sockaddr_in there;
	int at = local(&there);
	saying(fd, &there, "hello");
	bounce(at, "and back");
	got("recvfrom", fd);
}

static void reuseport(void) {
	struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(atoi(extra[0]))};
	int fds[2];
	for (int i = 0; i < 2; i++) {
		fds[i] = udp(0);
		result("SO_REUSEPORT", set(fds[i], SOL_SOCKET, SO_REUSEPORT, 1));
		result("bind", bind(fds[i], (struct sockaddr *)&any, sizeof any));
	}
	for (int i = 0; i < 8; i++)
		result("send", to(fds[i % 2], i % 4 < 2 ? &dst : &other, "port"));
	int count = 0, right = 0;
	while (count < 8) {
		struct pollfd p[2] = {{fds[0], POLLIN, 0}, {fds[1], POLLIN, 0}};
		if (poll(p, 2, 30000) <= 0)
			break;
		for (int i = 0; i < 2; i++) {
			char data[100] = "";
			int port = 0;
			if (p[i].revents & POLLIN && recv(fds[i], data, sizeof data - 1, MSG_DONTWAIT) > 0) {
				count++;
				sscanf(data, "port %d", &port);
				right += port == ntohs(any.sin_port);
			}
		}
	}
	printf("%d answers, %d with the port\n", count, right);
	printf("SO_REUSEPORT %d %d, SO_REUSEADDR %d\n", get(fds[0], SOL_SOCKET, SO_REUSEPORT), get(fds[1], SOL_SOCKET, SO_REUSEPORT), get(fds[0], SOL_SOCKET, SO_REUSEADDR));
}

static long to6(int fd, struct sockaddr_in6 *sa, const char *text) {
	return sendto(fd, text, strlen(text), 0, (struct sockaddr *)sa, sizeof *sa);
}

static void as_mapped(void) {
	struct sockaddr_in6 six = mapped(&dst), second = mapped(&other), refusing = mapped(&closed_port);
	char data[10];
	int fd = socket(AF_INET6, SOCK_DGRAM, 0);
	printf("IPV6_V6ONLY %d\n", get(fd, IPPROTO_IPV6, IPV6_V6ONLY));
	result("send", to6(fd, &six, "echo 1"));
	got("recvfrom", fd);
	names(fd);
	result("send", to6(fd, &second, "echo 2"));
	got("recvfrom", fd);
	result("connect", connect(fd, (struct sockaddr *)&six, sizeof six));
	names(fd);
	result("send", send(fd, "echo 3", 6, 0));
	got("recvfrom", fd);
	struct in6_pktinfo any = {0}; // not control(): the name is of another type
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof any)];
	} u = {{CMSG_LEN(sizeof any), IPPROTO_IPV6, IPV6_PKTINFO}};
	struct iovec part = {"echo info", 9};
	struct msghdr msg = {.msg_name = &six, .msg_namelen = sizeof six, .msg_iov = &part, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof u};
	memcpy(CMSG_DATA(&u.header), &any, sizeof any);
	result("IPV6_PKTINFO", sendmsg(fd, &msg, 0));
	const char *sources[] = {"::ffff:0.0.0.0", "::ffff:203.0.113.254", "::ffff:127.0.0.1"};
	for (int i = 0; i < 3; i++) {
		inet_pton(AF_INET6, sources[i], &any.ipi6_addr);
		memcpy(CMSG_DATA(&u.header), &any, sizeof any);
		if (result(sources[i], sendmsg(fd, &msg, 0)) > 0)
			got("recvfrom", fd);
	}
	result("an AF_INET address", to(fd, &dst, "echo 4"));
	got("recvfrom", fd);
	close(fd);

	fd = socket(AF_INET6, SOCK_DGRAM, 0);
	result("an AF_INET address", to(fd, &dst, "echo 5"));
	got("recvfrom", fd);
	close(fd);

	fd = socket(AF_INET6, SOCK_DGRAM, 0);
	result("connect by an AF_INET address", conn_to(fd, &dst));
	names(fd);
	result("send", send(fd, "echo 6", 6, 0));
	got("recvfrom", fd);
	close(fd);

	fd = socket(AF_INET6, SOCK_DGRAM, 0);
	set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	result("IPV6_V6ONLY", to6(fd, &six, "log"));
	result("IPV6_V6ONLY", connect(fd, (struct sockaddr *)&six, sizeof six));
	close(fd);

	fd = socket(AF_INET6, SOCK_DGRAM, 0);
	result("connect", connect(fd, (struct sockaddr *)&refusing, sizeof refusing));
	result("send", send(fd, "log", 3, 0));
	result("recv", recv(fd, data, sizeof data, 0));
	close(fd);

	// IPv6 proper, before and after.
	struct sockaddr_in6 here = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	socklen_t length = sizeof here;
	int at = socket(AF_INET6, SOCK_DGRAM, 0);
	if (bind(at, (struct sockaddr *)&here, sizeof here) || getsockname(at, (struct sockaddr *)&here, &length))
		die("bind to ::1");
	fd = socket(AF_INET6, SOCK_DGRAM, 0);
	for (int i = 0; i < 3; i++) {
		result("send to ::1", to6(fd, &here, "hello"));
		got("at ::1", at);
		result("send", to6(fd, &six, "echo 7"));
		got("recvfrom", fd);
	}
}

static void dissolve(void) {
	int fd = udp(0);
	struct sockaddr unspec = {.sa_family = AF_UNSPEC};
	result("connect(AF_UNSPEC) of a new one", connect(fd, &unspec, sizeof unspec));
	for (int i = 0; i < 2; i++) {
		result("connect", conn_to(fd, i ? &other : &dst));
		result("send", send(fd, "echo", 4, 0));
		got("recvfrom", fd);
		result("connect(AF_UNSPEC)", connect(fd, &unspec, sizeof unspec));
		names(fd);
		printf("port: %s\n", port_of(fd) ? "some" : "none");
		result("send", send(fd, "log", 3, 0));
		saying(fd, &dst, "echo unconnected");
		got("recvfrom", fd);
	}
	struct sockaddr_in here;
	int at = local(&here);
	result("connect to 127.0.0.1", conn_to(fd, &here));
	names(fd);
	result("send", send(fd, "hello", 5, 0));
	bounce(at, "and back");
	got("recvfrom", fd);
	result("connect", conn_to(fd, &dst)); // with the source address of before
	names(fd);
	result("connect(AF_UNSPEC)", connect(fd, &unspec, sizeof unspec));
	result("connect", conn_to(fd, &dst));
	result("send", send(fd, "echo last", 9, 0));
	got("recvfrom", fd);

	// What it was connected to is another host than those that it hears from then; with a port of its own, or not.
	struct sockaddr_in elsewhere = dst, any = {.sin_family = AF_INET, .sin_port = htons(atoi(extra[0]))};
	elsewhere.sin_addr.s_addr ^= htonl(0xf0);
	for (int i = 0; i < 4; i++) {
		int again = udp(0);
		if (i & 1) {
			set(again, SOL_SOCKET, SO_REUSEADDR, 1);
			result("bind", bind(again, (struct sockaddr *)&any, sizeof any));
		}
		if (i & 2) {
			saying(again, &elsewhere, "to nobody");
			set(again, IPPROTO_IP, IP_TTL, 77);
		}
		result("connect elsewhere", conn_to(again, &elsewhere));
		result("connect(AF_UNSPEC)", connect(again, &unspec, sizeof unspec));
		saying(again, &dst, "echo from another");
		got("recvfrom", again);
		saying(again, &other, "port");
		if (i & 1)
			got("recvfrom", again);
		printf("IP_TTL %d SO_REUSEADDR %d\n", get(again, IPPROTO_IP, IP_TTL), get(again, SOL_SOCKET, SO_REUSEADDR));
		result("connect", conn_to(again, &dst));
		result("connect(AF_UNSPEC)", connect(again, &unspec, sizeof unspec));
		names(again);
		close(again);
	}
}

static void ready(const char *how) {
	int fd = udp(SOCK_NONBLOCK), set_of = epoll_create1(0);
	struct epoll_event event = {.events = EPOLLIN | (strcmp(how, "edge") ? 0 : EPOLLET), .data.u64 = 0x123456789abcdef0};
	if (!strcmp(how, "epoll") || !strcmp(how, "edge")) {
		result("EPOLL_CTL_ADD", epoll_ctl(set_of, EPOLL_CTL_ADD, fd, &event));
		result("nothing yet", epoll_wait(set_of, &event, 1, 0));
	}
	for (int i = 0; i < 3; i++) {
		saying(fd, i == 1 ? &other : &dst, "echo");
		if (!strcmp(how, "poll")) {
			struct pollfd p = {fd, POLLIN, 0};
			result("poll", poll(&p, 1, 30000));
			printf("events %x\n", p.revents);
		} else if (!strcmp(how, "select")) {
			fd_set fds;
			struct timeval limit = {30, 0};
			FD_ZERO(&fds);
			FD_SET(fd, &fds);
			result("select", select(fd + 1, &fds, NULL, NULL, &limit));
		} else {
			int n = result("epoll_wait", epoll_wait(set_of, &event, 1, 30000));
			if (n == 1)
				printf("events %x data %llx\n", event.events, (unsigned long long)event.data.u64);
		}
		got("recvfrom", fd);
		nothing_more(fd);
	}
	if (*how == 'e') {
		event.events = EPOLLOUT;
		result("EPOLL_CTL_MOD", epoll_ctl(set_of, EPOLL_CTL_MOD, fd, &event));
		result("epoll_wait", epoll_wait(set_of, &event, 1, 30000));
		printf("events %x\n", event.events);
		result("EPOLL_CTL_DEL", epoll_ctl(set_of, EPOLL_CTL_DEL, fd, NULL));
	}
}

static void duplicates(void) {
	int fd = udp(0), copy = dup(fd), third = fcntl(fd, F_DUPFD_CLOEXEC, 100);
	saying(copy, &dst, "echo 1");
	got("the first", fd);
	saying(fd, &dst, "echo 2");
	got("the copy", copy);
	saying(third, &other, "echo 3");
	got("the first", fd);
	printf("the same socket: %d %d, F_GETFD %d %d %d\n", cookie(fd) == cookie(copy), cookie(fd) == cookie(third), fcntl(fd, F_GETFD), fcntl(copy, F_GETFD), fcntl(third, F_GETFD));
	close(fd);
	saying(copy, &dst, "echo 4");
	got("the copy", copy);
}

// in_child runs f in a child and waits for it.
static void in_child(void (*f)(int), int fd) {
	fflush(stdout);
	pid_t pid = fork();
	int status;
	if (pid == 0) {
		f(fd);
		fflush(stdout);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	if (status)
		printf("the child ended with %x\n", status);
}

static void child_talks(int fd) {
	saying(fd, &dst, "echo from the child");
	got("the child", fd);
}

static void child_sends(int fd) { saying(fd, &dst, "echo for the parent"); }

static void forked(void) {
	int fd = udp(0);
	saying(fd, &dst, "echo before fork");
	got("the parent", fd);
	in_child(child_talks, fd);
	in_child(child_sends, fd);
	got("the parent", fd);
	saying(fd, &dst, "echo after");
	got("the parent", fd);
	close(fd);

	fd = udp(0); // not yet swapped
	in_child(child_talks, fd);
	saying(fd, &dst, "echo after");
	got("the parent", fd);
	in_child(child_talks, fd);
}

// forked_before has a child send on a socket of its parent's that has never been used.
static void forked_before(void) {
	int fd = udp(0);
	in_child(child_sends, fd);
	got("the parent", fd);
}

static void *talk(void *arg) {
	long *good = arg;
	int fd = udp(0);
	for (int i = 0; i < 50; i++) {
		char text[50], data[50] = "";
		sprintf(text, "echo %p %d", arg, i);
		to(fd, i % 3 ? &dst : &other, text);
		if (wait_for(fd, POLLIN) == POLLIN && recv(fd, data, sizeof data, MSG_DONTWAIT) == (long)strlen(text) && !memcmp(data, text, strlen(text)))
			++*good;
	}
	close(fd);
	return NULL;
}

static int shared;

static void *shout(void *arg) {
	long *good = arg;
	for (int i = 0; i < 25; i++)
		*good += to(shared, i % 2 ? &dst : &other, "echo from one of several") == 24;
	return NULL;
}

static void threads(void) {
	pthread_t ids[8];
	long good[8] = {0}, sum = 0;
	for (int i = 0; i < 8; i++)
		pthread_create(&ids[i], NULL, talk, &good[i]);
	for (int i = 0; i < 8; i++) {
		pthread_join(ids[i], NULL);
		sum += good[i];
	}
	printf("each with a socket: %ld answers\n", sum);

	// One that has no port may send some from port 0, which nobody can answer: inet_autobind in net/ipv4/af_inet.c tells other
	// threads that it has one (inet_num) before it has put that where they send from (inet_sport).
	for (int bound = 1; bound >= 0; bound--) {
		struct sockaddr_in any = {.sin_family = AF_INET};
		shared = udp(0);
		set(shared, SOL_SOCKET, SO_RCVBUF, 1 << 20);
		if (bound && bind(shared, (struct sockaddr *)&any, sizeof any))
			die("bind");
		memset(good, 0, sizeof good);
		sum = 0;
		for (int i = 0; i < 8; i++)
			pthread_create(&ids[i], NULL, shout, &good[i]);
		for (int i = 0; i < 8; i++) {
			pthread_join(ids[i], NULL);
			sum += good[i];
		}
		printf("with one socket: %ld sent\n", sum);
		if (!bound) {
			printf("answers to one without a port: %s\n", wait_for(shared, POLLIN) == POLLIN ? "some" : "none");
			break;
		}
		int count = 0;
		char data[50];
		while (count < 200 && wait_for(shared, POLLIN) == POLLIN && recv(shared, data, sizeof data, MSG_DONTWAIT) == 24)
			count++;
		printf("with one socket: %d answers\n", count);
		nothing_more(shared);
		close(shared);
	}
}

static char waited[200]; // what came of it

static const char *wait_in; // the call
static int waiter = -1;      // its descriptor

// wait_for_it waits for the socket, for as long as it takes.
static void *wait_for_it(void *arg) {
	char data[50] = "";
	int fd = waiter;
	struct sockaddr_in from = {0};
	socklen_t length = sizeof from;
	struct iovec part = {data, sizeof data};
	struct mmsghdr m = {.msg_hdr = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &part, .msg_iovlen = 1}};
	struct pollfd p = {fd, POLLIN, 0};
	struct timeval tv = {100, 0};
	struct timespec ts = {100, 0};
	int64_t ts64[2] = {100, 0};
	fd_set set;
	FD_ZERO(&set);
	FD_SET(fd, &set);
#define IS(call) !strcmp(wait_in, call)
	long n = -1, waited_only = 1;
	errno = ENOSYS;
	if (IS("poll"))
		n = poll(&p, 1, -1);
	else if (IS("poll-for-long"))
		n = poll(&p, 1, 100000);
	else if (IS("ppoll"))
		n = ppoll(&p, 1, &ts, NULL);
	else if (IS("select"))
		n = select(fd + 1, &set, NULL, NULL, &tv);
	else if (IS("pselect"))
		n = pselect(fd + 1, &set, NULL, NULL, &ts, NULL);
#ifdef __i386__
	else if (IS("select-old")) {
		long args[] = {fd + 1, (long)&set, 0, 0, (long)&tv};
		n = syscall(SYS_select, args);
	} else if (IS("ppoll-time64"))
		n = syscall(SYS_ppoll_time64, &p, 1, ts64, NULL, 8);
	else if (IS("pselect-time64"))
		n = syscall(SYS_pselect6_time64, fd + 1, &set, NULL, NULL, ts64, NULL);
	else if (IS("recvmmsg-time64")) {
		waited_only = 0;
		if ((n = syscall(SYS_recvmmsg_time64, fd, &m, 1, 0, ts64)) == 1)
			n = m.msg_len;
	}
#endif
	else {
		waited_only = 0;
		if (IS("recvfrom"))
			n = recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&from, &length);
		else if (IS("recv"))
			n = recv(fd, data, sizeof data, 0);
		else if (IS("recvmsg"))
			n = recvmsg(fd, &m.msg_hdr, 0);
		else if (IS("read"))
			n = read(fd, data, sizeof data);
		else if (IS("readv"))
			n = readv(fd, &part, 1);
		else if (IS("recvmmsg") && (n = recvmmsg(fd, &m, 1, 0, NULL)) == 1)
			n = m.msg_len;
	}
	if (n < 0 || waited_only)
		snprintf(waited, sizeof waited, "%s in the thread: %ld%s events %x", wait_in, n, n < 0 ? strerrorname_np(errno) : "", p.revents);
	else
		snprintf(waited, sizeof waited, "the thread: \"%.*s\"%s%s", (int)n, data, from.sin_family ? " from " : "",
			from.sin_family ? who(&from, sizeof from) : "");
	(void)ts64;
	return NULL;
}

// until_asleep waits until the thread waits in the kernel: for somebody to take up its call only (S), if not for long. Then that is D.
static void until_asleep(int tid) {
	char path[50], text[300];
	int looks = 0;
	sprintf(path, "/proc/%d/stat", tid);
	for (int i = 0; i < 5000; i++) {
		int fd = open(path, O_RDONLY);
		long n = read(fd, text, sizeof text - 1);
		close(fd);
		text[n > 0 ? n : 0] = 0;
		char *state = strrchr(text, ')');
		if (state && (state[2] == 'D' || (state[2] == 'S' && ++looks == 2)))
			return;
		usleep(1000);
	}
}

static int waiting_tid;
static atomic_int waiting_up;

static void *note_and_wait(void *arg) {
	waiting_tid = syscall(SYS_gettid);
	waiting_up = 1;
	return wait_for_it(arg);
}

// waiting has a thread wait for the socket before the first datagram goes out: CALL [bound] [used] [dup] [another]. The socket is bound
// before, or has been used; it waits for a copy; another one is sent with before, for which it does not wait.
static void waiting(void) {
	pthread_t id;
	struct sockaddr_in any = {.sin_family = AF_INET};
	int bind_it = 0, used = 0, another = 0;
	shared = waiter = udp(0);
	wait_in = extra[0];
	for (int i = 1; i < extras; i++) {
		if (!strcmp(extra[i], "dup"))
			waiter = dup(shared);
		bind_it |= !strcmp(extra[i], "bound");
		used |= !strcmp(extra[i], "used");
		another |= !strcmp(extra[i], "another");
	}
	if (bind_it)
		bind(shared, (struct sockaddr *)&any, sizeof any);
	if (used) {
		saying(shared, &dst, "echo before");
		got("before", shared);
	}
	waiting_up = 0;
	pthread_create(&id, NULL, note_and_wait, NULL);
	while (!waiting_up)
		usleep(100);
	until_asleep(waiting_tid);
	if (another) {
		int first = udp(0);
		if (bind_it)
			bind(first, (struct sockaddr *)&any, sizeof any);
		saying(first, &dst, "echo to another socket");
		got("another", first);
		until_asleep(waiting_tid);
	}
	saying(shared, &dst, "echo to a thread that waits");
	pthread_join(id, NULL);
	puts(waited);
}

static void *exit_later(void *arg) {
	until_asleep(getpid());
	exit(0);
}

// killed has a server be started anew that waits for datagrams, and is killed or ends: its port is free.
static void killed(void) {
	struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(atoi(extra[0]))};
	for (int how = 0; how < 2; how++) {
		int taken = 0;
		for (int i = 0; i < 30; i++) {
			int up[2], fd = udp(0);
			char data[50];
			if (bind(fd, (struct sockaddr *)&any, sizeof any))
				taken++;
			if (pipe(up))
				die("pipe");
			pid_t child = fork();
			if (child == 0) {
				pthread_t id;
				struct sockaddr_in from;
				socklen_t length = sizeof from;
				to(fd, &dst, "echo");
				recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&from, &length);
				if (write(up[1], "", 1) != 1)
					die("write");
				if (how)
					pthread_create(&id, NULL, exit_later, NULL);
				for (;;)
					recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&from, &length);
			}
			close(fd);
			close(up[1]);
			if (read(up[0], data, 1) != 1)
				die("read");
			close(up[0]);
			if (!how) {
				until_asleep(child);
				kill(child, SIGKILL);
			}
			waitpid(child, NULL, 0);
		}
		printf("%s: taken %d times\n", how ? "ended" : "killed", taken);
	}
}

// here_and_there talks to 127.0.0.1 and to the server with one socket.
// survived has a process killed that waits for a datagram, with a socket that another one has too. What comes then is for that one.
static void survived(void) {
	int fd = udp(0), lost = 0;
	char data[50];
	saying(fd, &dst, "echo");
	got("recvfrom", fd);
	for (int i = 0; i < 30; i++) {
		struct sockaddr_in from;
		socklen_t length = sizeof from;
		pid_t child = fork();
		if (child == 0) {
			recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&from, &length);
			_exit(0);
		}
		until_asleep(child);
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		to(fd, &dst, "echo");
		if (!comes(fd) || recvfrom(fd, data, sizeof data, MSG_DONTWAIT, (struct sockaddr *)&from, &length) != 4)
			lost++;
	}
	printf("lost: %d\n", lost);
}

static void here_and_there(void) {
	struct sockaddr_in here;
	for (int first = 0; first < 2; first++) {
		int at = local(&here), fd = udp(0);
		for (int i = 0; i < 6; i++) {
			if (i % 2 == first) {
				saying(fd, &here, "to 127.0.0.1");
				bounce(at, "and back");
			} else {
				saying(fd, i % 3 ? &dst : &other, "echo");
			}
			got("recvfrom", fd);
		}
		nothing_more(fd);
		close(fd);
		close(at);
	}
}

// heard prints what the socket of local hears, and answers.
static void heard(int fd) {
	struct sockaddr_in from;
	socklen_t length = sizeof from;
	char data[100];
	if (!comes(fd)) {
		printf("at 127.0.0.1: nothing comes\n");
		return;
	}
	long n = recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&from, &length);
	printf("at 127.0.0.1: \"%.*s\"\n", n < 0 ? 0 : (int)n, data);
	to(fd, &from, "for nobody");
}

// beside has a connected socket send to 127.0.0.1: it stays connected, and hears only from whom it is connected to. With an argument,
// it is connected there and back again afterwards.
static void beside(void) {
	struct sockaddr_in here, peer;
	int at = local(&here), fd = udp(0);
	struct mmsghdr two[2] = {};
	struct iovec part = {"echo", 4};
	conn("connect", fd);
	for (int i = 0; i < 3; i++) {
		set(fd, SOL_SOCKET, SO_BROADCAST, i % 2);
		saying(fd, &here, "to 127.0.0.1");
		heard(at);
		socklen_t length = sizeof peer;
		result("getpeername", getpeername(fd, (struct sockaddr *)&peer, &length));
		printf("of %s, SO_BROADCAST %d\n", who(&peer, length), get(fd, SOL_SOCKET, SO_BROADCAST));
		result("send", send(fd, "echo", 4, 0));
		got("recvfrom", fd);
		for (int k = 0; k < 2; k++)
			two[k].msg_hdr = (struct msghdr){.msg_name = k == i % 2 ? &here : NULL, .msg_namelen = sizeof here, .msg_iov = &part, .msg_iovlen = 1};
		result("sendmmsg", sendmmsg(fd, two, 2, 0));
		heard(at);
		got("recvfrom", fd);
	}
	settle();
	nothing_more(fd);
	if (extras > 0) {
		result("connect to 127.0.0.1", conn_to(fd, &here));
		saying(fd, &dst, "echo from there");
		settle();
		result("send", send(fd, "and here", 8, 0));
		heard(at);
		got("recvfrom", fd);
		conn("connect", fd);
		result("send", send(fd, "echo", 4, 0));
		got("recvfrom", fd);
		nothing_more(fd);
		return;
	}
	shutdown(fd, SHUT_WR);
	saying(fd, &here, "log");
}

// set_back sets options, and sets them back when the socket that has them is not the one in use.
static void set_back(void) {
	static const struct { int level, name, value; } what[] = {
		{SOL_SOCKET, SO_BROADCAST, 1}, {SOL_SOCKET, SO_RCVLOWAT, 4}, {SOL_SOCKET, SO_NO_CHECK, 1}, {IPPROTO_IP, IP_TTL, 33}, {IPPROTO_IP, IP_TOS, 0x10},
		{IPPROTO_IP, IP_RECVTTL, 1}, {IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO}, {IPPROTO_IP, IP_MULTICAST_TTL, 3}, {SOL_SOCKET, SO_PRIORITY, 3},
	};
	enum { COUNT = sizeof what / sizeof *what };
	struct sockaddr_in here;
	struct timeval second = {1, 0}, none = {0, 0};
	int at = local(&here), fd = udp(0), before[COUNT];
	for (int i = 0; i < COUNT; i++) {
		before[i] = get(fd, what[i].level, what[i].name);
		set(fd, what[i].level, what[i].name, what[i].value);
	}
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second);
	saying(fd, &here, "to 127.0.0.1");
	bounce(at, NULL);
	saying(fd, &dst, "echo");
	got("recvfrom", fd);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof none);
	for (int i = 0; i < COUNT; i++)
		set(fd, what[i].level, what[i].name, before[i]);
	for (int k = 0; k < 2; k++) {
		saying(fd, k ? &dst : &here, "echo");
		for (int i = 0; i < COUNT; i++)
			printf("%d/%d %d\n", what[i].level, what[i].name, get(fd, what[i].level, what[i].name));
		struct timeval now;
		socklen_t length = sizeof now;
		getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &now, &length);
		printf("SO_RCVTIMEO %ld\n", (long)now.tv_sec);
	}
}

// many_here_and_there sends so many at once, to 127.0.0.1 first, that not all are read at once.
static void many_here_and_there(void) {
	struct sockaddr_in here;
	static struct mmsghdr many[128];
	struct iovec part = {"log", 3};
	int at = local(&here), fd = udp(0);
	saying(fd, &dst, "echo");
	got("recvfrom", fd);
	for (int i = 0; i < 128; i++)
		many[i].msg_hdr = (struct msghdr){.msg_name = i < 64 ? &here : &dst, .msg_namelen = sizeof dst, .msg_iov = &part, .msg_iovlen = 1};
	result("sendmmsg", sendmmsg(fd, many, 128, 0));
	int count = 0;
	for (char data[10]; recv(at, data, sizeof data, MSG_DONTWAIT) == 3;)
		count++;
	printf("%d here\n", count);
	saying(fd, &dst, "report 64");
	got("recvfrom", fd);
}

// options has sockets with all combinations of some options, most of all those that many programs set, be connected.
static void options(void) {
	static const struct { int level, name, value; } what[] = {
		{IPPROTO_IP, IP_RECVERR, 1}, {SOL_SOCKET, SO_BROADCAST, 1}, {SOL_SOCKET, SO_REUSEADDR, 1},
		{IPPROTO_UDP, 104 /* UDP_GRO */, 1}, {SOL_SOCKET, SO_RCVLOWAT, 7}, {IPPROTO_IP, IP_TTL, 77},
	};
	enum { COUNT = sizeof what / sizeof *what };
	for (int which = 0; which < 1 << (COUNT + 2); which++) {
		int fd = udp((which >> COUNT & 1 ? SOCK_NONBLOCK : 0) | (which >> COUNT & 2 ? SOCK_CLOEXEC : 0));
		int bad = 0;
		for (int i = 0; i < COUNT; i++)
			bad |= which >> i & 1 && set(fd, what[i].level, what[i].name, what[i].value);
		bad |= conn_to(fd, &dst);
		printf("%02x: %d flags %x %x", which, bad, fcntl(fd, F_GETFL), fcntl(fd, F_GETFD));
		for (int i = 0; i < COUNT; i++)
			printf(" %d", get(fd, what[i].level, what[i].name));
		char data[20];
		send(fd, "echo", 4, 0);
		if (comes(fd))
			printf(" %ld", (long)recv(fd, data, sizeof data, MSG_DONTWAIT));
		printf(" %d\n", get(fd, SOL_SOCKET, SO_ERROR));
		close(fd);
	}
}

// signal_driven has signals tell of what comes.
static void signal_driven(void) {
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	for (int how = 0; how < 2; how++) {
		struct timespec time = {30, 0};
		siginfo_t info = {0};
		int fd = udp(0), blank = dup(fd);
		close(fd); // so that its number is another one than most
		fd = dup2(blank, 40 + how);
		close(blank);
		fcntl(fd, F_SETOWN, getpid());
		fcntl(fd, F_SETSIG, SIGRTMIN + 1);
		fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC);
		if (how == 1)
			to(fd, &dst, "echo");
		else if (conn_to(fd, &dst) || send(fd, "echo", 4, 0) != 4)
			die("connect and send");
		// A signal tells of room, too.
		while (sigtimedwait(&set, &info, &time) > 0 && !(info.si_band & POLLIN))
			;
		printf("signal with descriptor %d band %lx, flags %x", info.si_fd, info.si_band & POLLIN, fcntl(fd, F_GETFL));
		got(" ", fd);
		close(fd);
	}
}

// connecting_threads has one thread connect a socket and another one send with it, at once. Who answers must find it: it keeps the
// port that it has sent from.
static atomic_int rounds_begun, rounds_ended;
static int shared_socket;
enum { ROUNDS = 4000, FEWER = 400 };

// beyond waits until another thread has counted further than i: it takes no time if both have a processor.
static void beyond(int i, atomic_int *count) {
	for (int tries = 0; *count == i; tries++)
		if (tries > 10000)
			sched_yield();
}

static void *connecting(void *unused) {
	(void)unused;
	for (int i = 0; i < ROUNDS; i++) {
		beyond(i, &rounds_begun);
		conn_to(shared_socket, &dst);
		rounds_ended++;
	}
	return NULL;
}

static void connecting_threads(void) {
	int connected = 0, kept = 0;
	pthread_t thread;
	if (pthread_create(&thread, NULL, connecting, NULL))
		die("pthread_create");
	for (int i = 0; i < ROUNDS; i++) {
		shared_socket = udp(0);
		rounds_begun++;
		to(shared_socket, &dst, "log");
		int port = port_of(shared_socket);
		beyond(i, &rounds_ended);
		struct sockaddr_in peer;
		socklen_t length = sizeof peer;
		connected += !getpeername(shared_socket, (struct sockaddr *)&peer, &length) && peer.sin_port == dst.sin_port;
		// For a moment the kernel says 0, and sends from 0: it sets inet_num before inet_sport (inet_autobind in net/ipv4/af_inet.c).
		kept += port == 0 || port == port_of(shared_socket);
		close(shared_socket);
	}
	pthread_join(thread, NULL);
	printf("connected: %d\nwith the port: %d\n", connected, kept);
}

// receiving_threads has one thread begin to receive while another one connects the socket.
static void *receiving(void *unused) {
	(void)unused;
	char data[20];
	for (int i = 0; i < FEWER; i++) {
		beyond(i, &rounds_begun);
		if (recv(shared_socket, data, sizeof data, 0) != 4)
			die("recv");
		rounds_ended++;
	}
	return NULL;
}

static void receiving_threads(void) {
	pthread_t thread;
	if (pthread_create(&thread, NULL, receiving, NULL))
		die("pthread_create");
	for (int i = 0; i < FEWER; i++) {
		shared_socket = udp(0);
		rounds_begun++;
		for (volatile int spin = i % 200 * 20; spin > 0; spin--)
			;
		if (extras)
			to(shared_socket, &dst, "echo");
		else if (conn_to(shared_socket, &dst) || send(shared_socket, "echo", 4, 0) != 4)
			die("connect and send");
		for (int tries = 0; rounds_ended == i; tries++) {
			if (tries > 1000)
				usleep(1000);
			if (tries == 20000) {
				printf("in vain after %d rounds\n", i);
				return;
			}
		}
		close(shared_socket);
	}
	puts("all received");
}

static struct sockaddr_in other_side;
static volatile int turns_failed, turning;

static void *taking_turns(void *unused) {
	(void)unused;
	for (int i = 0; i < 300; i++)
		if (to(shared_socket, i % 2 ? &other_side : &dst, "log") != 3)
			__sync_fetch_and_add(&turns_failed, 1);
	__sync_fetch_and_sub(&turning, 1);
	return NULL;
}

// turning_threads has several threads send both ways through one socket: whichever has the other one put there, there is one port.
static void turning_threads(void) {
	enum { THREADS = 6 };
	int at = local(&other_side), port = 0, others = 0;
	shared_socket = udp(0);
	to(shared_socket, &dst, "log");
	turning = THREADS;
	for (int i = 0; i < THREADS; i++) {
		pthread_t thread;
		if (pthread_create(&thread, NULL, taking_turns, NULL))
			die("pthread_create");
	}
	for (;;) {
		int ended = !turning;
		struct pollfd ready = {.fd = at, .events = POLLIN};
		if (poll(&ready, 1, ended ? 0 : 10) != 1) {
			if (ended)
				break;
			continue;
		}
		struct sockaddr_in from;
		socklen_t length = sizeof from;
		char data[10];
		recvfrom(at, data, sizeof data, 0, (struct sockaddr *)&from, &length);
		if (!port)
			port = from.sin_port;
		others += port != from.sin_port;
	}
	printf(turns_failed ? "%d failed\n" : "none failed\n", turns_failed);
	printf(others ? "%d from other ports\n" : "one port\n", others);
}

// late_six is late for a socket that talks IPv6, too: answers come from ::1.
static void late_six(void) {
	static const int lengths[] = {4, 0, 1, 999, 20000};
	static char data[20000];
	struct sockaddr_in6 here = {.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback}, from, six = mapped(&dst);
	socklen_t length = sizeof here;
	int at = socket(AF_INET6, SOCK_DGRAM, 0), fd = socket(AF_INET6, SOCK_DGRAM, 0);
	if (bind(at, (struct sockaddr *)&here, sizeof here) || getsockname(at, (struct sockaddr *)&here, &length))
		die("bind to ::1");
	result("to ::1", sendto(fd, "hello", 5, 0, (struct sockaddr *)&here, sizeof here));
	wait_for(at, POLLIN);
	recvfrom(at, data, sizeof data, 0, (struct sockaddr *)&from, &length);
	for (int i = 0; i < 5; i++) {
		result("elsewhere", sendto(fd, "echo", 4, 0, (struct sockaddr *)&six, sizeof six));
		got("recvfrom", fd);
		memset(data, 'a' + i, sizeof data);
		result("answer", sendto(at, data, lengths[i], 0, (struct sockaddr *)&from, sizeof from));
		got("recvfrom", fd);
	}
	nothing_more(fd);
}

static int events_socket;
static unsigned how_to_wait;
static atomic_int heard_in_thread;

// watching waits with epoll_wait(2), receives all that there is, and then says anew what it waits for, if that was for once.
static void *watching(void *unused) {
	struct epoll_event event = {.events = EPOLLIN | how_to_wait}, told;
	int set = epoll_create1(0);
	epoll_ctl(set, EPOLL_CTL_ADD, events_socket, &event);
	while (epoll_wait(set, &told, 1, -1) == 1) {
		char data[50];
		while (recv(events_socket, data, sizeof data, MSG_DONTWAIT) > 0)
			heard_in_thread++;
		for (volatile int spin = heard_in_thread % 100 * 500; spin > 0; spin--)
			;
		if (how_to_wait & EPOLLONESHOT && epoll_ctl(set, EPOLL_CTL_MOD, events_socket, &event))
			die("EPOLL_CTL_MOD");
	}
	return NULL;
}

// watched sends to 127.0.0.1 and elsewhere in turn, as soon as a thread has received the answer, and while that is about to wait again.
static void watched(void) {
	struct sockaddr_in here;
	pthread_t thread;
	int at = local(&here);
	how_to_wait = !strcmp(extra[0], "once") ? EPOLLONESHOT : !strcmp(extra[0], "edge") ? EPOLLET : 0;
	events_socket = udp(0);
	if (pthread_create(&thread, NULL, watching, NULL))
		die("pthread_create");
	for (int i = 0; i < 400; i++) {
		struct sockaddr_in from;
		socklen_t length = sizeof from;
		char data[50];
		to(events_socket, i % 2 ? &dst : &here, "echo");
		if (i % 2 == 0 && recvfrom(at, data, sizeof data, 0, (struct sockaddr *)&from, &length) > 0)
			to(at, &from, "and back");
		for (int tries = 0; heard_in_thread == i; tries++) {
			if (tries > 100)
				usleep(1000);
			if (tries == 20000) {
				printf("in vain after %d\n", i);
				return;
			}
		}
	}
	puts("all heard");
}

// both_at_once has answers of two destinations under way at a time.
static void both_at_once(void) {
	struct sockaddr_in here;
	int at = local(&here), fd = udp(0);
	for (int i = 0; i < 3; i++) {
		saying(fd, &dst, "echo");
		saying(fd, &here, "to 127.0.0.1");
		bounce(at, "and back");
		gather("answers", fd, 2);
	}
}

// by_turns connects one socket to two peers, again and again. Its port and address are what it got the first time: with that of 127.0.0.1 nobody
// else is reached.
static void by_turns(void) {
	struct sockaddr_in here;
	int at = local(&here);
	for (int i = 0; i < 2; i++) {
		int fd = udp(0), port = 0;
		for (int turn = i; turn < 5; turn++) {
			if (turn % 2)
				result("connect to 127.0.0.1", conn_to(fd, &here));
			else if (result("connect", conn_to(fd, &dst)))
				continue;
			if (!port)
				port = port_of(fd);
			printf("%s\n", port_of(fd) == port ? "that port" : "another port");
			result("send", send(fd, "echo", 4, 0));
			if (turn % 2) {
				struct sockaddr_in from;
				socklen_t length = sizeof from;
				char data[10];
				wait_for(at, POLLIN);
				sendto(at, data, recvfrom(at, data, sizeof data, 0, (struct sockaddr *)&from, &length), 0, (struct sockaddr *)&from, length);
			}
			got("recvfrom", fd);
		}
		saying(fd, &dst, "log");
	}
}

// queued has an answer come from 127.0.0.1, and receives it when the socket has sent elsewhere, or has been connected.
static void queued(void) {
	struct sockaddr_in here;
	int at = local(&here);
	for (int connects = 0; connects < 2; connects++) {
		int fd = udp(0);
		saying(fd, &here, "to 127.0.0.1");
		bounce(at, "and back");
		wait_for(fd, POLLIN);
		if (connects) {
			result("connect", conn_to(fd, &dst));
			result("send", send(fd, "echo", 4, 0));
		} else
			saying(fd, &dst, "echo");
		gather("answers", fd, 2);
	}
	int fd = udp(0); // and it is connected to the one and the other first
	saying(fd, &dst, "echo");
	wait_for(fd, POLLIN);
	for (int turn = 0; turn < 3; turn++)
		result("connect", conn_to(fd, turn % 2 ? &here : &other));
	gather("after all that", fd, 1);
}

// three_ways has one socket talk with three peers, which answer when another one has been sent to.
static void three_ways(void) {
	struct sockaddr_in here, across = dst;
	int at = local(&here), fd = udp(0);
	inet_pton(AF_INET, extra[0], &across.sin_addr);
	for (int i = 0; i < 3; i++) {
		saying(fd, &dst, "echo");
		saying(fd, &across, "echo");
		saying(fd, &here, "to 127.0.0.1");
		saying(fd, &across, "delay 20");
		bounce(at, "and back");
		saying(fd, &dst, "echo again");
		gather("answers", fd, 5);
	}
}

// both_families has an AF_INET6 socket talk with an IPv6 peer and with an IPv4 one. Each answers when the other has been sent to.
static void both_families(void) {
	struct sockaddr_in6 here = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT}, there = mapped(&dst), from;
	int at = socket(AF_INET6, SOCK_DGRAM, 0), fd = socket(AF_INET6, SOCK_DGRAM, 0);
	char data[50];
	socklen_t length = sizeof here;
	if (bind(at, (struct sockaddr *)&here, sizeof here) || getsockname(at, (struct sockaddr *)&here, &length))
		die("bind to ::1");
	for (int i = 0; i < 3; i++) {
		to6(fd, &there, "echo");
		result("send to ::1", to6(fd, &here, "to ::1"));
		wait_for(at, POLLIN);
		length = sizeof from;
		long n = recvfrom(at, data, sizeof data, 0, (struct sockaddr *)&from, &length);
		printf("at ::1: \"%.*s\" from %s\n", (int)n, data, who(&from, length));
		result("send", to6(fd, &there, "echo again"));
		sendto(at, data, n, 0, (struct sockaddr *)&from, length); // an odd length, and
		sendto(at, data, n - 1, 0, (struct sockaddr *)&from, length);
		gather("answers", fd, 4);
	}
	result("connect", connect(fd, (struct sockaddr *)&there, sizeof there));
	result("a short address", sendto(fd, "log", 3, 0, (struct sockaddr *)&there, 20));
	result("send", send(fd, "echo", 4, 0));
	got("recvfrom", fd);
	nothing_more(fd);
}

// late has an answer come back from 127.0.0.1 after the socket has sent elsewhere, and without another send. With an argument, it
// has gone back and forth before, and another socket is bound in between.
static void late(void) {
	struct sockaddr_in here, from;
	socklen_t length = sizeof from;
	char data[50];
	int at = local(&here), fd = udp(0);
	saying(fd, &here, "to 127.0.0.1");
	wait_for(at, POLLIN);
	recvfrom(at, data, sizeof data, 0, (struct sockaddr *)&from, &length);
	saying(fd, &dst, "echo");
	got("recvfrom", fd);
	for (int i = 0; i < 4 && extras; i++) {
		saying(fd, &here, "to 127.0.0.1");
		bounce(at, NULL);
		saying(fd, &dst, "echo");
		got("recvfrom", fd);
		local(&(struct sockaddr_in){0});
	}
	to(at, &from, "late");
	got("recvfrom", fd);
}

// parent_idles reports whether this process's parent, which is upconv if there is one, has nothing to do for a while.
static int parent_idles(void) {
	char path[50], text[1000] = "";
	long used[2] = {0};
	snprintf(path, sizeof path, "/proc/%d/stat", getppid());
	for (int i = 0; i < 2; i++) {
		long user = 0, system = 0;
		FILE *file = fopen(path, "r");
		if (!file || !fread(text, 1, sizeof text - 1, file))
			die(path);
		fclose(file);
		if (sscanf(strrchr(text, ')'), ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %ld %ld", &user, &system) != 2)
			die("the fields of proc_pid_stat(5)");
		used[i] = user + system;
		if (!i)
			usleep(500000);
	}
	return used[1] - used[0] < sysconf(_SC_CLK_TCK) / 5;
}

// late_with_error is late for a socket that has an error in its queue, which nobody takes out.
static void late_with_error(void) {
	struct sockaddr_in here, nobody, from;
	socklen_t length = sizeof from;
	char data[50];
	int at = local(&here), fd = udp(0);
	result("IP_RECVERR", set(fd, IPPROTO_IP, IP_RECVERR, 1));
	close(local(&nobody));
	saying(fd, &here, "to 127.0.0.1");
	wait_for(at, POLLIN);
	recvfrom(at, data, sizeof data, 0, (struct sockaddr *)&from, &length);
	saying(fd, &nobody, "to nobody");
	printf("SO_ERROR %d\n", get(fd, SOL_SOCKET, SO_ERROR));
	saying(fd, &dst, "echo");
	printf("recv: %zd\n", recv(fd, data, sizeof data, 0));
	printf("upconv %s\n", parent_idles() ? "idles" : "is busy");
	to(at, &from, "late");
	printf("recv: %zd\n", recv(fd, data, sizeof data, 0));
}

static struct sockaddr_in two[2];
static atomic_int turns[4];

static void *poll_and_send(void *number) {
	struct timespec soon = {0, 100000};
	struct pollfd p = {shared, POLLIN, 0};
	int n = (int)(long)number;
	for (char data[100];; turns[n]++) {
		ppoll(&p, 1, &soon, NULL);
		recv(shared, data, sizeof data, MSG_DONTWAIT);
		to(shared, &two[(turns[n] + n) % 2], "log a thread");
	}
}

// polling_threads has threads poll a socket and send on it to two places by turns, as this one does: each may be interrupted
// when it waits no more, but is in its next call.
static void polling_threads(void) {
	pthread_t thread;
	int slow = 0;
	two[0] = dst;
	local(&two[1]);
	shared = udp(0);
	for (long i = 0; i < 4; i++)
		if (pthread_create(&thread, NULL, poll_and_send, (void *)i))
			die("pthread_create");
	struct timespec began, before, after = {0};
	clock_gettime(CLOCK_MONOTONIC, &began);
	for (int i = 0; i < 3500 && !slow && after.tv_sec < began.tv_sec + 8; i++) {
		clock_gettime(CLOCK_MONOTONIC, &before);
		to(shared, &two[i % 2], "log it");
		clock_gettime(CLOCK_MONOTONIC, &after);
		slow = after.tv_sec - before.tv_sec + (after.tv_nsec - before.tv_nsec) / 1e9 > 0.9;
		usleep(200);
	}
	for (int i = 0; i < 4; i++) {
		int before = turns[i];
		for (int waits = 0; waits < 300 && turns[i] == before; waits++)
			usleep(10000);
		printf("thread %d %s\n", i, turns[i] == before ? "hangs" : "goes on");
	}
}

// one_port sees whether both sides see the same source port.
static void one_port(void) {
	struct sockaddr_in here, from;
	socklen_t length = sizeof from;
	char data[50] = "";
	int at = local(&here), fd = udp(0), port = 0, first = *extra && !strcmp(*extra, "elsewhere first");
	for (int i = 0; i < 2; i++)
		if (i == first) {
			saying(fd, &here, "to 127.0.0.1");
			wait_for(at, POLLIN);
			recvfrom(at, data, sizeof data, 0, (struct sockaddr *)&from, &length);
		} else {
			saying(fd, &dst, "port");
			wait_for(fd, POLLIN);
			memset(data, 0, sizeof data);
			recv(fd, data, sizeof data, MSG_DONTWAIT);
			sscanf(data, "port %d", &port);
		}
	printf("%s\n", port == ntohs(from.sin_port) ? "the same port for both" : "two ports");
	printf("getsockname: %s\n", port_of(fd) == port ? "that one" : "another");
}

// departed goes on with a socket when the program has gone to another network namespace.
static void departed(void) {
	struct sockaddr_in here;
	int at = local(&here), fd = udp(0);
	result("unshare", unshare(CLONE_NEWNET));
	for (int i = 0; i < 4; i++) {
		if (i % 2) {
			saying(fd, &here, "to 127.0.0.1");
			bounce(at, "and back");
		} else {
			saying(fd, &dst, "echo");
		}
		got("recvfrom", fd);
	}
	fd = udp(0);
	saying(fd, &dst, "echo");
}

// multicast stays where the program is.
static void multicast(void) {
	struct sockaddr_in group = {.sin_family = AF_INET, .sin_port = htons(atoi(extra[0]))};
	struct in_addr lo = {htonl(INADDR_LOOPBACK)};
	int at = udp(0), fd = udp(0);
	struct ip_mreq request = {.imr_interface = lo};
	inet_aton("224.0.0.251", &group.sin_addr);
	request.imr_multiaddr = group.sin_addr;
	set(at, SOL_SOCKET, SO_REUSEADDR, 1);
	result("bind", bind(at, (struct sockaddr *)&group, sizeof group));
	result("IP_ADD_MEMBERSHIP", setsockopt(at, IPPROTO_IP, IP_ADD_MEMBERSHIP, &request, sizeof request));
	result("IP_MULTICAST_IF", setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &lo, sizeof lo));
	saying(fd, &group, "to the group");
	bounce(at, "and back");
	got("recvfrom", fd);
	saying(fd, &dst, "echo");
	got("recvfrom", fd);
	saying(fd, &group, "to the group again");
	bounce(at, NULL);
}

// broadcast is for a namespace with an interface on which there can be one.
static void broadcast(void) {
	struct sockaddr_in all = dst;
	int fd = udp(0);
	all.sin_addr.s_addr = htonl(INADDR_BROADCAST);
	saying(fd, &all, "log broadcast");
	result("SO_BROADCAST", set(fd, SOL_SOCKET, SO_BROADCAST, 1));
	saying(fd, &all, "log broadcast");
	result("connect", conn_to(fd, &all));
	inet_aton("224.0.0.251", &all.sin_addr);
	saying(fd, &all, "log multicast");
	result("connect", conn_to(fd, &all));
}

static void peeks(void) {
	static char data[200];
	struct sockaddr_storage from;
	int fd = udp(0);
	saying(fd, &dst, "echo 0123456789");
	wait_for(fd, POLLIN);
	socklen_t length = sizeof from;
	int waiting = -1;
	result("FIONREAD", ioctl(fd, FIONREAD, &waiting));
	printf("%d bytes\n", waiting);
	result("MSG_PEEK", recvfrom(fd, data, 100, MSG_PEEK, (struct sockaddr *)&from, &length));
	printf("from %s\n", who(&from, length));
	result("MSG_PEEK | MSG_TRUNC, short", recv(fd, data, 4, MSG_PEEK | MSG_TRUNC));
	length = 8;
	memset(&from, 0xaa, sizeof from);
	result("MSG_PEEK with a short address", recvfrom(fd, data, 100, MSG_PEEK, (struct sockaddr *)&from, &length));
	printf("length %d, after it %x\n", (int)length, ((unsigned char *)&from)[8]);
	length = 0;
	result("MSG_PEEK with no room for one", recvfrom(fd, data, 100, MSG_PEEK, (struct sockaddr *)&from, &length));
	printf("length %d\n", (int)length);
	length = -1;
	result("MSG_PEEK with a negative length", recvfrom(fd, data, 100, MSG_PEEK, (struct sockaddr *)&from, &length));
	result("MSG_PEEK with a bad length", recvfrom(fd, data, 100, MSG_PEEK, (struct sockaddr *)&from, (void *)1));
	result("short", recvfrom(fd, data, 4, 0, NULL, NULL));
	nothing_more(fd);
	saying(fd, &dst, "echo bad address");
	wait_for(fd, POLLIN);
	length = sizeof from;
	result("a bad address", recvfrom(fd, data, 100, 0, (void *)1, &length));
	saying(fd, &dst, "echo bad data");
	wait_for(fd, POLLIN);
	result("bad data", recvfrom(fd, (void *)1, 100, 0, (struct sockaddr *)&from, &length));
	nothing_more(fd);

	struct iovec parts[3] = {{data, 3}, {data + 50, 0}, {data + 100, 5}};
	struct msghdr msg = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = parts, .msg_iovlen = 3};
	saying(fd, &dst, "echo in parts");
	memset(data, '-', sizeof data);
	result("recvmsg", recvmsg(fd, &msg, 0));
	printf("%.3s %.5s from %s flags %x\n", data, data + 100, who(&from, msg.msg_namelen), msg.msg_flags);
	saying(fd, &dst, "echo in parts");
	msg.msg_namelen = sizeof from;
	result("recvmsg, MSG_TRUNC", recvmsg(fd, &msg, MSG_TRUNC));
	printf("flags %x\n", msg.msg_flags);
	msg.msg_namelen = 5;
	saying(fd, &dst, "echo 1");
	result("recvmsg with a short name", recvmsg(fd, &msg, 0));
	printf("namelen %d\n", (int)msg.msg_namelen);
	msg.msg_name = NULL;
	saying(fd, &dst, "echo 1");
	result("recvmsg without a name", recvmsg(fd, &msg, 0));
	printf("namelen %d\n", (int)msg.msg_namelen);
	result("recvmsg, a bad message", recvmsg(fd, (void *)1, MSG_DONTWAIT));
	result("recvmsg, none there", recvmsg(fd, &msg, MSG_DONTWAIT));
	msg.msg_iovlen = 1025;
	result("recvmsg, too many parts", recvmsg(fd, &msg, MSG_DONTWAIT));
}

static void receive_several(void) {
	static char data[8][50];
	struct sockaddr_in from[8];
	struct iovec parts[8];
	struct mmsghdr all[8] = {0};
	for (int how = 0; how < 5; how++) {
		int fd = udp(0), sent = 4;
		for (int i = 0; i < 8; i++) {
			parts[i] = (struct iovec){data[i], sizeof data[i]};
			all[i] = (struct mmsghdr){.msg_hdr = {.msg_name = &from[i], .msg_namelen = sizeof from[i], .msg_iov = &parts[i], .msg_iovlen = 1}};
		}
		for (int i = 0; i < sent; i++) {
			char text[20];
			sprintf(text, "echo %d", i);
			to(fd, &dst, text);
		}
		settle();
		struct timespec limit = {10, 0};
		const char *what[] = {"recvmmsg of 4", "of 8, MSG_DONTWAIT", "of 8, MSG_WAITFORONE", "of 2, twice", "of 4, for a time"};
		int n = recvmmsg(fd, all, how % 4 == 0 ? 4 : how == 3 ? 2 : 8, how == 1 ? MSG_DONTWAIT : how == 2 ? MSG_WAITFORONE : 0, how == 4 ? &limit : NULL);
		result(what[how], n);
		for (int i = 0; i < n; i++)
			printf("\"%.*s\" from %s flags %x\n", (int)all[i].msg_len, data[i], who(&from[i], all[i].msg_hdr.msg_namelen), all[i].msg_hdr.msg_flags);
		if (how == 3) {
			result(what[how], n = recvmmsg(fd, all, 2, 0, NULL));
			for (int i = 0; i < n; i++)
				printf("\"%.*s\" from %s\n", (int)all[i].msg_len, data[i], who(&from[i], all[i].msg_hdr.msg_namelen));
		}
		close(fd);
	}
}

static atomic_int signals;

static void on_signal(int number) { signals++; }

static double seconds(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

// blocked has receives end by a signal, by SO_RCVTIMEO, and not end by a signal with SA_RESTART.
static void blocked(void) {
	char data[50];
	struct sockaddr_in from;
	socklen_t length = sizeof from;
	for (int how = 0; how < 3; how++) { // recv, recvfrom, recvmsg
		int fd = udp(0);
		struct sigaction act = {.sa_handler = on_signal};
		struct itimerval once = {.it_value = {0, 100000}};
		struct timeval limit = {0, 300000};
		struct iovec part = {data, sizeof data};
		struct msghdr msg = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &part, .msg_iovlen = 1};
		saying(fd, &dst, "echo");
		got("recvfrom", fd);
#define RECEIVE (how == 0 ? recv(fd, data, sizeof data, 0) : how == 1 ? recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&from, &length) : recvmsg(fd, &msg, 0))
		sigaction(SIGALRM, &act, NULL);
		signals = 0;
		setitimer(ITIMER_REAL, &once, NULL);
		result("a signal", RECEIVE);
		printf("signals: %d\n", signals);

		act.sa_flags = SA_RESTART;
		sigaction(SIGALRM, &act, NULL);
		setitimer(ITIMER_REAL, &once, NULL);
		saying(fd, &dst, "delay 300");
		double began = seconds();
		result("SA_RESTART", RECEIVE);
		printf("signals: %d, %s\n", signals, seconds() - began > 0.2 ? "in time" : "too early");

		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
		began = seconds();
		result("SO_RCVTIMEO", RECEIVE);
		printf("%s\n", seconds() - began < 0.29 ? "too early" : seconds() - began > 2 ? "too late" : "in time");
		saying(fd, &dst, "echo within SO_RCVTIMEO");
		result("within SO_RCVTIMEO", RECEIVE);

		act.sa_flags = 0;
		sigaction(SIGALRM, &act, NULL);
		setitimer(ITIMER_REAL, &once, NULL);
		limit.tv_sec = 5;
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
		result("a signal before SO_RCVTIMEO", RECEIVE);

		limit.tv_sec = sizeof limit.tv_sec == 8 ? 18446744074 : 5; // a little more than 64 bits have of nanoseconds
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
		saying(fd, &dst, "delay 800");
		result("within centuries", RECEIVE);
		close(fd);
	}
}

// spray: a socket of its own for each of many datagrams, as resolvers do.
static void spray(void) {
	int answers = 0;
	for (int i = 0; i < 300; i++) {
		int fd = udp(SOCK_CLOEXEC | (i % 2 ? SOCK_NONBLOCK : 0));
		char data[10];
		to(fd, &dst, "echo");
		answers += wait_for(fd, POLLIN) == POLLIN && recv(fd, data, sizeof data, 0) == 4;
		close(fd);
	}
	printf("%d answers\n", answers);
}

// untouched are sockets that datagrams of others go through.
static void untouched(void) {
	int pair[2], kinds[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};
	for (int k = 0; k < 3; k++) {
		if (socketpair(AF_UNIX, kinds[k], 0, pair))
			die("socketpair");
		set(pair[1], SOL_SOCKET, SO_PASSCRED, 1);
		int passed = udp(0);
		union {
			struct cmsghdr header;
			char space[256];
		} u = {0};
		char data[10];
		struct iovec part = {"passed", 6};
		struct msghdr msg = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = CMSG_SPACE(sizeof(int))};
		u.header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
		memcpy(CMSG_DATA(&u.header), &passed, sizeof passed);
		result("SCM_RIGHTS", sendmsg(pair[0], &msg, 0));
		part = (struct iovec){data, sizeof data};
		msg.msg_controllen = sizeof u;
		result("received", recvmsg(pair[1], &msg, 0));
		for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
			printf("level %d type %d\n", c->cmsg_level, c->cmsg_type);
			if (c->cmsg_type == SCM_CREDENTIALS) {
				struct ucred *cred = (void *)CMSG_DATA(c);
				printf("%s, %d\n", cred->pid == getpid() ? "it" : "another", cred->uid);
			} else {
				int got_fd;
				memcpy(&got_fd, CMSG_DATA(c), sizeof got_fd);
				saying(got_fd, &dst, "echo by a socket that was passed");
				got("recvfrom", got_fd);
				close(got_fd);
			}
		}
		saying(passed, &dst, "echo");
		got("recvfrom", passed);
		close(passed);
		static char large[100000];
		part = (struct iovec){(void *)8, 6};
		int lonely = socket(AF_UNIX, kinds[k], 0);
		msg = (struct msghdr){.msg_iov = &part, .msg_iovlen = 1, .msg_control = large, .msg_controllen = sizeof large};
		result("large and empty control messages", sendmsg(pair[0], &msg, MSG_DONTWAIT));
		msg.msg_controllen = 0;
		result("bad data for nobody", sendmsg(lonely, &msg, MSG_DONTWAIT | MSG_NOSIGNAL));
		close(lonely);
		struct ucred cred = {getpid(), getuid(), getgid()};
		part = (struct iovec){"cred", 4};
		msg = (struct msghdr){.msg_iov = &part, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = CMSG_SPACE(sizeof cred)};
		u.header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_CREDENTIALS, .cmsg_len = CMSG_LEN(sizeof cred)};
		memcpy(CMSG_DATA(&u.header), &cred, sizeof cred);
		struct mmsghdr two[2] = {{.msg_hdr = msg}, {.msg_hdr = msg}};
		result("SCM_CREDENTIALS twice", sendmmsg(pair[0], two, 2, 0));
		if (k == 1) {
			struct sockaddr_un name = {.sun_family = AF_UNIX};
			socklen_t length = sizeof(sa_family_t);
			int named = socket(AF_UNIX, SOCK_DGRAM, 0);
			bind(named, (struct sockaddr *)&name, length);
			length = sizeof name;
			getsockname(named, (struct sockaddr *)&name, &length);
			int from = socket(AF_UNIX, SOCK_DGRAM, 0);
			result("sendto AF_UNIX", sendto(from, "hello", 5, 0, (struct sockaddr *)&name, length));
			result("recv", recv(named, data, sizeof data, MSG_DONTWAIT));
			name.sun_path[1] = 'z';
			result("sendto nobody's AF_UNIX", sendto(from, "hello", 5, 0, (struct sockaddr *)&name, sizeof name));
		}
		close(pair[0]);
		close(pair[1]);
	}
	// TCP by sendmsg, and with an address, which it ignores.
	struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof here;
	int l = socket(AF_INET, SOCK_STREAM, 0), tcp = socket(AF_INET, SOCK_STREAM, 0), end;
	char data[50];
	bind(l, (struct sockaddr *)&here, sizeof here);
	listen(l, 1);
	getsockname(l, (struct sockaddr *)&here, &length);
	result("connect", connect(tcp, (struct sockaddr *)&here, sizeof here));
	end = accept(l, NULL, NULL);
	struct iovec part = {"stream", 6};
	struct msghdr msg = {.msg_name = &dst, .msg_namelen = sizeof dst, .msg_iov = &part, .msg_iovlen = 1};
	result("sendmsg", sendmsg(tcp, &msg, 0));
	result("sendto", sendto(tcp, "stream", 6, 0, (struct sockaddr *)&dst, sizeof dst));
	result("recv", recv(end, data, 12, MSG_WAITALL));
	// IPv6 and netlink
	int nl = socket(AF_NETLINK, SOCK_RAW, 0);
	struct {
		struct { uint32_t length; uint16_t type, flags; uint32_t sequence, pid; } header;
		unsigned char family, rest[15];
	} request = {{32, 18 /* RTM_GETLINK */, 0x301, 1, 0}, 0, {0}};
	struct { uint16_t family, pad; uint32_t pid, groups; } kernel = {AF_NETLINK, 0, 0, 0};
	result("netlink", sendto(nl, &request, sizeof request, 0, (struct sockaddr *)&kernel, sizeof kernel) == sizeof request ? 0 : -1);
	printf("netlink answers: %d\n", recv(nl, data, sizeof data, 0) > 0);
}

// rejected CODE: what each call says to a destination that a rule rejects.
static void rejected(void) {
	struct sockaddr_in no = address(extra[0], "53");
	for (int again = 0; again < 2; again++) {
		int fd = udp(0);
		if (again) {
			saying(fd, &dst, "echo");
			got("recvfrom", fd);
		}
		saying(fd, &no, "log");
		struct iovec part = {"echo", 4};
		struct msghdr msg = {.msg_name = &no, .msg_namelen = sizeof no, .msg_iov = &part, .msg_iovlen = 1};
		result("sendmsg", sendmsg(fd, &msg, 0));
		struct mmsghdr two[3] = {{.msg_hdr = msg}, {.msg_hdr = msg}, {.msg_hdr = msg}};
		result("sendmmsg, the first", sendmmsg(fd, two, 3, 0));
		two[0].msg_hdr.msg_name = &dst;
		result("sendmmsg, the second", sendmmsg(fd, two, 3, 0));
		got("recvfrom", fd);
		result("connect", conn_to(fd, &no));
		names(fd);
		saying(fd, &dst, "echo");
		got("recvfrom", fd);
		nothing_more(fd);
		close(fd);
	}
}

// modes: what --udp leaves of it.
// pings sends echo requests, and what is none.
static void pings(void) {
	static unsigned char echo[4][16];
	struct { struct cmsghdr header; int value; } bad = {{CMSG_LEN(sizeof(int)), IPPROTO_IP, IP_TTL}, 0};
	struct iovec parts[4];
	struct mmsghdr all[4] = {0};
	for (int again = 0; again < 2; again++) {
		int fd = -1;
		for (int how = 0; how < 8; how++) {
			if (fd < 0 || !again) {
				close(fd);
				fd = socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
			}
			for (int i = 0; i < 4; i++) {
				memset(echo[i], 0, sizeof echo[i]);
				echo[i][0] = 8; // ICMP_ECHO
				echo[i][7] = i + 1;
				parts[i] = (struct iovec){echo[i], sizeof echo[i]};
				all[i].msg_hdr = (struct msghdr){.msg_name = &dst, .msg_namelen = sizeof dst, .msg_iov = &parts[i], .msg_iovlen = 1};
			}
			struct mmsghdr *odd = &all[how % 2 ? 0 : 2];
			const char *what[] = {"another type", "a reply", "a code", "too short", };
			switch (how / 2) {
			case 0:
				*(char *)odd->msg_hdr.msg_iov->iov_base = 13; // ICMP_TIMESTAMP
				break;
			case 1:
				*(char *)odd->msg_hdr.msg_iov->iov_base = 0; // ICMP_ECHOREPLY
				odd->msg_hdr.msg_control = &bad;
				odd->msg_hdr.msg_controllen = sizeof bad;
				break;
			case 2:
				((char *)odd->msg_hdr.msg_iov->iov_base)[1] = 1;
				break;
			case 3:
				odd->msg_hdr.msg_iov->iov_len = 7;
			}
			long n = result(what[how / 2], sendmmsg(fd, all, 4, 0));
			for (int i = 0; i < n; i++) {
				unsigned char data[50] = {0};
				long size = comes(fd) ? recv(fd, data, sizeof data, MSG_DONTWAIT) : -1;
				printf("%ld bytes, number %d\n", size, data[7]);
			}
			odd->msg_hdr.msg_control = NULL;
			odd->msg_hdr.msg_controllen = 0;
			odd->msg_hdr.msg_iov->iov_len = sizeof echo[0];
			echo[odd - all][0] = 8;
			echo[odd - all][1] = 0;
			odd->msg_hdr.msg_control = &bad;
			odd->msg_hdr.msg_controllen = sizeof bad;
			n = result("and a bad control message", sendmmsg(fd, all, 4, 0));
			for (int i = 0; i < n; i++) {
				unsigned char data[50] = {0};
				long size = comes(fd) ? recv(fd, data, sizeof data, MSG_DONTWAIT) : -1;
				printf("%ld bytes, number %d\n", size, data[7]);
			}
		}
		close(fd);
	}
}

static void modes(void) {
	int fd = udp(0);
	struct iovec part = {"echo", 4};
	struct msghdr msg = {.msg_name = &dst, .msg_namelen = sizeof dst, .msg_iov = &part, .msg_iovlen = 1};
	struct mmsghdr one = {.msg_hdr = msg};
	int sent = saying(fd, &dst, "echo unconnected") > 0;
	sent += result("sendmsg", sendmsg(fd, &msg, 0)) > 0;
	sent += result("sendmmsg", sendmmsg(fd, &one, 1, 0)) > 0;
	while (sent-- > 0)
		got("recvfrom", fd);
	if (result("connect", conn_to(fd, &dst)) == 0) {
		result("send", send(fd, "echo", 4, 0));
		got("recv", fd);
		if (saying(fd, &dst, "echo with an address") < 0)
			patience = 500; // for what should not come
		got("recv", fd);
	}
	int tcp = sock(0);
	result("TCP", conn_to(tcp, &dst));
}

// simple is for a route on which there is but one peer.
static void simple(void) {
	int fd = udp(0);
	saying(fd, &dst, "echo 1");
	got("recvfrom", fd);
	names(fd);
	struct iovec part = {"echo 2", 6};
	struct msghdr msg = {.msg_name = &dst, .msg_namelen = sizeof dst, .msg_iov = &part, .msg_iovlen = 1};
	struct mmsghdr two[2] = {{.msg_hdr = msg}, {.msg_hdr = msg}};
	result("sendmsg", sendmsg(fd, &msg, 0));
	got("recvfrom", fd);
	result("sendmmsg", sendmmsg(fd, two, 2, 0));
	got("recvfrom", fd);
	got("recvfrom", fd);
	result("nothing", sendto(fd, NULL, 0, 0, (struct sockaddr *)&dst, sizeof dst));
	got("recvfrom", fd);
	result("sendto", sendto(fd, in_hundreds(65507), 65507, 0, (struct sockaddr *)&dst, sizeof dst));
	got("recvfrom", fd);
	result("too much", sendto(fd, in_hundreds(65508), 65508, 0, (struct sockaddr *)&dst, sizeof dst));
	result("connect", conn_to(fd, &dst));
	names(fd);
	result("send", send(fd, "echo 3", 6, 0));
	got("recv", fd);
	result("sendmsg", sendmsg(fd, &msg, 0));
	got("recv", fd);
	nothing_more(fd);
	close(fd);
	fd = udp(SOCK_NONBLOCK);
	result("connect", conn_to(fd, &dst));
	names(fd);
	result("write", write(fd, "echo 4", 6));
	got("recv", fd);
	saying(fd, &dst, "echo 5");
	got("recv", fd);
}

// from_unix sends one along a route to a Unix socket, at EXTRA, and then to another destination, and what natively goes nowhere.
static void from_unix(void) {
	struct sockaddr_in across = address(extra[0], "9");
	struct sockaddr_un path = {.sun_family = AF_UNIX};
	snprintf(path.sun_path, sizeof path.sun_path, "%s", extra[1]);
	int fd = udp(0);
	saying(fd, &across, "echo to a Unix socket");
	for (int i = 0; i < 2; i++)
		saying(fd, &dst, "echo");
	got("recvfrom", fd);
	got("recvfrom", fd);
	fd = udp(0);
	saying(fd, &across, "echo to a Unix socket");
	saying(fd, &dst, "echo");
	result("sendto, AF_UNIX", sendto(fd, "log", 3, 0, (struct sockaddr *)&path, sizeof path));
}

// interfaces asks a datagram socket for them, as ifconfig(8) does.
static void interfaces(void) {
	int fd = udp(0), six = socket(AF_INET6, SOCK_DGRAM, 0);
	struct ifreq all[20];
	struct ifconf conf = {.ifc_len = sizeof all, .ifc_req = all};
	result("SIOCGIFCONF", ioctl(fd, SIOCGIFCONF, &conf));
	for (int i = 0; i < conf.ifc_len / (int)sizeof *all; i++)
		printf("%s %s\n", all[i].ifr_name, who(&all[i].ifr_addr, sizeof(struct sockaddr_in)));
	for (int i = 1; i < 8; i++) {
		struct ifreq one = {.ifr_ifindex = i};
		if (result("SIOCGIFNAME", ioctl(fd, SIOCGIFNAME, &one)))
			continue;
		printf("%s\n", one.ifr_name);
		result("SIOCGIFADDR", ioctl(fd, SIOCGIFADDR, &one));
		if (!result("SIOCGIFFLAGS", ioctl(fd, SIOCGIFFLAGS, &one)))
			printf("%x\n", one.ifr_flags);
		result("SIOCGIFFLAGS, AF_INET6", ioctl(six, SIOCGIFFLAGS, &one));
	}
}

int main(int argc, char **argv) {
	if (argc < 6) {
		fprintf(stderr, "usage: udp_probe CASE ADDRESS PORT OTHER-PORT CLOSED-PORT [ARG...]\n");
		return 2;
	}
	destination(argv);
	other = address(argv[2], argv[4]);
	closed_port = address(argv[2], argv[5]);
	extra = argv + 6;
	extras = argc - 6;
	// Whoever hangs shall say so soon.
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGTERM};
	struct itimerspec limit = {.it_value = {20, 0}};
	timer_t timer;
	if (timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &limit, NULL))
		die("timer_create");
	const char *name = argv[1];
	struct { const char *name; void (*f)(void); } cases[] = {
		{"connected", connected}, {"unconnected", unconnected}, {"nonblocking", nonblocking}, {"iovecs", iovecs}, {"several", several}, {"more", more},
		{"segment", segment}, {"controls", controls}, {"infos", infos}, {"empty", empty}, {"sizes", sizes},
		{"refused", refused}, {"recverr", recverr}, {"zerocopy", zerocopy}, {"bad", bad}, {"bound", bound}, {"killed", killed}, {"survived", survived}, {"bound-to-loopback", bound_to_loopback}, {"reuseport", reuseport},
		{"mapped", as_mapped}, {"dissolve", dissolve}, {"duplicates", duplicates}, {"forked", forked}, {"forked-before", forked_before},
		{"threads", threads}, {"here-and-there", here_and_there}, {"beside", beside}, {"set-back", set_back},
		{"many-here-and-there", many_here_and_there}, {"both-at-once", both_at_once}, {"both-families", both_families}, {"by-turns", by_turns}, {"queued", queued}, {"turning-threads", turning_threads}, {"three-ways", three_ways}, {"options", options}, {"signal-driven", signal_driven}, {"connecting-threads", connecting_threads}, {"receiving-threads", receiving_threads},
		{"late", late}, {"late-six", late_six}, {"watched", watched}, {"late-with-error", late_with_error}, {"polling-threads", polling_threads}, {"one-port", one_port}, {"departed", departed},
		{"multicast", multicast}, {"broadcast", broadcast}, {"peeks", peeks}, {"receive-several", receive_several}, {"blocked", blocked}, {"spray", spray},
		{"untouched", untouched}, {"rejected", rejected}, {"pings", pings}, {"modes", modes}, {"simple", simple}, {"interfaces", interfaces}, {"from-unix", from_unix},
	};
	for (int i = 0; i < (int)(sizeof cases / sizeof *cases); i++)
		if (!strcmp(name, cases[i].name)) {
			cases[i].f();
			puts("end");
			return 0;
		}
	if (!strcmp(name, "ready"))
		ready(extra[0]);
	else if (!strcmp(name, "waiting"))
		waiting();
	else
		return 2;
	puts("end");
	return 0;
}
