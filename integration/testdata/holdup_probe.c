// holdup_probe ADDR CALL THREADS: threads that make one call each with memory that never comes, since nobody
// serves the faults of a userfaultfd(2) region. CALL says which memory of which call it is. With "lock", half of
// the threads send such memory on a stream, which keeps their sockets locked, and the others connect them anew.
// It prints "held" when every thread is about to make its call, and ends by a signal or with its parent.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096
#define MAX 64

static char *pages;
static const char *call;
static struct sockaddr_in echo = {.sin_family = AF_INET}, taker = {.sin_family = AF_INET};
static pthread_barrier_t ready;
static int locked[MAX];

static int is(const char *name) { return strcmp(call, name) == 0; }

static int datagrams(void) {
	int s = socket(AF_INET, SOCK_DGRAM, 0);
	char answer[9];
	if (sendto(s, "first", 5, 0, (void *)&echo, sizeof echo) != 5 || recv(s, answer, sizeof answer, 0) != 5) {
		perror("the first datagram");
		exit(1);
	}
	return s;
}

static int stream(void) {
	int s = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(s, (void *)&taker, sizeof taker)) {
		perror("connect");
		exit(1);
	}
	return s;
}

static void *hold(void *number) {
	long n = (long)number;
	char *never = pages + n * PAGE;
	struct iovec data = {never, 5}, good = {"datum", 5};
	struct msghdr named = {never, sizeof echo, &good, 1}, filled = {&echo, sizeof echo, &data, 1};
	struct msghdr vectors = {&echo, sizeof echo, (void *)never, 1}, controls = {&echo, sizeof echo, &good, 1, never, 64};
	socklen_t length = sizeof echo;
	int s = is("connect") || is("connect6") ? socket(is("connect") ? AF_INET : AF_INET6, SOCK_STREAM, 0)
		: is("lock") ? (n % 2 ? -1 : stream())
		: is("getsockname") || is("getpeername") || is("getsockopt") || is("setsockopt") ? stream() : datagrams();
	if (is("lock") && n % 2 == 0)
		locked[n] = s;
	if (is("recvfrom") || is("recvmsg") || is("recvdata"))
		sendto(s, "again", 5, 0, (void *)&echo, sizeof echo);
	pthread_barrier_wait(&ready);
	if (is("connect") || is("connect6"))
		connect(s, (void *)never, is("connect") ? 16 : 28);
	else if (is("sendto"))
		sendto(s, "datum", 5, 0, (void *)never, sizeof echo);
	else if (is("senddata"))
		sendto(s, never, 5, 0, (void *)&echo, sizeof echo);
	else if (is("sendmsg"))
		sendmsg(s, (void *)never, 0);
	else if (is("sendmmsg"))
		sendmmsg(s, (void *)never, 2, 0);
	else if (is("msgname"))
		sendmsg(s, &named, 0);
	else if (is("msgdata"))
		sendmsg(s, &filled, 0);
	else if (is("msgvectors"))
		sendmsg(s, &vectors, 0);
	else if (is("msgcontrol"))
		sendmsg(s, &controls, 0);
	else if (is("fastopen"))
		sendmsg(socket(AF_INET, SOCK_STREAM, 0), (void *)never, MSG_FASTOPEN);
	else if (is("bind"))
		bind(socket(AF_INET, SOCK_STREAM, 0), (void *)never, sizeof echo);
	else if (is("getsockname"))
		getsockname(s, (void *)never, &length);
	else if (is("getpeername"))
		getpeername(s, (void *)&echo, (void *)never);
	else if (is("getsockopt"))
		getsockopt(s, SOL_SOCKET, SO_DOMAIN, never, &length);
	else if (is("setsockopt"))
		setsockopt(s, IPPROTO_IP, IP_TOS, never, 4);
	else if (is("recvfrom"))
		recvfrom(s, never, 5, 0, (void *)&echo, &length);
	else if (is("recvdata"))
		recvfrom(s, &data, 5, 0, (void *)never, &length);
	else if (is("recvmsg"))
		recvmsg(s, (void *)never, 0);
	else if (is("lock") && n % 2 == 0)
		send(s, never, PAGE, 0);
	else if (is("lock"))
		connect(locked[n - 1], (void *)&taker, sizeof taker);
	else
		exit(2);
	pause(); // only a call that does not touch the memory comes here
	return 0;
}

int main(int argc, char **argv) {
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	call = argv[2];
	long threads = atoi(argv[3]);
	inet_pton(AF_INET, argv[1], &echo.sin_addr);
	taker.sin_addr = echo.sin_addr;
	echo.sin_port = htons(7000);
	taker.sin_port = htons(7080);
	int fault = syscall(SYS_userfaultfd, O_CLOEXEC);
	struct uffdio_api api = {UFFD_API};
	pages = mmap(0, MAX * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_register all = {{(unsigned long)pages, MAX * PAGE}, UFFDIO_REGISTER_MODE_MISSING};
	if (fault < 0 || ioctl(fault, UFFDIO_API, &api) || ioctl(fault, UFFDIO_REGISTER, &all)) {
		perror("userfaultfd");
		return 2;
	}
	pthread_barrier_init(&ready, 0, threads + 1);
	for (long n = 0; n < threads; n++) {
		pthread_t t;
		pthread_create(&t, 0, hold, (void *)n);
	}
	pthread_barrier_wait(&ready);
	puts("held");
	fflush(stdout);
	for (;;)
		pause();
}
