// launch_client ADDRESS PORT [FIFO] waits until the FIFO can be opened and has ended, if one is given, then
// connects, and prints what the server says, or "connect: " and the errno.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv) {
	char buffer[4096];
	ssize_t n;
	alarm(90); // whatever becomes of the test
	if (argc > 3) {
		int fifo = open(argv[3], O_RDONLY);
		if (fifo < 0)
			return 2;
		while (read(fifo, buffer, sizeof buffer) > 0)
			;
		close(fifo);
	}
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
	inet_pton(AF_INET, argv[1], &sa.sin_addr);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(fd, (struct sockaddr *)&sa, sizeof sa)) {
		printf("connect: %d\n", errno);
		return 1;
	}
	while ((n = read(fd, buffer, sizeof buffer)) > 0)
		if (write(1, buffer, n) != n)
			return 3;
	return n < 0 ? 4 : 0;
}
