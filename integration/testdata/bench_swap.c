/*
 * bench_swap ask|trust ORIGIN CMD [ARG...]
 *
 * Runs CMD in the network namespace ORIGIN, a path, and replaces every TCP socket that it connects
 * by one of the caller's namespace: what the kernel takes for that, as a lower bound for whoever
 * does it. "trust" takes the socket for a new one that nobody else has, and its descriptor for one
 * that execve(2) leaves open. "ask" asks, without BPF, all that could be otherwise, which upconv
 * asks too.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench_stop.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

static const struct {
	int level, name, size;
} options[] = {
	{ IPPROTO_TCP, TCP_NODELAY, 4 }, { SOL_SOCKET, SO_NETNS_COOKIE, 8 },
	{ SOL_SOCKET, SO_KEEPALIVE, 4 }, { SOL_SOCKET, SO_LINGER, 8 }, { IPPROTO_TCP, TCP_CORK, 4 },
	{ IPPROTO_TCP, TCP_QUICKACK, 4 }, { IPPROTO_TCP, TCP_KEEPIDLE, 4 }, { IPPROTO_TCP, TCP_KEEPINTVL, 4 },
	{ IPPROTO_TCP, TCP_KEEPCNT, 4 }, { IPPROTO_IP, IP_RECVERR, 4 }, { SOL_SOCKET, SO_BROADCAST, 4 },
};

static int asks, listener, pidfd, witness;

/* Returns a copy of the program's socket, which has been asked all but what the descriptor is. */
static int ask(const struct seccomp_notif *n)
{
	struct sockaddr_storage name;
	struct epoll_event event = { .events = EPOLLOUT };
	struct stat stat;
	socklen_t length = sizeof name;
	char value[16];
	int old = syscall(SYS_pidfd_getfd, pidfd, (int)n->data.args[0], 0);

	for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
		socklen_t size = options[i].size;
		if (getsockopt(old, options[i].level, options[i].name, value, &size))
			die("getsockopt");
	}
	if (getsockname(old, (struct sockaddr *)&name, &length) || fstat(old, &stat) || epoll_ctl(witness, EPOLL_CTL_ADD, old, &event))
		die("ask");
	return old;
}

/* Asks for the descriptor: whether execve(2) closes it, its flags, and which file it is of. */
static void ask_last(const struct seccomp_notif *n)
{
	static int file = -1, of;
	char text[512];

	if (file < 0 || of != (int)n->data.args[0]) {
		of = n->data.args[0];
		snprintf(text, sizeof text, "/proc/%d/fdinfo/%d", (int)n->pid, of);
		if (file >= 0)
			close(file);
		file = open(text, O_RDONLY | O_CLOEXEC);
	}
	if (pread(file, text, sizeof text, 0) <= 0)
		die("fdinfo");
}

static void swap(const struct seccomp_notif *n, struct seccomp_notif_resp *r)
{
	struct sockaddr_in to;
	struct iovec here = { &to, sizeof to }, there = { (void *)n->data.args[1], sizeof to };
	struct seccomp_notif_addfd add = { .id = n->id, .flags = SECCOMP_ADDFD_FLAG_SETFD, .newfd = n->data.args[0] };
	struct epoll_event event;
	int old = -1, new, err;

	r->flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
	if (process_vm_readv(n->pid, &here, 1, &there, 1, 0) != sizeof to || to.sin_family != AF_INET)
		return;
	if (asks)
		old = ask(n);
	new = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (asks)
		ask_last(n);
	add.srcfd = new;
	if (ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add) < 0)
		die("ADDFD");
	if (asks && (close(old) || epoll_wait(witness, &event, 1, 0)))
		die("a copy");
	err = connect(new, (struct sockaddr *)&to, sizeof to) ? errno : 0;
	if (err == EINPROGRESS) /* it may be connected by now */
		err = connect(new, (struct sockaddr *)&to, sizeof to) ? errno : 0;
	fcntl(new, F_SETFL, O_RDWR);
	if (err != EALREADY) { /* else the program's own call waits */
		r->flags = 0;
		r->error = -err;
	}
	close(new);
}

int main(int argc, char **argv)
{
	int ready[2], go[2], theirs, origin, status;
	cpu_set_t here;
	pid_t child;
	char byte;

	if (argc < 4 || (strcmp(argv[1], "ask") && strcmp(argv[1], "trust"))) {
		fprintf(stderr, "usage: bench_swap ask|trust ORIGIN CMD...\n");
		return 125;
	}
	asks = !strcmp(argv[1], "ask");
	if (pipe2(ready, O_CLOEXEC) || pipe2(go, O_CLOEXEC))
		die("pipe");
	if (!(child = fork())) {
		if ((origin = open(argv[2], O_RDONLY | O_CLOEXEC)) < 0 || setns(origin, CLONE_NEWNET) || (theirs = install(SYS_connect)) < 0)
			die(argv[2]);
		if (write(ready[1], &theirs, sizeof theirs) < 0 || read(go[0], &byte, 1) != 1)
			die("handshake");
		close(theirs);
		execvp(argv[3], argv + 3);
		die(argv[3]);
	}
	if (read(ready[0], &theirs, sizeof theirs) != sizeof theirs)
		die("handshake");
	pidfd = syscall(SYS_pidfd_open, child, 0);
	listener = syscall(SYS_pidfd_getfd, pidfd, theirs, 0);
	witness = epoll_create1(EPOLL_CLOEXEC);
	if (listener < 0 || witness < 0)
		die("pidfd_getfd");
	ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, 1); /* SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP */
	CPU_ZERO(&here);
	CPU_SET(sched_getcpu(), &here);
	sched_setaffinity(0, sizeof here, &here); /* as upconv's thread stays where it is while it swaps */
	if (write(go[1], "", 1) != 1)
		die("handshake");
	for (;;) {
		struct seccomp_notif n = { 0 };
		struct seccomp_notif_resp r = { 0 };

		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &n)) {
			if (errno == EINTR)
				continue;
			break;
		}
		r.id = n.id;
		swap(&n, &r);
		ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &r);
	}
	waitpid(child, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
