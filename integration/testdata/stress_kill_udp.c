// stress_kill_udp COUNT ADDRESS PORT OTHER-PORT: kills processes whose threads send and receive datagrams, some of which wait, share their
// sockets with children, or have another thread execute a program; one after the other, each after a time by chance. Meanwhile the
// first process talks with both ports. It prints how many were killed, and what the first process has lost.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct sockaddr_in to[3]; // the third is the process's own
static int fds[3], killed;
static __thread unsigned state;

static unsigned chance(unsigned n) {
	if (!state) {
		struct timespec now;
		clock_gettime(CLOCK_MONOTONIC, &now);
		state = (gettid() * 2654435761u) ^ (now.tv_nsec | 1);
	}
	state ^= state << 13;
	state ^= state >> 17;
	state ^= state << 5;
	return state % n;
}

static void call(void) {
	int fd = fds[chance(3)];
	char data[100] = "log";
	struct sockaddr_in *sa = &to[chance(3)], from[8];
	socklen_t length = sizeof *from;
	struct iovec part = {data, 1 + chance(99)};
	struct mmsghdr all[8] = {0};
	int sends = chance(2);
	for (int i = 0; i < 8; i++)
		all[i].msg_hdr = (struct msghdr){.msg_name = sends ? &to[chance(3)] : &from[i], .msg_namelen = length, .msg_iov = &part, .msg_iovlen = 1};
	switch (chance(6)) {
	case 0:
		if (sends)
			connect(fd, (struct sockaddr *)sa, length);
		else
			connect(fd, &(struct sockaddr){.sa_family = AF_UNSPEC}, length);
		break;
	case 1:
		sendto(fd, data, part.iov_len, 0, (struct sockaddr *)sa, length);
		break;
	case 2:
		recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)from, &length);
		break;
	case 3:
		if (sends)
			sendmsg(fd, &all[0].msg_hdr, 0);
		else
			recvmsg(fd, &all[0].msg_hdr, 0);
		break;
	case 4:
		if (sends)
			sendmmsg(fd, all, 8, 0);
		else
			recvmmsg(fd, all, 8, 0, NULL);
		break;
	case 5:
		poll(&(struct pollfd){fd, POLLIN, 0}, 1, chance(2) ? -1 : 1);
	}
}

static void *calls(void *arg) {
	for (;;)
		call();
	return NULL;
}

// die_with has this process die with its parent.
static void die_with(pid_t parent) {
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(0);
}

static void victim(char **argv, pid_t parent) {
	pthread_t id;
	die_with(parent);
	for (int i = 0; i < 3; i++) {
		fds[i] = socket(AF_INET, SOCK_DGRAM, 0);
		if (i)
			bind(fds[i], (struct sockaddr *)&(struct sockaddr_in){.sin_family = AF_INET}, sizeof *to);
	}
	for (int i = 0; i < 3; i++)
		pthread_create(&id, NULL, calls, NULL);
	parent = getpid();
	switch (chance(4)) {
	case 0:
		if (fork() == 0) {
			state = 0;
			die_with(parent);
		}
		break;
	case 1:
		usleep(chance(2000));
		execl("/proc/self/exe", argv[0], "0", argv[2], argv[3], argv[4], NULL); // which ends at once
		break;
	case 2:
		usleep(chance(2000));
		exit(0);
	}
	calls(NULL);
}

static void *kills(void *arg) {
	char **argv = arg;
	for (int count = atoi(argv[1]); killed < count; killed++) {
		pid_t own = getpid(), pid = fork();
		if (pid == 0)
			victim(argv, own);
		usleep(chance(8000));
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
	return NULL;
}

int main(int argc, char **argv) {
	pthread_t id;
	struct timeval limit = {2, 0};
	int lost = 0;
	if (!strcmp(argv[1], "0"))
		return 0;
	for (int i = 0; i < 3; i++) {
		to[i] = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(i < 2 ? atoi(argv[3 + i]) : 9)};
		inet_pton(AF_INET, i < 2 ? argv[2] : "127.0.0.1", &to[i].sin_addr);
	}
	pthread_create(&id, NULL, kills, argv);
	for (int i = 0; pthread_tryjoin_np(id, NULL) && lost < 3; i++) {
		int good = 0;
		for (int tries = 0; tries < 5 && !good; tries++) { // a translator may lose one
			char data[20], back[20] = "";
			int fd = socket(AF_INET, SOCK_DGRAM, 0);
			struct sockaddr_in from = {0};
			socklen_t length = sizeof from;
			setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
			sprintf(data, "echo %d", i);
			sendto(fd, data, sizeof data, 0, (struct sockaddr *)&to[i % 2], sizeof *to);
			recvfrom(fd, back, sizeof back, 0, (struct sockaddr *)&from, &length);
			good = !strcmp(data, back) && from.sin_port == to[i % 2].sin_port && from.sin_addr.s_addr == to[i % 2].sin_addr.s_addr;
			close(fd);
		}
		lost += !good;
		usleep(1000);
	}
	printf("killed %d, lost %d\n", killed, lost);
	return 0;
}
