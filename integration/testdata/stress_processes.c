// usage: stress_processes PROCESSES AT-ONCE CLIENT [ARG...]
//
// Runs the client so many times, each in a process of its own, and prints how many exited with 0, to descriptor 3.
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	int left = atoi(argv[1]), room = atoi(argv[2]), running = 0, good = 0;
	alarm(50);
	while (left > 0 || running > 0) {
		if (left > 0 && running < room) {
			pid_t pid = fork();
			if (pid < 0) {
				perror("fork");
				return 1;
			}
			if (pid == 0) {
				execv(argv[3], argv + 3);
				_exit(127);
			}
			left--;
			running++;
			continue;
		}
		int status;
		if (wait(&status) < 0) {
			perror("wait");
			return 1;
		}
		running--;
		good += WIFEXITED(status) && WEXITSTATUS(status) == 0;
	}
	dprintf(3, "%d\n", good);
	return 0;
}
