/*
 * bench_udp sink ADDR PORT             receives datagrams, and forgets them
 * bench_udp hole ADDR PORT             does not even receive them: nobody has to be woken
 * bench_udp echo ADDR PORT             sends them back
 * bench_udp dns ADDR PORT              answers every DNS query for an A record with one, all others with none
 * bench_udp tcp-sink ADDR PORT         reads connections to their end, one after the other
 *
 * Those are servers and say "listening". The rest print what took how long, as bench_connect does:
 *
 * bench_udp connected ADDR PORT N      send(2) on a connected socket
 * bench_udp sendto ADDR PORT N         sendto(2) on one that is not
 * bench_udp sendmmsg ADDR PORT N       sendmmsg(2) of 64 datagrams, each with an address
 * bench_udp there-and-back ADDR PORT N sendto(2), and recvfrom(2) of the answer
 * bench_udp tcp ADDR PORT N            sendmsg(2) of 16 KiB each on a TCP connection
 * bench_udp tcp-shared ADDR PORT N     the same, beside another thread, and a datagram socket that
 *                                      has sent there
 * bench_udp resolve NAME N             getaddrinfo(3)
 * bench_udp receivers COUNT ADDR PORT TCP-PORT N  connect(2), while so many threads wait in recvfrom(2), each on a socket
 *                                      that has sent a datagram
 *
 * They are as long as a small query, 64 bytes.
 */
#include "bench.h"
#include <netdb.h>
#include <stdatomic.h>

static void fail(const char *what)
{
	perror(what);
	exit(2);
}

static void *idle(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static int bound(int type)
{
	int one = 1, size = 4 << 20, s = socket(to.any.sa_family, type, 0);
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
	if (bind(s, &to.any, len) || (type == SOCK_STREAM && listen(s, 64)))
		fail("bind");
	puts("listening");
	fflush(stdout);
	return s;
}

static void serve_tcp(void)
{
	static char data[1 << 18];
	int l = bound(SOCK_STREAM), c;
	while ((c = accept(l, NULL, NULL)) >= 0) {
		while (read(c, data, sizeof data) > 0)
			;
		close(c);
	}
}

static void serve_udp(const char *how)
{
	static unsigned char data[64][2048];
	static struct iovec parts[64];
	static struct mmsghdr all[64];
	int s = bound(SOCK_DGRAM);

	if (!strcmp(how, "hole"))
		for (;;)
			pause();
	if (!strcmp(how, "sink")) {
		for (int i = 0; i < 64; i++) {
			parts[i] = (struct iovec){ data[i], sizeof data[i] };
			all[i].msg_hdr = (struct msghdr){ .msg_iov = &parts[i], .msg_iovlen = 1 };
		}
		for (;;)
			recvmmsg(s, all, 64, MSG_WAITFORONE, NULL);
	}
	for (;;) {
		struct sockaddr_storage from;
		socklen_t size = sizeof from;
		unsigned char *q = data[0];
		ssize_t n = recvfrom(s, q, sizeof data[0], 0, (struct sockaddr *)&from, &size);
		if (n < 0)
			continue;
		if (!strcmp(how, "dns")) {
			static const unsigned char record[] = { 0xc0, 12, 0, 1, 0, 1, 0, 0, 14, 16, 0, 4, 198, 51, 100, 7 };
			int at = 12;
			if (n < 17)
				continue;
			while (at < n && q[at])
				at += q[at] + 1;
			if (at + 5 > n)
				continue;
			n = at + 5;
			q[2] |= 0x80;
			q[3] = 0x80;
			memset(q + 6, 0, 6);
			if (q[at + 2] == 1) {
				q[7] = 1;
				memcpy(q + n, record, sizeof record);
				n += sizeof record;
			}
		}
		sendto(s, q, n, 0, (struct sockaddr *)&from, size);
	}
}

static atomic_int waiting;

static void *wait_for_nothing(void *arg)
{
	int s = socket(to.any.sa_family, SOCK_DGRAM, 0);
	char data[64] = "";
	struct sockaddr_storage from;
	socklen_t size = sizeof from;

	if (sendto(s, data, sizeof data, 0, &to.any, len) != sizeof data)
		fail("sendto");
	waiting++;
	recvfrom(s, data, sizeof data, 0, (struct sockaddr *)&from, &size);
	fail("nothing should come");
	return NULL;
}

static void start_receivers(int count)
{
	pthread_attr_t attr;
	pthread_t id;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 64 << 10);
	for (int i = 0; i < count; i++)
		if (pthread_create(&id, &attr, wait_for_nothing, NULL))
			fail("pthread_create");
	while (waiting < count)
		usleep(1000);
	usleep(200000); /* the last of them is in recvfrom(2) by now, or nearly */
}

int main(int argc, char **argv)
{
	static char data[16384];
	const char *what = argc > 1 ? argv[1] : "";
	int n = argc > 4 ? atoi(argv[4]) : 0, failed = 0, s;

	if (argc == 4 && !strcmp(what, "resolve")) {
		n = atoi(argv[3]);
	} else if (argc == 7 && !strcmp(what, "receivers")) {
		n = atoi(argv[6]);
		address(argv[3], argv[4]);
		start_receivers(atoi(argv[2]));
		address(argv[3], argv[5]);
	} else if (argc == 4 || argc == 5) {
		address(argv[2], argv[3]);
		if (!strcmp(what, "tcp-sink"))
			serve_tcp();
		if (!strcmp(what, "sink") || !strcmp(what, "hole") || !strcmp(what, "echo") || !strcmp(what, "dns"))
			serve_udp(what);
	}
	if (n <= 0) {
		fprintf(stderr, "usage: see the top of bench_udp.c\n");
		return 2;
	}
	double *took = malloc(n * sizeof *took);
	struct iovec part = { data, 64 };
	struct mmsghdr many[64];
	struct msghdr msg = { .msg_iov = &part, .msg_iovlen = 1 };
	struct linger reset = { 1, 0 };

	for (int i = 0; i < 64; i++)
		many[i].msg_hdr = (struct msghdr){ .msg_name = &to, .msg_namelen = len, .msg_iov = &part, .msg_iovlen = 1 };
	if (!strcmp(what, "tcp-shared")) { /* beside another thread, and a datagram socket that has sent there */
		pthread_t other;
		sendto(socket(to.any.sa_family, SOCK_DGRAM, 0), data, 64, 0, &to.any, len);
		pthread_create(&other, 0, idle, 0);
		what = "tcp";
	}
	s = socket(to.any.sa_family, strcmp(what, "tcp") ? SOCK_DGRAM : SOCK_STREAM, 0);
	if ((!strcmp(what, "tcp") || !strcmp(what, "connected")) && connect(s, &to.any, len))
		fail("connect");
	if (!strcmp(what, "tcp"))
		part.iov_len = sizeof data;
	if (!strcmp(what, "there-and-back") || !strcmp(what, "sendto") || !strcmp(what, "sendmmsg")) /* the first one may do more */
		sendto(s, data, 64, 0, &to.any, len);
	if (!strcmp(what, "there-and-back"))
		recv(s, data, sizeof data, 0);

	double began = now_us();
	for (int i = 0; i < n; i++) {
		double t = now_us();
		if (!strcmp(what, "connected"))
			failed += send(s, data, 64, 0) != 64;
		else if (!strcmp(what, "sendto"))
			failed += sendto(s, data, 64, 0, &to.any, len) != 64;
		else if (!strcmp(what, "sendmmsg"))
			failed += sendmmsg(s, many, 64, 0) != 64;
		else if (!strcmp(what, "tcp"))
			failed += sendmsg(s, &msg, 0) != sizeof data;
		else if (!strcmp(what, "there-and-back")) {
			struct sockaddr_storage from;
			socklen_t size = sizeof from;
			failed += sendto(s, data, 64, 0, &to.any, len) != 64;
			failed += recvfrom(s, data, 64, 0, (struct sockaddr *)&from, &size) != 64;
		} else if (!strcmp(what, "resolve")) {
			struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list;
			int error = getaddrinfo(argv[2], NULL, &hints, &list);
			failed += error != 0;
			took[i] = now_us() - t;
			if (!error)
				freeaddrinfo(list);
			continue;
		} else if (!strcmp(what, "receivers")) {
			int c = socket(to.any.sa_family, SOCK_STREAM, 0);
			t = now_us();
			failed += connect(c, &to.any, len) != 0;
			took[i] = now_us() - t;
			setsockopt(c, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
			close(c);
			continue;
		} else {
			return 2;
		}
		took[i] = now_us() - t;
	}
	if (!strcmp(what, "tcp")) { /* until all of it is there */
		shutdown(s, SHUT_WR);
		failed += read(s, data, 1) != 0;
	}
	report(failed, began, took, n);
	fflush(stdout);
	_exit(failed != 0);
}
