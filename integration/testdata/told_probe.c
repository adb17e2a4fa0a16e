// told_probe ADDR PORT THREADS: has that many threads wait in recvfrom(2), on sockets that have sent to
// ADDR. For each line "MS SIGNAL" that it reads another process sends theirs a signal by kill(2), after so
// many milliseconds: SIGUSR1, for which there is a handler, or SIGSTOP.
//
// Prints "waiting" when all threads are about to wait, and "taken after N us" when the handler has run, or
// all threads have stopped.
#include <arpa/inet.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct shared {
	volatile double taken;
	volatile int threads;
} *shared;
static struct sockaddr_in to;

static double now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void take(int sig) { shared->taken = now(); }

static void *receive(void *unused) {
	char data[16];
	struct sockaddr_in from;
	socklen_t length = sizeof from;
	int sock = socket(AF_INET, SOCK_DGRAM, 0);
	sendto(sock, "none", 4, 0, (void *)&to, sizeof to);
	__atomic_add_fetch(&shared->threads, 1, __ATOMIC_SEQ_CST);
	for (;;)
		recvfrom(sock, data, sizeof data, 0, (void *)&from, &length);
}

int main(int argc, char **argv) {
	int threads = atoi(argv[3]), pid;
	to = (struct sockaddr_in){AF_INET, htons(atoi(argv[2]))};
	inet_pton(AF_INET, argv[1], &to.sin_addr);
	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (!(pid = fork())) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		struct sigaction action = {.sa_handler = take, .sa_flags = SA_RESTART};
		sigaction(SIGUSR1, &action, NULL);
		pthread_t thread;
		for (int i = 1; i < threads; i++)
			pthread_create(&thread, NULL, receive, NULL);
		receive(NULL);
	}
	while (shared->threads < threads)
		usleep(1000);
	puts("waiting");
	fflush(stdout);
	for (char line[32]; fgets(line, sizeof line, stdin);) {
		int ms = 0, sig = 0, status;
		sscanf(line, "%d %d", &ms, &sig);
		usleep(1000 * ms);
		double sent = now(), taken = 0;
		shared->taken = 0;
		for (kill(pid, sig); !taken && now() - sent < 5e6; usleep(50))
			taken = sig != SIGSTOP ? shared->taken : waitpid(pid, &status, WUNTRACED | WNOHANG) == pid ? now() : 0;
		if (taken)
			printf("taken after %.0f us\n", taken - sent);
		else
			puts("not taken");
		fflush(stdout);
		kill(pid, SIGCONT);
	}
	return 0;
}
