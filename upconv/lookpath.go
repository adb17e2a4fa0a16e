package upconv

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// lookPath lists the files that execvp(3) would try to execute, leaving out those that cannot be.
// denied is true where one of those left out exists: then failure is EACCES, not ENOENT.
func lookPath(name string) (files []string, denied bool, err error) {
	if name == "" {
		return nil, false, &Error{ExitNotFound, errors.New(`"": command not found`)}
	}
	if strings.Contains(name, "/") {
		if err := executable(name); err != nil {
			return nil, false, cannotExecute(name, err)
		}
		return []string{name}, false, nil
	}
	path, ok := os.LookupEnv("PATH")
	if !ok {
		path = "/bin:/usr/bin" // execvp(3)
	}
	var first error
	for _, dir := range strings.Split(path, ":") {
		candidate := name // an empty entry is the current directory
		if dir != "" {
			candidate = dir + "/" + name
		}
		err := executable(candidate)
		switch {
		case err == nil:
			files = append(files, candidate)
		case errors.Is(err, fs.ErrPermission):
			denied = true
			if first == nil {
				first = cannotExecute(candidate, err)
			}
		}
	}
	switch {
	case len(files) > 0:
		return files, denied, nil
	case denied:
		return nil, true, first
	}
	return nil, false, &Error{ExitNotFound, fmt.Errorf("%s: command not found", name)}
}

func executable(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return &fs.PathError{Op: "exec", Path: path, Err: errIsDirectory}
	}
	// As the user that the kernel will check: the effective one.
	if err := unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS); err != nil {
		return &fs.PathError{Op: "exec", Path: path, Err: err}
	}
	return nil
}

// errIsDirectory is what execve(2) calls EACCES.
var errIsDirectory = fmt.Errorf("is a directory: %w", unix.EACCES)

// cannotExecute is the error for a command that was found, or named with a slash, and cannot be
// run.
func cannotExecute(path string, err error) error {
	if inner := errors.Unwrap(err); inner != nil {
		err = inner
	}
	if errors.Is(err, fs.ErrNotExist) {
		return &Error{ExitNotFound, fmt.Errorf("%s: %w", path, err)}
	}
	return &Error{ExitCannot, fmt.Errorf("%s: cannot execute: %w", path, err)}
}
