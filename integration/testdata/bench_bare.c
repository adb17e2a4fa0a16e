/*
 * bench_bare CALL HELD CMD [ARG...]
 *
 * Runs CMD with one system call stopped, sendto, sendmsg or connect, each of which is only let go on: what the kernel
 * takes for that, as a lower bound for whoever stops it. With HELD above 0 so many other threads are kept in a
 * stopped call meanwhile, as those are that wait for a datagram, and every call is looked up three times, as
 * RECV, ADDFD and SEND do: find_notification() and seccomp_notify_recv() in kernel/seccomp.c go through all of
 * them each time.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench_stop.h"

static int number;

static void *stopped_call(void *arg)
{
	syscall(number, -1, 0, 0);
	return arg;
}

/* A process of threads that are stopped. It ends with its parent, and with it the last that is under the filter. */
static void hold(int count)
{
	pthread_attr_t attr;
	pthread_t id;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 64 << 10);
	for (int i = 0; i < count; i++)
		if (pthread_create(&id, &attr, stopped_call, NULL))
			die("pthread_create");
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	int ready[2], go[2], theirs, listener, status, held = argc > 3 ? atoi(argv[2]) : 0, seen = 0;
	pid_t child;
	char byte;

	number = argc < 4 ? 0 : !strcmp(argv[1], "sendto") ? SYS_sendto : !strcmp(argv[1], "sendmsg") ? SYS_sendmsg : !strcmp(argv[1], "connect") ? SYS_connect : 0;
	if (!number) {
		fprintf(stderr, "usage: bench_bare sendto|sendmsg|connect HELD CMD...\n");
		return 125;
	}
	if (pipe2(ready, O_CLOEXEC) || pipe2(go, O_CLOEXEC))
		die("pipe");
	if (!(child = fork())) {
		if ((theirs = install(number)) < 0)
			die("seccomp");
		if (held > 0 && !fork())
			hold(held);
		if (write(ready[1], &theirs, sizeof theirs) < 0 || read(go[0], &byte, 1) != 1)
			die("handshake");
		close(theirs);
		execvp(argv[3], argv + 3);
		die(argv[3]);
	}
	if (read(ready[0], &theirs, sizeof theirs) != sizeof theirs)
		die("handshake");
	listener = syscall(SYS_pidfd_getfd, syscall(SYS_pidfd_open, child, 0), theirs, 0);
	if (listener < 0)
		die("pidfd_getfd");
	ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, 1); /* SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP */
	for (;;) {
		struct seccomp_notif n = { 0 };
		struct seccomp_notif_resp r = { 0 };

		if (seen == held && go[1] >= 0) { /* all of them are stopped */
			if (write(go[1], "", 1) != 1)
				die("handshake");
			close(go[1]);
			go[1] = -1;
		}
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &n)) {
			if (errno == EINTR)
				continue;
			break;
		}
		if (seen < held) {
			seen++;
			continue;
		}
		r.id = n.id;
		r.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
		if (number == SYS_connect)
			ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &n.id);
		ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &r);
	}
	waitpid(child, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
