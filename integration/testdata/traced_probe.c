// traced_probe WAIT WHO ADDR PORT: one thread waits on a UDP socket, and another one sends its
// first datagram through it.
//
// WAIT is how it waits: recvfrom, recvmsg, read, poll, select or epoll. WHO is "thread", or
// "process" for one with the same descriptor table (CLONE_FILES). Prints "received N" with the
// length of the answer, or "nothing".
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int sock, set;
static const char *how;
static struct shared {
	volatile int tid, length;
} *shared;

static int is(const char *name) { return !strcmp(how, name); }

static int wait_for_datagram(void *unused) {
	char data[64];
	struct sockaddr_in from;
	socklen_t length = sizeof from;
	struct iovec part = {data, sizeof data};
	struct msghdr message = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &part, .msg_iovlen = 1};
	struct pollfd one = {sock, POLLIN};
	struct epoll_event event;
	fd_set reads;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	shared->tid = syscall(SYS_gettid);
	int n = 1;
	if (is("poll"))
		n = poll(&one, 1, -1);
	if (is("select")) {
		FD_ZERO(&reads);
		FD_SET(sock, &reads);
		n = select(sock + 1, &reads, NULL, NULL, NULL);
	}
	if (is("epoll"))
		n = epoll_wait(set, &event, 1, -1);
	if (n == 1) {
		if (is("read"))
			n = read(sock, data, sizeof data);
		else if (is("recvmsg"))
			n = recvmsg(sock, &message, 0);
		else
			n = recvfrom(sock, data, sizeof data, 0, (void *)&from, &length);
	}
	shared->length = n < 0 ? -errno : n;
	for (;;)
		pause();
}

// Reports whether a thread sleeps in a system call.
static int sleeps(int tid) {
	char path[64], text[512];
	snprintf(path, sizeof path, "/proc/%d/stat", tid);
	int fd = open(path, O_RDONLY);
	int n = read(fd, text, sizeof text - 1);
	close(fd);
	if (n <= 0)
		return 0;
	text[n] = 0;
	char *state = strrchr(text, ')');
	return state && state[2] == 'S';
}

int main(int argc, char **argv) {
	how = argv[1];
	struct sockaddr_in any = {AF_INET}, to = {AF_INET, htons(atoi(argv[4]))};
	inet_pton(AF_INET, argv[3], &to.sin_addr);
	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	sock = socket(AF_INET, SOCK_DGRAM, 0);
	bind(sock, (void *)&any, sizeof any);
	set = epoll_create1(0);
	struct epoll_event event = {EPOLLIN};
	if (is("epoll"))
		epoll_ctl(set, EPOLL_CTL_ADD, sock, &event);
	char *stack = malloc(64 << 10);
	int flags = CLONE_FILES | SIGCHLD;
	if (!strcmp(argv[2], "thread"))
		flags = CLONE_FILES | CLONE_VM | CLONE_FS | CLONE_SIGHAND | CLONE_THREAD;
	if (clone(wait_for_datagram, stack + (64 << 10), flags, NULL) < 0)
		perror("clone");
	while (!shared->tid)
		usleep(1000);
	for (int in_a_row = 0; in_a_row < 20; usleep(1000)) // it sleeps now and then before, too
		in_a_row = sleeps(shared->tid) ? in_a_row + 1 : 0;
	for (int i = 0; i < 3 && !shared->length; i++) {
		sendto(sock, "who", 3, 0, (void *)&to, sizeof to);
		for (int ms = 0; ms < 1000 && !shared->length; ms++)
			usleep(1000);
	}
	if (shared->length)
		printf("received %d\n", shared->length);
	else
		printf("nothing\n");
	fflush(stdout);
	_exit(0);
}
