// usage: stress_pull TIMES ADDR PORT HOW
//
// One thread connects; another pulls the descriptor from under it at a random moment, so many times. HOW is
// close, or dup2 with a file, or with another socket, in the place. What connect(2) says may be
// anything that it says natively then. Prints how many connects worked and how many did not.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static atomic_int number = -1; // the descriptor to pull; -2: no more
static const char *how;
static int null;

// spin lets a random while go by, of the order of a connect.
static void spin(unsigned *seed)
{
	for (volatile int left = rand_r(seed) % 50000; left > 0; left--)
		;
}

// pin keeps the calling thread on the first or the last CPU there is, so that the two run side by side.
static void pin(int last)
{
	cpu_set_t all, one;
	int found = -1;
	if (sched_getaffinity(0, sizeof all, &all))
		return;
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &all) && (last || found < 0))
			found = cpu;
	CPU_ZERO(&one);
	CPU_SET(found, &one);
	sched_setaffinity(0, sizeof one, &one);
}

static void *pull(void *arg)
{
	pin(1);
	unsigned seed = 1;
	for (;;) {
		int fd;
		while ((fd = number) == -1)
			sched_yield();
		if (fd == -2)
			return arg;
		spin(&seed);
		if (!strcmp(how, "close")) {
			close(fd);
		} else if (!strcmp(how, "file")) {
			dup2(null, fd);
		} else {
			int other = socket(AF_INET, SOCK_STREAM, 0);
			dup2(other, fd);
			close(other);
		}
		number = -1;
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in sa = {.sin_family = AF_INET};
	if (argc != 5 || inet_pton(AF_INET, argv[2], &sa.sin_addr) != 1)
		return 2;
	sa.sin_port = htons(atoi(argv[3]));
	how = argv[4];
	alarm(50);
	null = open("/dev/null", O_RDWR);
	pthread_t id;
	pthread_create(&id, NULL, pull, NULL);
	pin(0);
	int good = 0, bad = 0, status = 0;
	unsigned seed = 2;
	for (int i = 0; i < atoi(argv[1]); i++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		if (fd < 0) {
			perror("socket");
			return 1;
		}
		number = fd;
		spin(&seed);
		int err = connect(fd, (struct sockaddr *)&sa, sizeof sa) ? errno : 0;
		while (number != -1)
			sched_yield();
		close(fd);
		switch (err) {
		case 0:
			good++;
			break;
		case EBADF: // closed before
		case ENOTSOCK: // a file
		case ENETUNREACH: // the other socket, which is one of a place without IPv4
			bad++;
			break;
		default:
			fprintf(stderr, "connect: %s\n", strerror(err));
			status = 1;
		}
	}
	number = -2;
	pthread_join(id, NULL);
	printf("%d %d\n", good, bad);
	return status;
}
