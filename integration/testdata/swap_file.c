// swap_file CASE ADDRESS PORT: what belongs to the open file and to the descriptor, and not to the socket. See swap.h.
#include "swap.h"
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>

static void flags(void) {
	for (int i = 0; i < 16; i++) {
		int fd = sock((i & 1 ? SOCK_CLOEXEC : 0) | (i & 2 ? SOCK_NONBLOCK : 0));
		if (i & 4)
			fcntl(fd, F_SETFD, fcntl(fd, F_GETFD) ^ FD_CLOEXEC); // not as it was made
		if (i & 8)
			fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) ^ O_NONBLOCK);
		printf("before: F_GETFL %o F_GETFD %d\n", fcntl(fd, F_GETFL), fcntl(fd, F_GETFD));
		int r = conn("connect", fd);
		if (r)
			wait_for(fd, POLLOUT);
		printf("after: F_GETFL %o F_GETFD %d\n", fcntl(fd, F_GETFL), fcntl(fd, F_GETFD));
		greeting(fd);
	}
	int on = 1;
	int fd = sock(0);
	ioctl(fd, FIONBIO, &on);
	ioctl(fd, FIOCLEX);
	conn("connect", fd);
	printf("by ioctl: F_GETFL %o F_GETFD %d\n", fcntl(fd, F_GETFL), fcntl(fd, F_GETFD));
}

// Who gets the signal of an O_ASYNC socket.
enum owner { PROCESS, THREAD, OTHER_THREAD, CHILD, GROUP, GROUP_BY_SETOWN, BY_IOCTL, NOBODY, N_OWNERS };
static const char *owners[] = {"process", "thread", "other thread", "child", "group", "group by F_SETOWN", "process by ioctl", "nobody"};

static pid_t other_tid;
static int other_ready[2];

// collect takes signals for as long as any come, and says which there were.
static void collect(const char *who, int sig, int fd, int until_hangup) {
	sigset_t set;
	siginfo_t info;
	sigemptyset(&set);
	sigaddset(&set, sig);
	int codes = 0, fds = 0, n = 0;
	long bands = 0;
	for (;;) {
		struct timespec patience = {0, until_hangup ? 300000000 : 0}; // what caused it has been seen already
		if (sigtimedwait(&set, &info, &patience) < 0) {
			if (errno == EINTR)
				continue;
			break;
		}
		n++;
		codes |= info.si_code > 0 && info.si_code < 30 ? 1 << info.si_code : 1 << 30;
		fds |= info.si_fd == fd ? 1 : 2;
		bands |= info.si_band;
		if (until_hangup && sig == SIGIO) // does not queue; what comes first may swallow the rest
			break;
		if (until_hangup && info.si_code == POLL_IN)
			until_hangup = 0; // the greeting, or the end of it: all that will come has come by then
	}
	if (sig == SIGIO) // says nothing of what it is about
		printf("%s: %s\n", who, n ? "SIGIO" : "nothing");
	else
		printf("%s: %s in %d out %d odd %d fd %s band %s\n", who, n ? "signals" : "nothing", !!(codes & 1 << POLL_IN), !!(codes & 1 << POLL_OUT),
			!!(codes & ~(1 << POLL_IN | 1 << POLL_OUT)), fds == 1 ? "right" : fds ? "wrong" : "none", bands & POLLIN ? "with POLLIN" : "without");
	fflush(stdout);
}

static void *other_thread(void *arg) {
	other_tid = syscall(SYS_gettid);
	if (write(other_ready[1], "x", 1) != 1)
		die("write");
	pause(); // the test takes no signals from here: they stay pending
	return NULL;
}

static void print_owner(int fd) {
	struct f_owner_ex ex = {-1, -1};
	long r = fcntl(fd, F_GETOWN_EX, &ex);
	printf("F_GETOWN_EX: %ld type %d id %s\n", r, ex.type,
		ex.pid == 0 ? "0" : ex.pid == getpid() ? "own" : ex.pid == other_tid ? "the other thread's" : ex.pid == getppid() ? "the parent's" : "another");
	printf("F_GETSIG: %d F_GETFL %o\n", fcntl(fd, F_GETSIG), fcntl(fd, F_GETFL));
}

// pending prints whether a signal is pending for another thread of this process.
static void pending_of(pid_t tid, int sig) {
	char path[64], line[128];
	snprintf(path, sizeof path, "/proc/self/task/%d/status", tid);
	FILE *f = fopen(path, "r");
	unsigned long mask = 0;
	while (f && fgets(line, sizeof line, f))
		sscanf(line, "SigPnd: %lx", &mask);
	if (f)
		fclose(f);
	printf("the other thread: %s\n", mask & 1UL << (sig - 1) ? "signals" : "nothing");
}

static void async_one(enum owner owner, int nonblock, int sig, int before) {
	printf("owner %s, %s, %s, set up %s\n", owners[owner], nonblock ? "non-blocking" : "blocking", sig == SIGIO ? "SIGIO" : "SIGRTMIN+1",
		before ? "before" : "O_ASYNC after");
	fflush(stdout);
	// In a process, and a process group, of its own.
	pid_t pid = fork();
	if (pid == 0) {
		setpgid(0, 0);
		sigset_t all;
		sigfillset(&all);
		sigdelset(&all, SIGALRM);
		sigprocmask(SIG_BLOCK, &all, NULL);
		alarm(20);
		int fd = sock(nonblock ? SOCK_NONBLOCK : 0), start[2], child_done[2];
		if (pipe(start) || pipe(child_done))
			die("pipe");
		pid_t child = -1;
		if (owner == CHILD || owner == GROUP || owner == GROUP_BY_SETOWN) {
			child = fork();
			if (child == 0) {
				char c;
				close(start[1]);
				if (read(start[0], &c, 1) == 1)
					collect("the child", sig, fd, 1);
				_exit(0);
			}
		}
		if (owner == OTHER_THREAD) {
			pthread_t thread;
			if (pipe(other_ready) || pthread_create(&thread, NULL, other_thread, NULL))
				die("thread");
			char c;
			if (read(other_ready[0], &c, 1) != 1)
				die("read");
		}
		struct f_owner_ex ex = {0};
		int own = getpid();
		switch (owner) {
		case PROCESS: fcntl(fd, F_SETOWN, getpid()); break;
		case THREAD: ex.type = F_OWNER_TID; ex.pid = syscall(SYS_gettid); fcntl(fd, F_SETOWN_EX, &ex); break;
		case OTHER_THREAD: ex.type = F_OWNER_TID; ex.pid = other_tid; fcntl(fd, F_SETOWN_EX, &ex); break;
		case CHILD: fcntl(fd, F_SETOWN, child); break;
		case GROUP: ex.type = F_OWNER_PGRP; ex.pid = getpid(); fcntl(fd, F_SETOWN_EX, &ex); break;
		case GROUP_BY_SETOWN: fcntl(fd, F_SETOWN, -getpid()); break;
		case BY_IOCTL: ioctl(fd, FIOSETOWN, &own); break;
		default: break;
		}
		if (sig != SIGIO)
			fcntl(fd, F_SETSIG, sig);
		int on = 1;
		if (before && owner == BY_IOCTL)
			ioctl(fd, FIOASYNC, &on);
		else if (before)
			fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC);
		conn("connect", fd);
		if (!before)
			fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC);
		print_owner(fd);
		wait_for(fd, POLLIN); // the greeting is there; the signal for it, too
		if (child > 0) {
			fflush(stdout);
			if (write(start[1], "x", 1) != 1)
				die("write");
			waitpid(child, NULL, 0);
		}
		if (owner == OTHER_THREAD)
			pending_of(other_tid, sig);
		if (before) // else the greeting may have come before O_ASYNC, or after
			collect("it", sig, fd, owner == PROCESS || owner == THREAD || owner == GROUP || owner == GROUP_BY_SETOWN || owner == BY_IOCTL);
		greeting(fd);
		fflush(stdout);
		_exit(0);
	}
	int status;
	waitpid(pid, &status, 0);
	printf("status %d\n", status);
}

static void async(void) {
	for (int owner = 0; owner < N_OWNERS; owner++)
		for (int nonblock = 0; nonblock < 2; nonblock++)
			for (int rt = 0; rt < 2; rt++)
				async_one(owner, nonblock, rt ? SIGRTMIN + 1 : SIGIO, 1);
	async_one(PROCESS, 0, SIGRTMIN + 1, 0);
	async_one(PROCESS, 1, SIGRTMIN + 1, 0);
}

// Numbers that refer to the same open file, before and after.
static void numbers(void) {
	for (int through = 0; through < 8; through++) {
		enum { N = 8 };
		int fd[N];
		fd[0] = sock(SOCK_NONBLOCK);
		fd[1] = dup(fd[0]);
		fd[2] = fcntl(fd[0], F_DUPFD, 100);
		fd[3] = fcntl(fd[0], F_DUPFD_CLOEXEC, 200);
		fd[4] = dup2(fd[0], 60);
		fd[5] = dup3(fd[1], 61, O_CLOEXEC);
		fd[6] = fcntl(fd[3], F_DUPFD, 900);
		fd[7] = open("/dev/null", O_RDONLY);
		dup2(fd[6], fd[7]);
		fcntl(fd[7], F_SETFD, FD_CLOEXEC);
		int another = sock(SOCK_NONBLOCK); // not one of them, however much alike
		unsigned long stranger = cookie(another);
		conn("connect", fd[through]);
		unsigned long now = cookie(fd[through]);
		for (int i = 0; i < N; i++)
			printf("through %d, number %d: cookie %s F_GETFD %d F_GETFL %o %s\n", through, i, cookie(fd[i]) == now ? "the same" : "another",
				fcntl(fd[i], F_GETFD), fcntl(fd[i], F_GETFL), syscall(SYS_kcmp, getpid(), getpid(), 0 /* KCMP_FILE */, fd[through], fd[i]) == 0 ? "the same file" : "another file");
		printf("the other socket: cookie %s\n", cookie(another) == stranger ? "as before" : "another");
		int last = fd[(through + 3) % N];
		fcntl(fd[0], F_SETFL, 0); // on one file, so on all
		printf("F_GETFL by the last: %o\n", fcntl(last, F_GETFL));
		wait_for(last, POLLIN);
		greeting(last);
		for (int i = 0; i < N; i++)
			if (fd[i] != last)
				close(fd[i]);
		ends(last);
		close(last);
		close(another);
	}
}

static void many_numbers(void) {
	enum { N = 300 };
	int fd[N];
	fd[0] = sock(0);
	for (int i = 1; i < N; i++)
		fd[i] = fcntl(fd[0], i % 3 ? F_DUPFD : F_DUPFD_CLOEXEC, i % 7 ? 0 : 700);
	conn("connect", fd[150]);
	int same = 0, cloexec = 0, connected = 0;
	for (int i = 0; i < N; i++) {
		struct sockaddr_storage ss;
		socklen_t length = sizeof ss;
		same += cookie(fd[i]) == cookie(fd[150]);
		cloexec += fcntl(fd[i], F_GETFD) == (i && i % 3 == 0 ? FD_CLOEXEC : 0);
		connected += !getpeername(fd[i], (struct sockaddr *)&ss, &length);
	}
	printf("%d numbers: the same socket %d, FD_CLOEXEC as set %d, connected %d\n", N, same, cloexec, connected);
	greeting(fd[299]);
	// When the last of them is closed the server sees the end: no copy is left anywhere.
	for (int i = 0; i < N; i++)
		close(fd[i]);
}

static void *thread_dup(void *arg) {
	return (void *)(long)dup(*(int *)arg);
}

// A number that another thread has made.
static void across_threads(void) {
	int fd = sock(0);
	pthread_t thread;
	void *copy;
	pthread_create(&thread, NULL, thread_dup, &fd);
	pthread_join(thread, &copy);
	conn("connect", (int)(long)copy);
	printf("cookie %s\n", cookie(fd) == cookie((int)(long)copy) ? "the same" : "another");
	close((int)(long)copy);
	greeting(fd);
	// The number is used again for something else, and what was there is not disturbed by that.
	int again = sock(0);
	printf("the lowest number: %s\n", again == (int)(long)copy ? "is free again" : "is taken");
}

// The socket belongs to who made it: st_uid is what ip-rule(8)'s uidrange and nftables' skuid go by.
static void owner(void) {
	static const unsigned ids[][2] = {{0, 0}, {0, 1234}, {65534, 65534}};
	for (int i = 0; i < 3; i++) {
		fflush(stdout);
		pid_t pid = fork();
		if (pid == 0) {
			if (setresgid(ids[i][1], ids[i][1], ids[i][1]) || setresuid(ids[i][0], ids[i][0], ids[i][0]))
				printf("not privileged\n"); // an ordinary user's own then
			int fd = sock(0);
			struct stat st;
			conn("connect", fd);
			fstat(fd, &st);
			printf("mode %o uid %u gid %u size %ld nlink %ld\n", st.st_mode, st.st_uid, st.st_gid, (long)st.st_size, (long)st.st_nlink);
			greeting(fd);
			fflush(stdout);
			_exit(0);
		}
		waitpid(pid, NULL, 0);
	}
	// It can be given away, too.
	int fd = sock(0);
	struct stat st;
	int r = fchown(fd, 4321, 5432);
	conn("connect", fd);
	fstat(fd, &st);
	printf("fchown: %d uid %u gid %u\n", r, st.st_uid, st.st_gid);
	char text[64] = "";
	fgetxattr(fd, "system.sockprotoname", text, sizeof text - 1);
	printf("system.sockprotoname: %s\n", text);
}

int main(int argc, char **argv) {
	destination(argv);
	const char *what = argv[1];
	if (!strcmp(what, "flags"))
		flags();
	else if (!strcmp(what, "async"))
		async();
	else if (!strcmp(what, "numbers"))
		numbers();
	else if (!strcmp(what, "many-numbers"))
		many_numbers();
	else if (!strcmp(what, "across-threads"))
		across_threads();
	else if (!strcmp(what, "owner"))
		owner();
	else
		printf("%s: no such case\n", what);
	printf("end\n");
	return 0;
}
