// Package seccompx is seccomp for Go: it assembles filters, installs them, and supervises the
// system calls that they hand over.
//
// A [Filter] says in words what is to happen with which system call. [Filter.Assemble] makes the
// [Program] of it that the kernel runs, which prints as a listing. [Install] puts a thread under
// it, for good and with everything the thread starts. Calls for which the filter says [UserNotify]
// stop, and come out of the [Listener]:
//
//	filter := seccompx.Filter{Rules: []seccompx.Rule{{
//		Syscalls: []string{"connect"},
//		When:     []seccompx.Cond{seccompx.Arg(2).Low32().AtLeast(16)},
//		Do:       seccompx.UserNotify,
//	}}}
//	program, err := filter.Assemble()
//	...
//	seccompx.OnOwnThread(func() {
//		listener, err = seccompx.Install(program, seccompx.InstallOptions{NoNewPrivs: true, Listener: true})
//		...
//		err = cmd.Start()
//	})
//	...
//	var n seccompx.Notification
//	for listener.Receive(&n) == nil {
//		err := listener.Continue(n.ID)
//		...
//	}
//
// The supervisor answers with a value or an errno ([Listener.Respond]), lets the kernel make the
// call after all ([Listener.Continue]), or puts one of its own descriptors into the target's table
// ([Listener.AddFD]): a file the target cannot open, a socket it cannot make.
//
// What the running kernel can do is tried by each [Feature]'s Probe. Errors are told apart with
// errors.Is.
//
// # Limits of a filter
//
// It sees numbers: architecture, system call, six arguments; never what a pointer points to. A
// supervisor that reads the target's memory has to allow for other threads that write to it, so
// only what the supervisor itself does with its copy is certain (seccomp_unotify(2), "Caveats").
//
// # Sources
//
// seccomp(2), seccomp_unotify(2), linux/seccomp.h, linux/audit.h, and the kernel's
// Documentation/userspace-api/seccomp_filter.rst.
package seccompx
