// stops_probe WAIT ADDR PORT ROUNDS: stops a process, and attaches a tracer to one of its threads,
// while that is in a wait.
//
// WAIT is what the thread does: "receive" (recvfrom(2) with an address, on a socket that has sent
// to ADDR), "timed" (the same with SO_RCVTIMEO), "all" (all threads of the process receive),
// "connect" (connect(2) to ADDR) "sndtimeo" (the same with SO_SNDTIMEO) or "send" (sendto(2) to
// ADDR until that waits).
//
// Prints "stopped N, longest M ms" and "traced N, longest M ms" for as many of ROUNDS as have come
// to pass, each errno that a call of the thread has returned ("errno 4"), and for "receive"
// "answered" when the thread has received an answer at the end.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct shared {
	volatile int tid, errnos[600], answered, ask;
} *shared;
static struct sockaddr_in to;
static const char *wait_for;
static int sock;

static double now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static int is(const char *name) { return !strcmp(wait_for, name); }

static void note(void) { shared->errnos[errno < 600 ? errno : 0]++; }

static void *receive(void *first) {
	char data[16];
	struct sockaddr_in from;
	for (;;) {
		socklen_t length = sizeof from;
		if (recvfrom(sock, data, sizeof data, 0, (void *)&from, &length) < 0)
			note();
		else if (shared->ask)
			shared->answered = 1;
	}
}

static void *wait_in_call(void *unused) {
	shared->tid = syscall(SYS_gettid);
	if (is("receive") || is("timed") || is("all"))
		return receive(NULL);
	struct timeval limit = {60};
	while (is("send"))
		if (sendto(sock, "x", 1, 0, (void *)&to, sizeof to) < 0)
			note();
	for (;;) {
		int stream = socket(AF_INET, SOCK_STREAM, 0);
		if (is("sndtimeo"))
			setsockopt(stream, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
		if (connect(stream, (void *)&to, sizeof to) < 0)
			note();
		close(stream);
	}
}

// Asks for an answer when the parent wants one.
static void *ask(void *unused) {
	for (; !shared->answered; usleep(20000))
		if (shared->ask)
			sendto(sock, "who", 3, 0, (void *)&to, sizeof to);
	pause();
	return NULL;
}

static void child(void) {
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	pthread_t thread;
	sock = socket(AF_INET, SOCK_DGRAM, 0);
	if (is("receive") || is("timed") || is("all"))
		sendto(sock, "none", 4, 0, (void *)&to, sizeof to);
	struct timeval limit = {60};
	if (is("timed"))
		setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	pthread_create(&thread, NULL, wait_in_call, NULL);
	if (is("all")) {
		pthread_create(&thread, NULL, receive, NULL);
		receive(NULL);
	}
	ask(NULL);
}

// Waits for a change of state for up to five seconds. Returns how long it took in ms, or -1.
static double change(int pid, int options) {
	int status;
	double began = now();
	do {
		if (waitpid(pid, &status, options | WNOHANG) == pid)
			return now() - began;
		usleep(200);
	} while (now() - began < 5000);
	return -1;
}

int main(int argc, char **argv) {
	wait_for = argv[1];
	int rounds = atoi(argv[4]);
	to = (struct sockaddr_in){AF_INET, htons(atoi(argv[3]))};
	inet_pton(AF_INET, argv[2], &to.sin_addr);
	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int pid = fork();
	if (!pid)
		child();
	while (!shared->tid)
		usleep(1000);

	int stopped = 0, traced = 0;
	double took, longest = 0;
	for (int i = 0; i < rounds; i++) {
		usleep(rounds == 1 ? 300000 : 10000 + rand() % 30000);
		kill(pid, SIGSTOP);
		if ((took = change(pid, WUNTRACED)) < 0)
			break;
		stopped++;
		longest = took > longest ? took : longest;
		kill(pid, SIGCONT);
		change(pid, WCONTINUED);
	}
	printf("stopped %d, longest %.0f ms\n", stopped, longest);
	longest = 0;
	for (int i = 0; i < rounds && stopped == rounds; i++) {
		usleep(rounds == 1 ? 300000 : 10000 + rand() % 30000);
		ptrace(PTRACE_SEIZE, shared->tid, 0, 0);
		ptrace(PTRACE_INTERRUPT, shared->tid, 0, 0);
		if ((took = change(shared->tid, __WALL)) < 0)
			break;
		traced++;
		longest = took > longest ? took : longest;
		if (ptrace(PTRACE_DETACH, shared->tid, 0, 0))
			perror("PTRACE_DETACH");
	}
	printf("traced %d, longest %.0f ms\n", traced, longest);
	shared->ask = 1;
	for (double began = now(); is("receive") && now() - began < 5000 && !shared->answered;)
		usleep(1000);
	if (shared->answered)
		printf("answered\n");
	for (int i = 0; i < 600; i++)
		if (shared->errnos[i])
			printf("errno %d\n", i);
	kill(pid, SIGKILL);
	return 0;
}
