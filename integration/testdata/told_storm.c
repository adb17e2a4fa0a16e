// told_storm ADDR PORT: has a thread that blocks SIGUSR1 wait in recvfrom(2), on a socket that has sent to
// ADDR. Prints "waiting" when it is about to wait. For each number N that it reads it sends its process as
// many SIGUSR1 as there can be in N seconds, which the first thread takes, and prints "sent M".
#include <arpa/inet.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static struct sockaddr_in to;

static double now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void take(int sig) {}

static void *receive(void *unused) {
	char data[16];
	struct sockaddr_in from;
	socklen_t length = sizeof from;
	int sock = socket(AF_INET, SOCK_DGRAM, 0);
	sendto(sock, "none", 4, 0, (void *)&to, sizeof to);
	puts("waiting");
	fflush(stdout);
	for (;;)
		recvfrom(sock, data, sizeof data, 0, (void *)&from, &length);
}

int main(int argc, char **argv) {
	to = (struct sockaddr_in){AF_INET, htons(atoi(argv[2]))};
	inet_pton(AF_INET, argv[1], &to.sin_addr);
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	signal(SIGUSR1, take);
	sigprocmask(SIG_BLOCK, &set, NULL);
	pthread_t thread;
	pthread_create(&thread, NULL, receive, NULL);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	for (char line[16]; fgets(line, sizeof line, stdin);) {
		int sent = 0;
		for (double end = now() + atof(line); now() < end; sent++)
			kill(getpid(), SIGUSR1);
		printf("sent %d\n", sent);
		fflush(stdout);
	}
	return 0;
}
