// usage: stress_full ADDR PORT
//
// Connects while every descriptor number up to RLIMIT_NOFILE is in use.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct sockaddr_in sa = {.sin_family = AF_INET};
	struct rlimit limit = {64, 64};
	char buf[256];
	ssize_t n;
	if (argc != 3 || inet_pton(AF_INET, argv[1], &sa.sin_addr) != 1)
		return 2;
	sa.sin_port = htons(atoi(argv[2]));
	alarm(50);
	if (setrlimit(RLIMIT_NOFILE, &limit))
		return 1;
	int fd = socket(AF_INET, SOCK_STREAM, 0), last = -1, next;
	while ((next = socket(AF_INET, SOCK_STREAM, 0)) >= 0)
		last = next;
	if (errno != EMFILE || last != 63) {
		perror("socket");
		return 1;
	}
	int both[2] = {fd, last};
	for (int i = 0; i < 2; i++) {
		if (connect(both[i], (struct sockaddr *)&sa, sizeof sa)) {
			perror("connect");
			return 1;
		}
		while ((n = read(both[i], buf, sizeof buf)) > 0)
			if (write(1, buf, n) != n)
				return 1;
	}
	if (dup(0) >= 0 || errno != EMFILE) {
		fprintf(stderr, "a number has become free\n");
		return 1;
	}
	return 0;
}
