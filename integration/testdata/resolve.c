// resolve NAME...: what getaddrinfo(3) says to each, sorted.
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	int failed = 0;

	for (int i = 1; i < argc; i++) {
		struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list, *a;
		char lines[16][INET6_ADDRSTRLEN];
		int n = 0, error = getaddrinfo(argv[i], NULL, &hints, &list);

		if (error) {
			printf("%s: error %d\n", argv[i], error);
			failed = 1;
			continue;
		}
		for (a = list; a && n < 16; a = a->ai_next)
			if (!getnameinfo(a->ai_addr, a->ai_addrlen, lines[n], sizeof lines[n], NULL, 0, NI_NUMERICHOST))
				n++;
		freeaddrinfo(list);
		qsort(lines, n, sizeof lines[0], (int (*)(const void *, const void *))strcmp);
		for (int k = 0; k < n; k++)
			printf("%s: %s\n", argv[i], lines[k]);
	}
	return failed;
}
