// Answers from the address that a datagram came to, as WireGuard, OpenVPN --multihome and QUIC stacks do: what IP_PKTINFO
// says of a datagram received goes out with the next one sent.
//
//	pktinfo_probe ADDRESS PORT [TOLD]
//
// The first argument is an echo server. The probe writes its process ID and waits for a line before each of its
// steps, between which the test gives the namespace an address and takes it away. TOLD is the address that a connected
// socket is told once the namespace has one; left out where that does not show. The probe says what came of each send.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SOCKETS 8 // bit 0: bound before; bit 1: gives the interface back; bit 2: gives the address back

static struct sockaddr_in server;
static int sockets[SOCKETS];
static struct in_pktinfo known[SOCKETS];

// step waits until the test has done what is to be done in between.
static void step(const char *name)
{
	char line[16];
	printf("%s\n", name);
	fflush(stdout);
	if (!fgets(line, sizeof line, stdin))
		exit(3);
}

static int fresh(void)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0), one = 1;
	struct timeval patience = {30};
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &one, sizeof one);
	return fd;
}

// receive takes an answer, and what IP_PKTINFO says of it if info is not null.
static int receive(int fd, struct in_pktinfo *info)
{
	char data[8], control[256];
	struct iovec part = {data, sizeof data};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	ssize_t n = recvmsg(fd, &message, 0);
	if (n < 0)
		return -1;
	for (struct cmsghdr *h = CMSG_FIRSTHDR(&message); h && info; h = CMSG_NXTHDR(&message, h))
		if (h->cmsg_level == IPPROTO_IP && h->cmsg_type == IP_PKTINFO)
			memcpy(info, CMSG_DATA(h), sizeof *info);
	return n;
}

// give sends a datagram with IP_PKTINFO, to the server or, on a connected socket, to its peer.
static int give(int fd, struct in_pktinfo info, int connected)
{
	char control[CMSG_SPACE(sizeof info)] = {0};
	struct iovec part = {"again", 5};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct cmsghdr *h = CMSG_FIRSTHDR(&message);
	if (!connected) {
		message.msg_name = &server;
		message.msg_namelen = sizeof server;
	}
	h->cmsg_level = IPPROTO_IP;
	h->cmsg_type = IP_PKTINFO;
	h->cmsg_len = CMSG_LEN(sizeof info);
	memcpy(CMSG_DATA(h), &info, sizeof info);
	return sendmsg(fd, &message, 0);
}

static void say(const char *what, int fd, int sent, struct in_pktinfo *info)
{
	if (sent < 0)
		printf("%s: %s\n", what, strerrorname_np(errno));
	else
		printf("%s: sent, %s\n", what, receive(fd, info) == 5 ? "answered" : "not answered");
}

// answerAll has every socket answer from where it was reached before. What it hears then is remembered if learns is set.
static void answerAll(int learns)
{
	for (int i = 0; i < SOCKETS; i++) {
		struct in_pktinfo info = {0};
		char what[64];
		if (i & 2)
			info.ipi_ifindex = known[i].ipi_ifindex;
		if (i & 4)
			info.ipi_spec_dst = known[i].ipi_spec_dst;
		snprintf(what, sizeof what, "%s%s%s", i & 1 ? "bound" : "not bound", i & 2 ? ", interface" : "", i & 4 ? ", address" : "");
		say(what, sockets[i], give(sockets[i], info, 0), learns ? &known[i] : NULL);
	}
}

// connectTold returns a connected socket that is told the address told, where that is asked for, and which address that is.
static int connectTold(const char *told, struct in_addr *own)
{
	for (int tries = 0; tries < 500; tries++) {
		int fd = fresh();
		struct sockaddr_in name;
		socklen_t length = sizeof name;
		if (connect(fd, (void *)&server, sizeof server) || getsockname(fd, (void *)&name, &length))
			break;
		*own = name.sin_addr;
		if (!told || !strcmp(inet_ntoa(*own), told))
			return fd;
		close(fd);
		nanosleep(&(struct timespec){0, 10000000}, NULL);
	}
	printf("the address is never told\n");
	exit(2);
}

int main(int argc, char **argv)
{
	server = (struct sockaddr_in){AF_INET, htons(atoi(argv[2]))};
	inet_pton(AF_INET, argv[1], &server.sin_addr);
	for (int i = 0; i < SOCKETS; i++) {
		sockets[i] = fresh();
		struct sockaddr_in any = {AF_INET};
		if (i & 1)
			bind(sockets[i], (void *)&any, sizeof any);
		if (sendto(sockets[i], "first", 5, 0, (void *)&server, sizeof server) < 0 || receive(sockets[i], &known[i]) < 0) {
			perror("the first datagram");
			return 1;
		}
	}
	printf("%d\n", getpid());
	step("the namespace gains an address");
	struct in_pktinfo info = {0};
	int connected = connectTold(argc > 3 ? argv[3] : NULL, &info.ipi_spec_dst);
	say("connected", connected, give(connected, info, 1), NULL);
	answerAll(1);
	answerAll(0);
	step("it loses the address");
	struct in_addr now;
	if (argc > 3)
		close(connectTold(argv[4], &now));
	say("connected", connected, give(connected, info, 1), NULL);
	answerAll(0);
	info.ipi_spec_dst.s_addr = htonl(0xcb0071fe); // 203.0.113.254, which nobody was told
	say("a foreign address", sockets[0], give(sockets[0], info, 0), NULL);
	return 0;
}
