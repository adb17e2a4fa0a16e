// launch_signals count [default N]... : handles every signal and writes "got N" for each one it gets; "ready PID" at
// first. It ends with status 5 at the end of its standard input, if that is a pipe.
// launch_signals die N: ends by signal N. launch_signals mask: writes "got N" for what is pending.
#define _GNU_SOURCE
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void got(int sig) {
	char line[] = "got 00\n";
	line[4] = '0' + sig / 10;
	line[5] = '0' + sig % 10;
	if (write(1, line, 7) != 7)
		_exit(9);
}

int main(int argc, char **argv) {
	struct sigaction sa = {.sa_handler = got};
	struct stat st;
	sigset_t none;

	setvbuf(stdout, NULL, _IONBF, 0);
	if (argc > 2 && !strcmp(argv[1], "die")) {
		int sig = atoi(argv[2]);
		struct { void *handler; unsigned long flags; void *restorer; unsigned long mask; } dfl = {0};
		unsigned long unblock = 1UL << (sig - 1);
		struct rlimit no = {0};
		setrlimit(RLIMIT_CORE, &no);
		syscall(SYS_rt_sigaction, sig, &dfl, NULL, 8);
		syscall(SYS_rt_sigprocmask, SIG_UNBLOCK, &unblock, NULL, 8);
		syscall(SYS_kill, getpid(), sig);
		for (;;)
			pause();
	}
	sigfillset(&sa.sa_mask);
	sa.sa_flags = SA_RESTART;
	for (int sig = 1; sig <= 64; sig++)
		sigaction(sig, &sa, NULL);
	for (int i = 2; i + 1 < argc; i += 2)
		signal(atoi(argv[i + 1]), SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	printf("ready %d\n", getpid());
	fstat(0, &st);
	for (;;) {
		char c;
		if (!S_ISFIFO(st.st_mode))
			pause();
		else if (read(0, &c, 1) == 0)
			return 5;
	}
}
