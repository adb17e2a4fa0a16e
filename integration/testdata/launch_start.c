// Prepares itself as its arguments say and then runs two commands one after the other, each as a child
// that is given the very same. Usage: launch_start STEP... -- CMD1 ARG... --! CMD2 ARG...
// An argument @@X stands for X, so that it can be empty. It prints the exit status of each.
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char *env[4096];
static int envs;
static const char *argv0;

#define MUST(call) do { if ((call) < 0) err(120, "%s", #call); } while (0)

static char *arg(char *s) { return strncmp(s, "@@", 2) ? s : s + 2; }

int main(int argc, char **argv) {
	int i = 1, pty = -1, report;
	unsigned long ignored = 0;

	for (; environ[envs]; envs++)
		env[envs] = environ[envs];
	// The exit statuses go here, out of the way of all that is being tested, and not to the children.
	MUST(report = fcntl(1, F_DUPFD_CLOEXEC, 700));

#define NEXT (i + 1 < argc ? argv[++i] : (errx(120, "%s: no argument", argv[i]), ""))
	for (; i < argc && strcmp(argv[i], "--"); i++) {
		char *step = argv[i];
		if (!strcmp(step, "ignore")) {
			ignored |= 1UL << (atoi(NEXT) - 1); // in the child: this process waits for children
		} else if (!strcmp(step, "block")) {
			unsigned long mask = 1UL << (atoi(NEXT) - 1);
			MUST(syscall(SYS_rt_sigprocmask, SIG_BLOCK, &mask, NULL, 8));
		} else if (!strcmp(step, "rlimit")) {
			int which = atoi(NEXT);
			struct rlimit limit;
			limit.rlim_cur = strtoul(NEXT, NULL, 0);
			limit.rlim_max = strtoul(NEXT, NULL, 0);
			MUST(setrlimit(which, &limit));
		} else if (!strcmp(step, "close")) {
			close(atoi(NEXT));
		} else if (!strcmp(step, "open")) { // NUMBER FLAGS PATH
			int number = atoi(NEXT), flags = strtol(NEXT, NULL, 0), fd;
			MUST(fd = open(NEXT, flags, 0666));
			if (fd != number) {
				MUST(dup3(fd, number, flags & O_CLOEXEC));
				close(fd);
			}
		} else if (!strcmp(step, "pipe")) { // NUMBER NUMBER
			int ends[2], r = atoi(NEXT), w = atoi(NEXT);
			MUST(pipe(ends));
			MUST(fcntl(ends[0], F_DUPFD, 800));
			MUST(fcntl(ends[1], F_DUPFD, 801));
			close(ends[0]);
			close(ends[1]);
			MUST(dup2(800, r));
			MUST(dup2(801, w));
			close(800);
			close(801);
		} else if (!strcmp(step, "cloexec")) {
			MUST(fcntl(atoi(NEXT), F_SETFD, FD_CLOEXEC));
		} else if (!strcmp(step, "nonblock")) {
			int fd = atoi(NEXT);
			MUST(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK));
		} else if (!strcmp(step, "chdir")) {
			MUST(chdir(NEXT));
		} else if (!strcmp(step, "rmdir")) {
			MUST(rmdir(NEXT));
		} else if (!strcmp(step, "chmod")) {
			int mode = strtol(NEXT, NULL, 8);
			MUST(chmod(NEXT, mode));
		} else if (!strcmp(step, "umask")) {
			umask(strtol(NEXT, NULL, 8));
		} else if (!strcmp(step, "emptyenv")) {
			envs = 0;
		} else if (!strcmp(step, "env")) {
			env[envs++] = arg(NEXT);
		} else if (!strcmp(step, "argv0")) {
			argv0 = arg(NEXT);
		} else if (!strcmp(step, "nice")) {
			MUST(setpriority(PRIO_PROCESS, 0, atoi(NEXT)));
		} else if (!strcmp(step, "batch")) {
			struct sched_param param = {0};
			MUST(sched_setscheduler(0, SCHED_BATCH, &param));
		} else if (!strcmp(step, "oom")) {
			int fd;
			char *value = NEXT;
			MUST(fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
			MUST(write(fd, value, strlen(value)));
			close(fd);
		} else if (!strcmp(step, "cpu")) {
			cpu_set_t set;
			CPU_ZERO(&set);
			CPU_SET(atoi(NEXT), &set);
			MUST(sched_setaffinity(0, sizeof set, &set));
		} else if (!strcmp(step, "personality")) {
			MUST(personality(strtol(NEXT, NULL, 0)));
		} else if (!strcmp(step, "timerslack")) {
			MUST(prctl(PR_SET_TIMERSLACK, strtol(NEXT, NULL, 0)));
		} else if (!strcmp(step, "ioprio")) {
			MUST(syscall(SYS_ioprio_set, 1, 0, strtol(NEXT, NULL, 0)));
		} else if (!strcmp(step, "nothp")) {
			MUST(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
		} else if (!strcmp(step, "nonewprivs")) {
			MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
		} else if (!strcmp(step, "groups")) {
			gid_t list[2];
			list[0] = atoi(NEXT);
			list[1] = atoi(NEXT);
			MUST(setgroups(2, list));
		} else if (!strcmp(step, "user")) {
			int id = atoi(NEXT);
			MUST(setresgid(id, id, id));
			MUST(setresuid(id, id, id));
			MUST(prctl(PR_SET_DUMPABLE, 1)); // as after execve(2)
		} else if (!strcmp(step, "setsid")) {
			MUST(setsid());
		} else if (!strcmp(step, "setpgrp")) {
			MUST(setpgid(0, 0));
		} else if (!strcmp(step, "pty")) { // a session with a controlling terminal, in its foreground
			int slave;
			MUST(setsid());
			MUST(pty = open("/dev/ptmx", O_RDWR | O_CLOEXEC | O_NOCTTY));
			MUST(fcntl(pty, F_DUPFD_CLOEXEC, 702));
			close(pty);
			pty = 702;
			MUST(grantpt(pty));
			MUST(unlockpt(pty));
			MUST(slave = open(ptsname(pty), O_RDWR | O_CLOEXEC));
			MUST(ioctl(slave, TIOCSCTTY, 0));
			for (int fd = 0; fd < 3; fd++)
				MUST(dup2(slave, fd));
			close(slave);
		} else
			errx(120, "%s: no such step", step);
	}
	env[envs] = NULL;
	while (i < argc) {
		char *command[4096];
		int n = 0, status, saved = i;
		for (i++; i < argc && strcmp(argv[i], "--!"); i++)
			command[n++] = arg(argv[i]);
		command[n] = NULL;
		if (n == 0)
			errx(120, "argument %d: no command", saved);
		char *file = command[0];
		if (argv0 && argv[saved][2]) // of the second
			command[0] = (char *)argv0;
		pid_t pid = fork();
		if (pid == 0) {
			struct { void *handler; unsigned long flags; void *restorer; unsigned long mask; } ignore = {SIG_IGN, 0, 0, 0};
			for (int sig = 1; sig <= 64; sig++)
				if (ignored & 1UL << (sig - 1))
					MUST(syscall(SYS_rt_sigaction, sig, &ignore, NULL, 8));
			execve(file, command, env);
			_exit(121);
		}
		MUST(pid);
		MUST(waitpid(pid, &status, 0));
		dprintf(report, "%d\n", WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status));
	}
	return 0;
}
