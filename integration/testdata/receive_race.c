// receive_race ADDR PORT ROUNDS has one thread wait for a datagram in the very moment in which another
// one sends the first one from the same socket, which is then replaced. The first receives from a copy
// of the descriptor, and asks who has sent what it gets.
//
// It prints "wrong: N": how often it was told another address than the server's.
#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static atomic_int sent, received;
static int rounds, copy, wrong;
static struct sockaddr_in server = {.sin_family = AF_INET};

static void *receive(void *arg)
{
	for (int i = 1; i <= rounds; i++) {
		struct sockaddr_storage name;
		socklen_t length = sizeof name;
		char data[16];
		while (atomic_load(&sent) < i)
			;
		if (recvfrom(copy, data, sizeof data, 0, (void *)&name, &length) != 4 || length != sizeof server || memcmp(&name, &server, sizeof server))
			wrong++;
		atomic_store(&received, i);
	}
	return arg;
}

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	inet_pton(AF_INET, argv[1], &server.sin_addr);
	server.sin_port = htons(atoi(argv[2]));
	rounds = atoi(argv[3]);
	pthread_t thread;
	pthread_create(&thread, 0, receive, 0);
	alarm(50);
	for (int i = 1; i <= rounds; i++) {
		int s = socket(AF_INET, SOCK_DGRAM, 0);
		copy = dup(s);
		atomic_store(&sent, i);
		for (volatile int spin = i % 50 * 20; spin > 0; spin--)
			;
		if (sendto(s, "echo", 4, 0, (void *)&server, sizeof server) != 4)
			return 3;
		while (atomic_load(&received) < i)
			usleep(100);
		close(s);
		close(copy);
	}
	printf("wrong: %d\n", wrong);
	return 0;
}
