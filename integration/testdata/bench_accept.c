/*
 * bench_accept tcp ADDR PORT
 * bench_accept unix PATH
 *
 * Accepts connections and closes them: the other end of bench_connect. Says "listening" when it does.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_un un;
	} at = { 0 };
	socklen_t len;
	int one = 1, s, c;

	if (argc == 4 && !strcmp(argv[1], "tcp")) {
		at.in.sin_family = AF_INET;
		at.in.sin_port = htons(atoi(argv[3]));
		inet_aton(argv[2], &at.in.sin_addr);
		len = sizeof at.in;
	} else if (argc == 3 && !strcmp(argv[1], "unix")) {
		at.un.sun_family = AF_UNIX;
		strncpy(at.un.sun_path, argv[2], sizeof at.un.sun_path - 1);
		len = sizeof at.un;
	} else {
		fprintf(stderr, "usage: bench_accept tcp ADDR PORT | unix PATH\n");
		return 2;
	}
	s = socket(at.any.sa_family, SOCK_STREAM, 0);
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(s, &at.any, len) || listen(s, 4096)) {
		perror("bench_accept");
		return 1;
	}
	puts("listening");
	fflush(stdout);
	for (;;)
		if ((c = accept(s, NULL, NULL)) >= 0)
			close(c);
}
