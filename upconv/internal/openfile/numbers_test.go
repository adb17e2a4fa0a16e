package openfile

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

func numbersUpTo(from, to int) (list []int) {
	for fd := from; fd < to; fd++ {
		list = append(list, fd)
	}
	return list
}

// TestReserveLimit checks that the supervisor is left enough numbers, whatever the command
// inherits.
func TestReserveLimit(t *testing.T) {
	for _, test := range []struct {
		name      string
		limit     uint64
		inherited []int
		want      int
		err       error
	}{
		{"usual", 1024, nil, 256, nil},
		{"unlimited", 1 << 30, numbersUpTo(3, 5000), 256, nil},
		{"small", 64, nil, 16, nil},
		{"small, low numbers inherited", 64, numbersUpTo(3, 16), 16, nil},
		{"small, one behind inherited", 48, []int{20}, 12, nil},
		{"small, too many behind inherited", 48, numbersUpTo(12, 17), 0, nil},
		{"small, inherited above the limit", 64, numbersUpTo(64, 500), 16, nil},
		{"everything inherited", 1024, numbersUpTo(3, 1024), 0, unix.EMFILE},
		{"smallest", 19, nil, 0, nil},
		{"too small", 18, nil, 0, unix.EMFILE},
		{"none", 0, nil, 0, unix.EMFILE},
	} {
		if got, err := ReserveLimit(test.limit, test.inherited); got != test.want || !errors.Is(err, test.err) {
			t.Errorf("%s: reserveLimit = %d, %v, want %d, %v", test.name, got, err, test.want, test.err)
		}
	}
}

// TestUnusedNumber checks that no number is taken that is somebody's.
func TestUnusedNumber(t *testing.T) {
	for _, test := range []struct {
		start int
		taken []int
		want  int
	}{
		{256, nil, 256}, {256, []int{256}, 257}, {256, []int{300, 258, 257, 256}, 259}, {0, nil, 3}, {0, []int{3, 5}, 4},
	} {
		if got := UnusedNumber(test.start, test.taken); got != test.want {
			t.Errorf("unusedNumber(%d, %v) = %d, want %d", test.start, test.taken, got, test.want)
		}
	}
}
