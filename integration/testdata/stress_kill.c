// usage: stress_kill TIMES ADDR PORT WAY
//
// A process that connects again and again is killed at a random moment, so many times. Meanwhile another one
// connects too, and each of its connections must work. WAY is where the victim connects to:
// good, the same place; or, of an address from which nothing ever comes back, hole, and timeout
// with SO_SNDTIMEO. Prints how many victims died by the signal, and exits with the witness's status.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct sockaddr_in good = {.sin_family = AF_INET}, aim;
static struct timeval timeout;

static int visit(struct sockaddr_in *sa)
{
	char buf[256];
	ssize_t n;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0) {
		perror("socket");
		return -1;
	}
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
	if (connect(fd, (struct sockaddr *)sa, sizeof *sa)) {
		perror("connect");
		return -1;
	}
	n = read(fd, buf, sizeof buf);
	close(fd);
	if (n <= 0 || memcmp(buf, "hello ", 6)) {
		fprintf(stderr, "read %zd\n", n);
		return -1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc != 5 || inet_pton(AF_INET, argv[2], &good.sin_addr) != 1)
		return 2;
	good.sin_port = htons(atoi(argv[3]));
	alarm(50);

	volatile long *visits = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (visits == MAP_FAILED)
		return 1;
	int stop[2];
	if (pipe2(stop, O_CLOEXEC | O_NONBLOCK))
		return 1;
	pid_t witness = fork();
	if (witness == 0) {
		char c;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(stop[1]);
		while (read(stop[0], &c, 1) < 0) { // until the end
			if (visit(&good))
				_exit(1);
			visits[0]++;
		}
		_exit(0);
	}

	aim = good;
	if (strcmp(argv[4], "good"))
		aim.sin_addr.s_addr = htonl(ntohl(good.sin_addr.s_addr) + 1);
	if (!strcmp(argv[4], "timeout"))
		timeout.tv_sec = 40;
	srandom(1);
	int killed = 0, status;
	for (int i = 0; i < atoi(argv[1]); i++) {
		visits[1] = 0;
		pid_t victim = fork();
		if (victim == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			close(stop[1]);
			for (;;) {
				visits[1] = 1;
				if (visit(&aim))
					_exit(1);
			}
		}
		while (!visits[1])
			sched_yield();
		struct timespec moment = {.tv_nsec = random() % 1500000};
		nanosleep(&moment, NULL);
		kill(victim, SIGKILL);
		if (waitpid(victim, &status, 0) != victim)
			return 1;
		if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
			killed++;
	}
	// The witness lives, and works on.
	for (long seen = visits[0]; visits[0] < seen + 20 && waitpid(witness, &status, WNOHANG) == 0;)
		sched_yield();
	close(stop[1]);
	if (waitpid(witness, &status, 0) == witness && !(WIFEXITED(status) && WEXITSTATUS(status) == 0))
		return 1;
	printf("%d\n", killed);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
