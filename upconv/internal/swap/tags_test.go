package swap

import "testing"

// TestHasManyTags reads /proc/cgroups where net_cls and net_prio cgroups are mounted or not, and
// have children or not.
func TestHasManyTags(t *testing.T) {
	const head = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t3\t1\n"
	for text, want := range map[string]bool{
		head: false,
		head + "net_cls\t10\t1\t1\nnet_prio\t11\t1\t1\n": false,
		head + "net_cls\t10\t1\t1\nnet_prio\t0\t77\t1\n": false,
		head + "net_cls\t10\t2\t1\nnet_prio\t0\t77\t1\n": true,
		head + "net_cls\t10\t1\t1\nnet_prio\t10\t12\t1":  true,
		head + "net_cls\t10":                             true,
		head + "net_cls\t0\t10\t1\nnet_prio\t0\t10\t1\n": false,
	} {
		if got := hasManyTags([]byte(text)); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
