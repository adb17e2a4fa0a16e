/*
 * errqueue_probe ADDR PORT CLOSED-PORT
 *
 * Says what comes out of the error queue of a TCP socket: completions of MSG_ZEROCOPY, timestamps of what has been sent, and
 * errors. The same is to come out wherever the connection really goes.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/errqueue.h>
#include <linux/net_tstamp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif

static const char *result(long r)
{
	static char text[64];

	snprintf(text, sizeof text, "%ld %s", r, r < 0 ? strerrorname_np(errno) : "");
	return text;
}

static void tell(const char *what, struct msghdr *m, long n)
{
	struct sockaddr_in *name = m->msg_name;

	printf("%s: %s", what, result(n));
	if (n >= 0) {
		printf(" flags %x", m->msg_flags);
		if (m->msg_name)
			printf(" name of %d", (int)m->msg_namelen);
		if (name && m->msg_namelen)
			printf(": family %d %s", name->sin_family, inet_ntoa(name->sin_addr));
	}
	printf("\n");
	if (n < 0)
		return;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		printf("  level %d type %d length %d", c->cmsg_level, c->cmsg_type, (int)(c->cmsg_len - CMSG_LEN(0)));
		if (c->cmsg_level != SOL_SOCKET) {
			struct sock_extended_err ee;
			memcpy(&ee, CMSG_DATA(c), sizeof ee);
			printf(": %s origin %d type %d code %d info %u data %u, offender", ee.ee_errno ? strerrorname_np(ee.ee_errno) : "0", ee.ee_origin, ee.ee_type,
			       ee.ee_code, ee.ee_info, ee.ee_data);
			for (size_t i = CMSG_LEN(sizeof ee); i < c->cmsg_len; i++)
				printf(" %02x", ((unsigned char *)c)[i]);
		}
		printf("\n");
	}
}

static void queue(const char *what, int s, int with_name, size_t room, int wait)
{
	char data[100], control[512];
	struct sockaddr_in name;
	struct iovec iov = { data, sizeof data };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (wait) {
		struct pollfd p = { s, 0, 0 };
		printf("%s: poll %d", what, poll(&p, 1, 30000));
		printf(" %x\n", p.revents & POLLERR);
		/* It comes in parts. */
		usleep(50000);
	}
	for (int i = 0; i < 4; i++) {
		memset(control, 0xaa, sizeof control);
		m.msg_control = room ? control : NULL;
		m.msg_controllen = room;
		m.msg_name = with_name ? &name : NULL;
		m.msg_namelen = with_name ? sizeof name : 0;
		long n = recvmsg(s, &m, MSG_ERRQUEUE);
		tell(what, &m, n);
		if (n < 0)
			break;
	}
}

static int to(const char *addr, int port, int *s)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = inet_addr(addr), .sin_port = htons(port) };

	return connect(*s, (struct sockaddr *)&a, sizeof a);
}

int main(int argc, char **argv)
{
	static char data[100000];
	int on = 1, s = socket(AF_INET, SOCK_STREAM, 0);

	setvbuf(stdout, NULL, _IOFBF, 1 << 20);
	printf("connect: %s\n", result(to(argv[1], atoi(argv[2]), &s)));
	queue("empty", s, 1, 512, 0);
	queue("empty, nothing wanted", s, 0, 0, 0);
	printf("recv: %s\n", result(recv(s, data, 10, MSG_ERRQUEUE)));
	printf("SO_ZEROCOPY: %s\n", result(setsockopt(s, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof on)));
	for (int i = 0; i < 5; i++) {
		printf("send: %s\n", result(send(s, data, 5000, MSG_ZEROCOPY)));
		queue("zero copy", s, i & 1, i == 4 ? 0 : i == 3 ? 40 : 512, 1);
	}
	int stamps = SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE | SOF_TIMESTAMPING_OPT_ID | SOF_TIMESTAMPING_OPT_TSONLY;
	printf("SO_TIMESTAMPING: %s\n", result(setsockopt(s, SOL_SOCKET, SO_TIMESTAMPING, &stamps, sizeof stamps)));
	printf("send: %s\n", result(send(s, data, 10, 0)));
	queue("timestamp", s, 1, 512, 1);
	close(s);

	s = socket(AF_INET, SOCK_STREAM, 0);
	printf("IP_RECVERR: %s\n", result(setsockopt(s, IPPROTO_IP, IP_RECVERR, &on, sizeof on)));
	printf("refused: %s\n", result(to(argv[1], atoi(argv[3]), &s)));
	queue("refused", s, 1, 512, 0);
	printf("end\n");
	return 0;
}
