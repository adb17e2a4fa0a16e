// refuse CALL[,CALL...] ERRNO PROGRAM [ARG...]: starts a program under a filter that answers some calls with an errno, a number, as
// the filter of a container does. Prints nothing. CALL is a name of the table below, where some are a call with certain arguments.
//
// Compiled with PROGRAM, CALLS, ERRNO, LOW and HIGH, the executable stands for PROGRAM, and what that starts is spared: only calls are
// refused whose instruction is at an address from LOW up to HIGH, where PROGRAM alone has its text.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/ptrace.h>
#include <linux/seccomp.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#endif

#define PIDFD_GET_INFO 0xc040ff0b // linux/pidfd.h

enum { ANY, EQUAL, HAS, NOT_ZERO }; // what the low half of an argument must be

static const struct {
	const char *name;
	int nr, argument, how;
	unsigned value;
} calls[] = {
	{"bpf", SYS_bpf},
	{"bpf attach", SYS_bpf, 0, EQUAL, 17}, // BPF_RAW_TRACEPOINT_OPEN
	{"clone newuser", SYS_clone, 0, HAS, CLONE_NEWUSER},
	{"close_range", SYS_close_range},
	{"epoll_create1", SYS_epoll_create1},
	{"fchmod", SYS_fchmod},
	{"fchown", SYS_fchown},
	{"getcpu", SYS_getcpu},
	{"ioctl addfd", SYS_ioctl, 1, EQUAL, SECCOMP_IOCTL_NOTIF_ADDFD},
	{"ioctl sync wake-up", SYS_ioctl, 1, EQUAL, SECCOMP_IOCTL_NOTIF_SET_FLAGS},
	{"ioctl pidfd info", SYS_ioctl, 1, EQUAL, PIDFD_GET_INFO},
	{"ioctl socket namespace", SYS_ioctl, 1, EQUAL, SIOCGSKNS},
	{"kcmp", SYS_kcmp},
	{"pidfd_getfd", SYS_pidfd_getfd},
	{"pidfd_open", SYS_pidfd_open},
	{"pidfd_open thread", SYS_pidfd_open, 1, NOT_ZERO},
	{"prctl pdeathsig", SYS_prctl, 0, EQUAL, PR_SET_PDEATHSIG},
	{"prctl subreaper", SYS_prctl, 0, EQUAL, PR_SET_CHILD_SUBREAPER},
	{"prlimit64 of others", SYS_prlimit64, 0, NOT_ZERO},
	{"process_vm_readv", SYS_process_vm_readv},
	{"process_vm_writev", SYS_process_vm_writev},
	{"ptrace", SYS_ptrace},
	{"sched_getaffinity", SYS_sched_getaffinity},
	{"sched_setaffinity", SYS_sched_setaffinity},
	{"seccomp", SYS_seccomp},
	{"setns", SYS_setns},
	{"signalfd", SYS_signalfd4},
	{"socket netlink", SYS_socket, 0, EQUAL, AF_NETLINK},
	{"socket raw", SYS_socket, 2, EQUAL, IPPROTO_RAW},
	{"socket sock_diag", SYS_socket, 2, EQUAL, NETLINK_SOCK_DIAG},
	{"unshare", SYS_unshare},
};

// install installs the filter. Of calls that names has, separated by commas, it refuses those that the program's text makes.
static int install(char *names, int error) {
	struct sock_filter filter[200];
	unsigned short n = 0;
#ifdef PROGRAM
	filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer) + 4);
	filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 3);
	filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer));
	filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, LOW, 0, 1);
	filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, HIGH, 0, 1);
	filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
#endif
	for (char *name = strtok(names, ","); name; name = strtok(NULL, ",")) {
		size_t i = 0;
		while (i < sizeof calls / sizeof *calls && strcmp(calls[i].name, name))
			i++;
		if (i == sizeof calls / sizeof *calls || n > 190) {
			fprintf(stderr, "refuse: unknown call %s\n", name);
			return 2;
		}
		int tests = calls[i].how == ANY ? 0 : 2;
		filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
		filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[i].nr, 0, tests + 1);
		if (tests)
			filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args) + 8 * calls[i].argument);
		if (calls[i].how == EQUAL)
			filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[i].value, 0, 1);
		else if (calls[i].how == HAS)
			filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, calls[i].value, 0, 1);
		else if (calls[i].how == NOT_ZERO)
			filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0);
		filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error);
	}
	filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog program = {n, filter};
	// Privileges are to stay what they are, where that can be. prctl(2) is it since a filter around this one may refuse seccomp(2).
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0 &&
	    (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)) {
		perror("refuse: seccomp");
		return 2;
	}
	return 0;
}

int main(int argc, char **argv) {
#ifdef PROGRAM
	static char names[] = CALLS;
	const char *program = PROGRAM;
	int failed = install(names, ERRNO);
#else
	if (argc < 4)
		return 2;
	const char *program = argv[3];
	int failed = install(argv[1], atoi(argv[2]));
	argv += 3;
#endif
	if (failed)
		return failed;
	execvp(program, argv);
	perror(program);
	return 127;
}
