// holdup_probe ADDR CALL THREADS: threads that make one call each with memory that never comes, since nobody
// serves the faults of a userfaultfd(2) region. CALL says which memory of which call it is. With "lock", half of
// the threads send such memory on a stream, which keeps their sockets locked, and the others connect them anew.
// With "move", half of them keep epoll sets locked, and the others send for the first time with sockets that are in
// there. With "wait", there is nothing to receive when the call is made, but soon afterwards. With "expiry" and
// "interrupted", recvmmsg(2) has received something, and is to write what is left of its time when that is over or
// a signal comes.
// It prints "held" when every thread is about to make its call, and ends by a signal or with its parent.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define MAX 64

static char *pages;
static const char *call;
static struct sockaddr_in echo = {.sin_family = AF_INET}, taker = {.sin_family = AF_INET};
static pthread_barrier_t ready;
static int locked[MAX], set[MAX];
static volatile pid_t tids[MAX];
static volatile char received[MAX][2][9];

static int is(const char *name) { return strcmp(call, name) == 0; }

static int datagrams(void) {
	int s = socket(AF_INET, SOCK_DGRAM, 0);
	char answer[9], first[] = "first";
	struct timeval limit = {10, 0}, none = {0};
	setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	// The translator of the tests makes wrong checksums of some, and would of the same one again.
	for (int tries = 3; sendto(s, first, 5, 0, (void *)&echo, sizeof echo) != 5 || recv(s, answer, sizeof answer, 0) != 5; first[0]++)
		if (--tries == 0) {
			perror("the first datagram");
			exit(1);
		}
	setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof none);
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

// sleeps waits until a thread sleeps in a call.
static void sleeps(pid_t tid, long nr) {
	char path[64], text[256], state;
	for (;;) {
		snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
		FILE *f = fopen(path, "r");
		int known = f && fscanf(f, "%*d %*s %c", &state) == 1;
		if (f)
			fclose(f);
		snprintf(path, sizeof path, "/proc/self/task/%d/syscall", tid);
		f = fopen(path, "r");
		known = known && f && fgets(text, sizeof text, f) && atol(text) == nr && state != 'R';
		if (f)
			fclose(f);
		if (known)
			return;
		sched_yield();
	}
}

// receiveTwo has recvmmsg(2) wait for a second datagram.
static void receiveTwo(long n, struct timespec *left) {
	struct iovec v[2] = {{(char *)received[n][0], 9}, {(char *)received[n][1], 9}};
	struct mmsghdr m[2] = {{{&echo, 0, &v[0], 1}}, {{&echo, 0, &v[1], 1}}};
	struct sockaddr_in from[2];
	struct timeval half = {0, 500000};
	for (int i = 0; i < 2; i++) {
		m[i].msg_hdr.msg_name = &from[i];
		m[i].msg_hdr.msg_namelen = sizeof from[i];
	}
	if (is("expiry"))
		setsockopt(locked[n], SOL_SOCKET, SO_RCVTIMEO, &half, sizeof half);
	sendto(locked[n], "again", 5, 0, (void *)&echo, sizeof echo);
	recvmmsg(locked[n], m, 2, 0, left);
}

static void ignore(int sig) { (void)sig; }

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
	if ((is("lock") && n % 2 == 0) || is("wait") || is("expiry") || is("interrupted"))
		locked[n] = s;
	if (is("move") && n % 2 == 0) {
		struct epoll_event ready = {.events = EPOLLOUT};
		locked[n] = socket(AF_INET, SOCK_DGRAM, 0);
		set[n] = epoll_create1(0);
		epoll_ctl(set[n], EPOLL_CTL_ADD, locked[n], &ready);
	}
	tids[n] = syscall(SYS_gettid);
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
	else if (is("wait")) {
		if (n % 2)
			recvfrom(s, never, 5, 0, (void *)&echo, &length);
		else
			recvmsg(s, &filled, 0);
	} else if (is("expiry") || is("interrupted"))
		receiveTwo(n, (void *)never);
	else if (is("move") && n % 2 == 0)
		epoll_wait(set[n], (void *)never, 1, -1);
	else if (is("move")) {
		sleeps(tids[n - 1], SYS_epoll_wait);
		sendto(locked[n - 1], "datum", 5, 0, (void *)&echo, sizeof echo);
	} else if (is("lock") && n % 2 == 0)
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
	for (int n = 0; n < MAX && (is("expiry") || is("interrupted")); n++)
		*(struct timespec *)(pages + n * PAGE) = (struct timespec){1000, 0};
	signal(SIGUSR2, ignore);
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
	for (long n = 0; n < threads; n++) {
		if (is("wait")) {
			sleeps(tids[n], n % 2 ? SYS_recvfrom : SYS_recvmsg);
			sendto(locked[n], "datum", 5, 0, (void *)&echo, sizeof echo);
		} else if (is("expiry") || is("interrupted")) {
			char again[] = "again";
			for (time_t sent = time(0); received[n][0][0] != 'a'; sched_yield())
				if (time(0) - sent > 5) { // the first one was lost
					again[4]--;
					sendto(locked[n], again, 5, 0, (void *)&echo, sizeof echo);
					sent = time(0);
				}
			madvise(pages + n * PAGE, PAGE, MADV_DONTNEED);
			if (is("interrupted"))
				syscall(SYS_tgkill, getpid(), tids[n], SIGUSR2);
		}
	}
	puts("held");
	fflush(stdout);
	for (;;)
		pause();
}
