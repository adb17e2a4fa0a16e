// swap_family CASE ADDRESS PORT: families, protocols and other ways to begin a connection. See swap.h.
#include "swap.h"

static struct sockaddr_in6 mapped(void) {
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = dst.sin_port};
	six.sin6_addr.s6_addr[10] = six.sin6_addr.s6_addr[11] = 0xff;
	memcpy(&six.sin6_addr.s6_addr[12], &dst.sin_addr, 4);
	return six;
}

static void v6only(void) {
	struct sockaddr_in6 six = mapped();
	for (int nonblock = 0; nonblock < 2; nonblock++) {
		int fd = socket(AF_INET6, SOCK_STREAM | (nonblock ? SOCK_NONBLOCK : 0), 0);
		set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
		result("IPV6_V6ONLY", connect(fd, (struct sockaddr *)&six, sizeof six));
		ends(fd);
		set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
		result("not any more", connect(fd, (struct sockaddr *)&six, sizeof six));
		wait_for(fd, POLLOUT);
		greeting(fd);
		ends(fd);
	}
}

static void mptcp(void) {
	for (int inet6 = 0; inet6 < 2; inet6++)
		for (int nonblock = 0; nonblock < 2; nonblock++) {
			struct sockaddr_in6 six = mapped();
			int fd = socket(inet6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | (nonblock ? SOCK_NONBLOCK : 0), 262 /* IPPROTO_MPTCP */);
			if (fd < 0)
				die("socket");
			int copy = dup(fd);
			int r = inet6 ? connect(copy, (struct sockaddr *)&six, sizeof six) : connect(copy, (struct sockaddr *)&dst, sizeof dst);
			if (!nonblock || errno != EINPROGRESS)
				result("connect", r);
			printf("poll: %x\n", wait_for(fd, POLLOUT) & ~POLLIN);
			so_error(fd);
			printf("protocol %d TCP_IS_MPTCP %d\n", get(fd, SOL_SOCKET, SO_PROTOCOL), get(fd, IPPROTO_TCP, 43));
			struct sockaddr_in6 peer;
			socklen_t length = sizeof peer;
			result("getpeername", getpeername(fd, (struct sockaddr *)&peer, &length));
			greeting(fd);
			printf("F_GETFL %o F_GETFD %d %d\n", fcntl(fd, F_GETFL), fcntl(fd, F_GETFD), fcntl(copy, F_GETFD));
			close(copy);
			close(fd);
		}
}

// all reads to the end what the server sends back.
static void all(int fd) {
	char buffer[5000];
	ssize_t n;
	long sum = 0, sent_back = 0;
	shutdown(fd, SHUT_WR);
	fcntl(fd, F_SETFL, 0);
	while ((n = read(fd, buffer, sizeof buffer)) > 0) {
		for (int i = 0; i < n; i++)
			sum = sum * 31 + buffer[i];
		sent_back += n;
	}
	if (n < 0)
		result("read", n);
	printf("back: %ld bytes, sum %lx\n", sent_back, sum);
}

// The ways of MSG_FASTOPEN: connection and data in one call.
static ssize_t open_fast(int way, int fd, void *sa, socklen_t length, char *data, size_t size, int flags) {
	struct iovec parts[2] = {{data, size / 3}, {data + size / 3, size - size / 3}};
	struct msghdr msg = {.msg_name = sa, .msg_namelen = length, .msg_iov = parts, .msg_iovlen = 2};
	struct mmsghdr many[2] = {{.msg_hdr = msg}, {.msg_hdr = {.msg_iov = parts, .msg_iovlen = 1}}};
	switch (way) {
	case 0: return sendto(fd, data, size, MSG_FASTOPEN | flags, sa, length);
	case 1: return sendmsg(fd, &msg, MSG_FASTOPEN | flags);
	default: return sendmmsg(fd, many, 1, MSG_FASTOPEN | flags) == 1 ? many[0].msg_len : -1;
	}
}

static void fastopen(void) {
	static char data[3000];
	for (size_t i = 0; i < sizeof data; i++)
		data[i] = i * 7;
	static const char *ways[] = {"sendto", "sendmsg", "sendmmsg"};
	for (int way = 0; way < 3; way++)
		for (int inet6 = 0; inet6 < 2; inet6++)
			for (int how = 0; how < 3; how++) // blocking, not, MSG_DONTWAIT
				for (int round = 0; round < 2; round++) {
					struct sockaddr_in6 six = mapped();
					void *sa = inet6 ? (void *)&six : (void *)&dst;
					socklen_t length = inet6 ? sizeof six : sizeof dst;
					int fd = socket(inet6 ? AF_INET6 : AF_INET, SOCK_STREAM | (how == 1 ? SOCK_NONBLOCK : 0), 0), flags = how == 2 ? MSG_DONTWAIT : 0;
					size_t size = round ? sizeof data : 10;
					printf("%s, %s, %s, %zu bytes\n", ways[way], inet6 ? "inet6" : "inet", how == 0 ? "blocking" : how == 1 ? "non-blocking" : "MSG_DONTWAIT", size);
					set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
					ssize_t n = open_fast(way, fd, sa, length, data, size, flags);
					result("sent", n);
					if (n < 0 && errno != EINPROGRESS)
						continue;
					printf("poll: %x\n", wait_for(fd, POLLOUT) & ~POLLIN);
					so_error(fd);
					if (n < 0) // not one byte has gone out: there was no cookie
						result("sent then", send(fd, data, size, MSG_NOSIGNAL));
					result("again", open_fast(way, fd, sa, length, data, 1, flags | MSG_NOSIGNAL));
					printf("TCP_NODELAY %d\n", get(fd, IPPROTO_TCP, TCP_NODELAY));
					ends(fd);
					all(fd);
					close(fd);
				}
	// What cannot work.
	int fd = sock(0);
	result("to nobody", sendto(fd, data, 10, MSG_FASTOPEN, NULL, 0));
	result("short", sendto(fd, data, 10, MSG_FASTOPEN, (struct sockaddr *)&dst, 8));
	result("no connection", sendto(fd, data, 10, MSG_NOSIGNAL, (struct sockaddr *)&dst, sizeof dst));
	printf("state: %s\n", tcp_state(fd));
	struct sockaddr_in nobody = dst;
	nobody.sin_port = htons(1);
	result("refused", sendto(fd, data, 10, MSG_FASTOPEN, (struct sockaddr *)&nobody, sizeof nobody));
	so_error(fd);
	result("then elsewhere", sendto(fd, data, 10, MSG_FASTOPEN, (struct sockaddr *)&dst, sizeof dst));
	all(fd);
}

static void fastopen_connect(void) {
	char data[] = "0123456789";
	for (int nonblock = 0; nonblock < 2; nonblock++)
		for (int round = 0; round < 2; round++) { // the second one has a cookie
			int fd = sock(nonblock ? SOCK_NONBLOCK : 0);
			set(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1);
			int r = conn("connect", fd);
			printf("state: %s poll: %x\n", r ? "under way" : "begun", wait_for(fd, POLLOUT));
			if (nonblock) // a blocking one would wait for the first write, natively too
				result("connect again", conn_to(fd, &dst));
			result("write", write(fd, data, 10));
			printf("TCP_FASTOPEN_CONNECT %d F_GETFL %o\n", get(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT), fcntl(fd, F_GETFL));
			all(fd);
			close(fd);
		}
	// Without a cookie being needed the connection begins with the first write.
	int fd = sock(0);
	set(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1);
	set(fd, IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1);
	conn("connect", fd);
	printf("state: %s\n", tcp_state(fd));
	result("write", write(fd, data, 10));
	all(fd);
}

// others are not upconv's business: as where there is no IPv4.
static void others(void) {
	static const struct {
		int family, type, protocol;
	} kinds[] = {{AF_INET, SOCK_RAW, IPPROTO_TCP}, {AF_INET, SOCK_RAW, IPPROTO_UDP}, {AF_INET, SOCK_RAW, IPPROTO_RAW}, {AF_INET6, SOCK_RAW, IPPROTO_TCP},
		{AF_PACKET, SOCK_DGRAM, 0}, {AF_PACKET, SOCK_RAW, 0}, {AF_INET, SOCK_DGRAM, IPPROTO_ICMP}, {AF_UNIX, SOCK_STREAM, 0}, {AF_NETLINK, SOCK_RAW, 0}};
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		printf("family %d type %d protocol %d\n", kinds[i].family, kinds[i].type, kinds[i].protocol);
		int fd = socket(kinds[i].family, kinds[i].type, kinds[i].protocol);
		if (fd < 0) {
			result("socket", fd);
			continue;
		}
		unsigned long was = cookie(fd);
		conn("connect", fd);
		struct sockaddr_in6 six = mapped();
		result("connect, mapped", connect(fd, (struct sockaddr *)&six, sizeof six));
		printf("%s\n", was == cookie(fd) ? "the same socket" : "another socket");
		ends(fd);
	}
}

int main(int argc, char **argv) {
	destination(argv);
	const char *what = argv[1];
	if (!strcmp(what, "v6only"))
		v6only();
	else if (!strcmp(what, "mptcp"))
		mptcp();
	else if (!strcmp(what, "fastopen"))
		fastopen();
	else if (!strcmp(what, "fastopen-connect"))
		fastopen_connect();
	else if (!strcmp(what, "others"))
		others();
	else
		printf("%s: no such case\n", what);
	printf("end\n");
	return 0;
}
