package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/upconv/upconv/nsdial"
	"github.com/upconv/upconv/upconv/policy"
)

// Open opens a network namespace as routes and --netns name it: a name of ip-netns(8), an
// absolute path, or policy.Host for the one that the calling thread is in.
func Open(target string) (ns *nsdial.Namespace, err error) {
	switch {
	case target == policy.Host:
		return nsdial.OpenCurrent()
	case target != "" && target[0] == '/':
		ns, err = nsdial.OpenPath(target)
	default:
		ns, err = nsdial.OpenName(target)
		target = filepath.Join("/run/netns", target)
	}
	if errors.Is(err, nsdial.ErrNotNetNS) && isEmptyFile(target) {
		err = fmt.Errorf("%w but an empty file, on which ip-netns(8) has mounted it where upconv does not see that: it was made after this container, or "+
			"mount namespace, whose mounts are apart; start that later, share the mounts (docker run -v /run/netns:/run/netns:rslave), or "+
			"name the namespace by a process in it (/proc/PID/ns/net)", err)
	}
	return ns, err
}

// isEmptyFile reports whether a path is what a namespace's mount hides.
func isEmptyFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Size() == 0
}
