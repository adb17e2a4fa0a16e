// usage: stress_threads THREADS ROUNDS ADDR PORT GREETING
//
// In every round all threads connect at once, and each must read the greeting. Prints how many did.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct sockaddr_in sa = {.sin_family = AF_INET};
static const char *greeting;
static int rounds;
static pthread_barrier_t barrier;
static atomic_int good;

static int once(void)
{
	char buf[256];
	size_t len = 0;
	ssize_t n = 0;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0) {
		perror("socket");
		return 0;
	}
	if (connect(fd, (struct sockaddr *)&sa, sizeof sa)) {
		perror("connect");
		close(fd);
		return 0;
	}
	while (len < sizeof buf && (n = read(fd, buf + len, sizeof buf - len)) > 0)
		len += n;
	if (n < 0)
		perror("read");
	close(fd);
	// what follows the greeting is the end of the line
	return n == 0 && len == strlen(greeting) + 1 && !memcmp(buf, greeting, len - 1);
}

static void *thread(void *arg)
{
	for (int i = 0; i < rounds; i++) {
		pthread_barrier_wait(&barrier);
		good += once();
	}
	return arg;
}

int main(int argc, char **argv)
{
	if (argc != 6 || inet_pton(AF_INET, argv[3], &sa.sin_addr) != 1)
		return 2;
	int threads = atoi(argv[1]);
	rounds = atoi(argv[2]);
	sa.sin_port = htons(atoi(argv[4]));
	greeting = argv[5];
	alarm(50);
	pthread_t *id = calloc(threads, sizeof *id);
	pthread_attr_t attr;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 64 << 10);
	pthread_barrier_init(&barrier, NULL, threads);
	for (int i = 0; i < threads; i++)
		if (pthread_create(&id[i], &attr, thread, NULL)) {
			perror("pthread_create");
			return 1;
		}
	for (int i = 0; i < threads; i++)
		pthread_join(id[i], NULL);
	printf("%d\n", good);
	return 0;
}
